#include "lib/comm/self_comm.h"

#include <cstring>
#include <utility>

#include "lib/base/error.h"

namespace moe {
namespace {

class SelfTransfer : public Transfer {
 public:
  SelfTransfer(const char* what, std::shared_ptr<int> left) : what_(what), left_(std::move(left)) {}
  void wait() override { require_matched(what_, left_); }

 private:
  const char* what_;
  std::shared_ptr<int> left_;
};

class SelfComm : public Comm {
 public:
  explicit SelfComm(std::string host) : host_(std::move(host)) {}
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string name_of(int) const override { return "rank 0 (host " + host_ + ")"; }

  std::unique_ptr<Transfer> start(const char* what, std::span<const SendPiece> sends,
                                  std::span<const RecvPiece> receives) override {
    auto left = std::make_shared<int>(0);
    for (const SendPiece& piece : sends) channel_.send(piece, left, what);
    for (const RecvPiece& piece : receives) channel_.receive(piece, left, what);
    return std::make_unique<SelfTransfer>(what, std::move(left));
  }
  std::unique_ptr<Comm> split(int, int) override { return make_self_comm(host_); }

 private:
  std::string host_;
  SelfChannel channel_;
};

}  // namespace

void SelfChannel::send(const SendPiece& piece, const std::shared_ptr<int>& left, const char* what) {
  if (piece.bytes == 0) return;
  ++*left;
  sends_.push_back({piece.data, nullptr, piece.bytes, left});
  match(what);
}

void SelfChannel::receive(const RecvPiece& piece, const std::shared_ptr<int>& left, const char* what) {
  if (piece.bytes == 0) return;
  ++*left;
  receives_.push_back({nullptr, piece.data, piece.bytes, left});
  match(what);
}

void SelfChannel::match(const char* what) {
  if (sends_.empty() || receives_.empty()) return;
  const Side from = std::move(sends_.front()), to = std::move(receives_.front());
  sends_.pop_front();
  receives_.pop_front();
  if (from.bytes != to.bytes)
    throw Error(Exit::kInternal, std::string(what) + ": own message: expected " + std::to_string(to.bytes) +
                                     " bytes, found " + std::to_string(from.bytes));
  if (copy_)
    copy_(to.to, from.from, from.bytes);
  else
    std::memmove(to.to, from.from, from.bytes);
  --*from.left;
  --*to.left;
}

void require_matched(const char* what, const std::shared_ptr<int>& left) {
  if (*left != 0)
    throw Error(Exit::kInternal, std::string(what) + ": own message: expected both sides, found " + std::to_string(*left) +
                                     " without the other");
}

std::unique_ptr<Comm> make_self_comm(const std::string& host) { return std::make_unique<SelfComm>(host); }

}  // namespace moe
