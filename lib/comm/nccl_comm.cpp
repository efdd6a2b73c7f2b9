#include "lib/comm/nccl_comm.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/cuda_plugin.h"
#include "lib/base/error.h"
#include "lib/base/log.h"
#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/comm/patience.h"
#include "lib/comm/self_comm.h"

namespace moe {
namespace {

// For what is said and closed between the watchdog's line and the end: other ranks speak a second later.
constexpr double kEndingSeconds = 1;
// NCCL's own close has a deadline below this (kernels/nccl_comm.cu).
constexpr double kCloseSeconds = 10;

// Runs f in a thread of its own. False: it is not done after so many seconds, and is left alone.
bool done_within(double seconds, std::function<void()> f) {
  const auto done = std::make_shared<std::promise<void>>();
  std::future<void> future = done->get_future();
  std::thread([done, f = std::move(f)] {
    try {
      f();
    } catch (...) {  // it ended, which is all that is asked
    }
    done->set_value();
  }).detach();
  return future.wait_for(std::chrono::duration<double>(seconds)) == std::future_status::ready;
}

// One communicator; kept by its transfers.
class Link {
 public:
  Link(std::string name, Comm& host, Stream& stream, NcclWaits& waits)
      : name_(std::move(name)), host_(host), stream_(stream), waits_(waits), nccl_(cuda_status().plugin->comms) {
    if (host.size() > 1) open();
  }
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  // After a failure, or while something is thrown, peers may never come to their own close.
  ~Link() {
    void* const comm = std::exchange(comm_, nullptr);
    if (!comm) return;
    const bool quiet = !waits_.failed && std::uncaught_exceptions() == 0;
    done_within(kCloseSeconds, [nccl = nccl_, comm, quiet] { quiet ? nccl.close(comm) : nccl.abort(comm); });
  }

  const std::string& name() const { return name_; }
  NcclWaits& waits() { return waits_; }

  // Returns when the messages are in the stream.
  void start(const char* what, const std::vector<CudaMessage>& messages) {
    if (messages.empty()) return;
    look_until(what, peers_of(messages), [&, begun = false]() mutable {
      if (!std::exchange(begun, true)) nccl_.start(comm_, messages.data(), static_cast<int>(messages.size()));
      return nccl_.ready(comm_);
    });
  }

  // Returns when the stream has come to the mark. A failure of NCCL shows first: after one the stream may never come.
  void wait(const char* what, const std::vector<int>& peers, void* mark) {
    look_until(what, peers, [&] { return (!comm_ || nccl_.ready(comm_)) && nccl_.passed(mark); });
  }

  static std::vector<int> peers_of(const std::vector<CudaMessage>& messages) {
    std::vector<int> peers;
    for (const CudaMessage& m : messages) peers.push_back(m.peer);
    std::sort(peers.begin(), peers.end());
    peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
    return peers;
  }

 private:
  // What a rank tells the others of its group first: its number in the job, and the first one NCCL's id of the group.
  std::string greeting() {
    std::string id;
    if (host_.rank() == 0) {
      id.resize(CudaComms::kIdBytes);
      try {
        nccl_.make_id(id.data());
      } catch (const std::runtime_error& e) {
        log_error("NCCL, group " + name_ + ": " + e.what());
        id.clear();
      }
    }
    return std::to_string(waits_.job_rank) + "\n" + id;
  }

  void open() {
    const std::vector<std::string> all = all_gather(host_, "open NCCL", greeting());
    for (const std::string& text : all) job_ranks_.push_back(std::stoi(text));
    const std::string id = all[0].substr(all[0].find('\n') + 1);
    if (id.size() != CudaComms::kIdBytes)
      throw Error(Exit::kUnavailable, "NCCL, group " + name_ + ": expected an id from " + host_.name_of(0) + ", found none",
                  "use --gpu-comm staged");
    std::vector<int> others;
    for (int r = 0; r < host_.size(); ++r)
      if (r != host_.rank()) others.push_back(r);
    const Stopwatch watch;
    look_until("open NCCL", others, [&] {
      if (!comm_) comm_ = nccl_.open(id.data(), host_.rank(), host_.size(), stream_.queue());
      if (watch.seconds() > waits_.open_seconds) throw std::runtime_error("not all ranks of the group came");
      return nccl_.ready(comm_);
    });
  }

  // Looks until done() says so, under the eyes of the watchdog.
  template <class Done>
  void look_until(const char* what, const std::vector<int>& peers, Done done) {
    if (waits_.failed) throw Error(Exit::kUnavailable, std::string(what) + ", group " + name_ + ": NCCL failed before");
    struct Watched {
      Watchdog& watchdog;
      ~Watched() { watchdog.leave(); }
    };
    waits_.watchdog.enter(
        what, [this, &peers] { return missing(peers); }, [this] { end_job(); });
    const Watched watched{waits_.watchdog};
    for (int looks = 0;; ++looks) {
      try {
        const std::lock_guard lock(look_);
        if (!is_ending_ && done()) return;
      } catch (const std::runtime_error& e) {
        fail(what, e.what());
      }
      rest_between_looks(looks, true);  // the processors have little to do while a GPU computes
    }
  }

  // NCCL does not say who is late: all peers.
  std::vector<Watchdog::Missing> missing(const std::vector<int>& peers) const {
    std::vector<Watchdog::Missing> all;
    for (const int peer : peers) all.push_back({job_ranks_.at(static_cast<std::size_t>(peer)), host_.name_of(peer)});
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
    return all;
  }

