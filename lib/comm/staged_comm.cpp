#include "lib/comm/staged_comm.h"

#include <new>
#include <utility>
#include <vector>

namespace moe {
namespace {

// Pieces of host memory that copies run from and to at full speed, kept from batch to batch.
class Staging {
 public:
  explicit Staging(const Device& device) : device_(device) {}
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging() {
    for (const Block& b : free_) device_.release_host(b.data, b.bytes);
  }

  struct Block {
    std::byte* data = nullptr;
    std::size_t bytes = 0;
  };
  Block take(std::size_t bytes) {
    for (std::size_t i = 0; i < free_.size(); ++i)
      if (free_[i].bytes >= bytes) {
        std::swap(free_[i], free_.back());
        const Block b = free_.back();
        free_.pop_back();
        return b;
      }
    const std::size_t size = bytes + bytes / 2;  // the next one is often a little larger
    Block b{static_cast<std::byte*>(device_.allocate_host(size)), size};
    if (!b.data) throw std::bad_alloc();
    return b;
  }
  void give(const Block& block) { free_.push_back(block); }

 private:
  const Device& device_;
  std::vector<Block> free_;
};

struct Arrival {
  void* to;
  const std::byte* from;
  std::size_t bytes;
};

class StagedTransfer : public Transfer {
 public:
  StagedTransfer(std::unique_ptr<Transfer> host, Stream& stream, std::shared_ptr<Staging> staging, Staging::Block block,
                 std::vector<Arrival> arrivals)
      : host_(std::move(host)),
        stream_(stream),
        staging_(std::move(staging)),
        block_(block),
        arrivals_(std::move(arrivals)) {}
  ~StagedTransfer() override {
    host_.reset();  // waits
    staging_->give(block_);
  }
  void wait() override {
    host_->wait();
    for (const Arrival& a : std::exchange(arrivals_, {})) stream_.copy(a.to, a.from, a.bytes);
    stream_.synchronize();  // before the block is given to others
  }

 private:
  std::unique_ptr<Transfer> host_;
  Stream& stream_;
  std::shared_ptr<Staging> staging_;
  Staging::Block block_;
  std::vector<Arrival> arrivals_;
};

class StagedComm : public Comm {
 public:
  StagedComm(std::unique_ptr<Comm> own, Comm& host, Stream& stream, std::shared_ptr<Staging> staging)
      : own_(std::move(own)), host_(host), stream_(stream), staging_(std::move(staging)) {}
  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  std::string name_of(int rank) const override { return host_.name_of(rank); }

  std::unique_ptr<Transfer> start(const char* what, std::span<const SendPiece> sends,
                                  std::span<const RecvPiece> receives) override {
    std::size_t bytes = 0;
    for (const SendPiece& s : sends) bytes += s.bytes;
    for (const RecvPiece& r : receives) bytes += r.bytes;
    const Staging::Block block = staging_->take(bytes);
    std::byte* next = block.data;
    std::vector<SendPiece> host_sends;
    std::vector<RecvPiece> host_receives;
    std::vector<Arrival> arrivals;
    for (const SendPiece& s : sends) {
      stream_.copy(next, s.data, s.bytes);
      host_sends.push_back({s.peer, next, s.bytes});
      next += s.bytes;
    }
    for (const RecvPiece& r : receives) {
      host_receives.push_back({r.peer, next, r.bytes});
      arrivals.push_back({r.data, next, r.bytes});
      next += r.bytes;
    }
    stream_.synchronize();
    return std::make_unique<StagedTransfer>(host_.start(what, host_sends, host_receives), stream_, staging_, block,
                                            std::move(arrivals));
  }

  std::unique_ptr<Comm> split(int color, int key) override {
    std::unique_ptr<Comm> part = host_.split(color, key);
    Comm& host = *part;
    return std::make_unique<StagedComm>(std::move(part), host, stream_, staging_);
  }

 private:
  std::unique_ptr<Comm> own_;  // of a group that this one was split from
  Comm& host_;
  Stream& stream_;
  std::shared_ptr<Staging> staging_;
};

}  // namespace

std::unique_ptr<Comm> make_staged_comm(Comm& host, Stream& stream) {
  return std::make_unique<StagedComm>(nullptr, host, stream, std::make_shared<Staging>(stream.device()));
}

}  // namespace moe