  // Called by the watchdog's thread, which then ends the process. Whoever looks now finishes, if that can be; nobody looks
  // afterwards, nor at what abort() leaves behind.
  void end_job() {
    log_error(waits_.log.text());
    is_ending_ = true;
    const std::unique_lock lock(look_, std::chrono::milliseconds(100));
    done_within(kEndingSeconds, [nccl = nccl_, comm = comm_] {
      if (comm) nccl.abort(comm);
    });
  }

  [[noreturn]] void fail(const char* what, const std::string& reason) {
    waits_.failed = true;
    const std::string text = std::string(what) + ", group " + name_ + ": NCCL: " + reason;
    log_error(waits_.log.text());
    void* const comm = std::exchange(comm_, nullptr);
    if (comm && !done_within(waits_.abort_seconds, [nccl = nccl_, comm] { nccl.abort(comm); })) {
      log_error(text + "\n  hint: NCCL did not give up either; the process ends");
      std::fflush(nullptr);
      _exit(static_cast<int>(Exit::kWatchdog));
    }
    throw Error(Exit::kUnavailable, text, "NCCL_DEBUG=WARN says more; --gpu-comm staged does without NCCL");
  }

  const std::string name_;
  Comm& host_;
  Stream& stream_;
  NcclWaits& waits_;
  const CudaComms& nccl_;
  std::vector<int> job_ranks_;
  std::timed_mutex look_;  // held while NCCL is asked
  std::atomic<bool> is_ending_ = false;
  void* comm_ = nullptr;   // none in a group of one
};

class NcclTransfer : public Transfer {
 public:
  NcclTransfer(const char* what, std::shared_ptr<Link> link, std::vector<int> peers, std::uint64_t number, void* mark,
               std::shared_ptr<int> own_left)
      : what_(what),
        link_(std::move(link)),
        peers_(std::move(peers)),
        number_(number),
        mark_(mark),
        own_left_(std::move(own_left)) {}
  // Without a word: who throws away a transfer has another error to tell.
  ~NcclTransfer() override {
    try {
      if (!link_->waits().failed) wait();
    } catch (...) {
    }
  }
  void wait() override {
    if (mark_) {
      link_->wait(what_, peers_, std::exchange(mark_, nullptr));
      link_->waits().log.finished(number_);
    }
    require_matched(what_, own_left_);
  }

 private:
  const char* what_;
  std::shared_ptr<Link> link_;
  const std::vector<int> peers_;
  const std::uint64_t number_;
  void* mark_;  // behind the batch in the stream; nullptr: it is done
  std::shared_ptr<int> own_left_;
};

class NcclComm : public Comm {
 public:
  NcclComm(const std::string& name, std::unique_ptr<Comm> own, Comm& host, Stream& stream, NcclWaits& waits)
      : own_(std::move(own)),
        host_(host),
        stream_(stream),
        link_(std::make_shared<Link>(name, host, stream, waits)),
        self_([&stream](void* to, const void* from, std::size_t bytes) { stream.copy(to, from, bytes); }) {}
  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  std::string name_of(int rank) const override { return host_.name_of(rank); }

  std::unique_ptr<Transfer> start(const char* what, std::span<const SendPiece> sends,
                                  std::span<const RecvPiece> receives) override {
    const auto own_left = std::make_shared<int>(0);
    std::vector<CudaMessage> messages;
    const std::uint64_t number = link_->waits().log.started(what, link_->name(), sends, receives);
    for (const SendPiece& s : sends)
      if (s.peer == rank())
        self_.send(s, own_left, what);
      else if (s.bytes > 0)
        messages.push_back({true, s.peer, const_cast<void*>(s.data), s.bytes});
    for (const RecvPiece& r : receives)
      if (r.peer == rank())
        self_.receive(r, own_left, what);
      else if (r.bytes > 0)
        messages.push_back({false, r.peer, r.data, r.bytes});
    link_->start(what, messages);
    return std::make_unique<NcclTransfer>(what, link_, Link::peers_of(messages), number, stream_.mark(), own_left);
  }

  std::unique_ptr<Comm> split(int color, int key) override {
    std::unique_ptr<Comm> part = host_.split(color, key);
    Comm& host = *part;
    return std::make_unique<NcclComm>("part of " + link_->name(), std::move(part), host, stream_, link_->waits());
  }

 private:
  std::unique_ptr<Comm> own_;  // of a group that this one was split from
  Comm& host_;
  Stream& stream_;
  std::shared_ptr<Link> link_;  // before host_ ends
  SelfChannel self_;
};

}  // namespace

std::string why_no_nccl() {
  const CudaStatus& cuda = cuda_status();
  if (!cuda.plugin || cuda.num_devices == 0) return cuda.text;
  const char* reason = cuda.plugin->comms.why_not();
  return reason ? reason : "";
}

std::unique_ptr<Comm> make_nccl_comm(const std::string& name, Comm& host, Stream& stream, NcclWaits& waits) {
  if (const std::string reason = why_no_nccl(); !reason.empty())
    throw Error(Exit::kUnavailable, "NCCL: expected to use it, found " + reason, "use --gpu-comm staged");
  return std::make_unique<NcclComm>(name, nullptr, host, stream, waits);
}

}  // namespace moe
