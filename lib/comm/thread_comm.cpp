#include "lib/comm/thread_comm.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "lib/base/error.h"

namespace moe {
namespace {

// One side of a message that waits for the other.
struct Offer {
  const void* from = nullptr;
  void* to = nullptr;
  std::size_t bytes = 0;
  std::shared_ptr<int> left;  // of the batch: pieces not yet moved
};

// What all ranks of a job share. A channel is (group, sender, receiver), ranks of the whole job.
struct Job {
  using Channel = std::tuple<int, int, int>;
  std::mutex mutex;
  std::condition_variable moved;
  std::map<Channel, std::deque<Offer>> sends, receives;
  bool broken = false;
  std::map<std::tuple<int, int, int>, int> group_ids;  // (parent group, split number, color) -> group
  int num_groups = 1;

  void fail_if_broken() const {
    if (broken) throw Error(Exit::kInternal, "another rank failed");
  }
  // From here on no message moves and every call throws.
  void break_up() {
    broken = true;
    moved.notify_all();
  }
};

class ThreadTransfer : public Transfer {
 public:
  ThreadTransfer(std::shared_ptr<Job> job, std::shared_ptr<int> left) : job_(std::move(job)), left_(std::move(left)) {}
  ~ThreadTransfer() override {
    std::unique_lock lock(job_->mutex);
    job_->moved.wait(lock, [&] { return *left_ == 0 || job_->broken; });
  }
  void wait() override {
    std::unique_lock lock(job_->mutex);
    job_->moved.wait(lock, [&] { return *left_ == 0 || job_->broken; });
    if (*left_ != 0) job_->fail_if_broken();
  }

 private:
  std::shared_ptr<Job> job_;
  std::shared_ptr<int> left_;
};

class ThreadComm : public Comm {
 public:
  ThreadComm(std::shared_ptr<Job> job, int group, std::vector<int> members, int rank)
      : job_(std::move(job)), group_(group), members_(std::move(members)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  std::string name_of(int rank) const override {
    return "rank " + std::to_string(members_[static_cast<std::size_t>(rank)]) + " (thread)";
  }

  std::unique_ptr<Transfer> start(const char* what, std::span<const SendPiece> sends,
                                  std::span<const RecvPiece> receives) override {
    auto left = std::make_shared<int>(0);
    std::unique_lock lock(job_->mutex);
    job_->fail_if_broken();
    for (const SendPiece& s : sends)
      if (s.bytes > 0) offer(what, rank_, s.peer, {s.data, nullptr, s.bytes, left});
    for (const RecvPiece& r : receives)
      if (r.bytes > 0) offer(what, r.peer, rank_, {nullptr, r.data, r.bytes, left});
    job_->moved.notify_all();
    return std::make_unique<ThreadTransfer>(job_, std::move(left));
  }

  std::unique_ptr<Comm> split(int color, int key) override {
    struct Mine {
      int color, key;
    } mine{color, key};
    std::vector<Mine> all(static_cast<std::size_t>(size()));
    std::vector<SendPiece> sends;
    std::vector<RecvPiece> receives;
    for (int r = 0; r < size(); ++r) {
      sends.push_back({r, &mine, sizeof mine});
      receives.push_back({r, &all[static_cast<std::size_t>(r)], sizeof mine});
    }
    exchange("split", sends, receives);
    std::vector<std::pair<int, int>> order;  // (key, rank here) of my color
    for (int r = 0; r < size(); ++r)
      if (all[static_cast<std::size_t>(r)].color == color) order.push_back({all[static_cast<std::size_t>(r)].key, r});
    std::sort(order.begin(), order.end());
    std::vector<int> members;
    int place = 0;
    for (const auto& [k, r] : order) {
      if (r == rank_) place = static_cast<int>(members.size());
      members.push_back(members_[static_cast<std::size_t>(r)]);
    }
    const std::lock_guard lock(job_->mutex);
    const auto [id, fresh] = job_->group_ids.try_emplace({group_, num_splits_++, color}, job_->num_groups);
    if (fresh) ++job_->num_groups;
    return std::make_unique<ThreadComm>(job_, id->second, std::move(members), place);
  }

 private:
  // Under the mutex: moves the bytes if the other side is there already, else leaves the offer.
  void offer(const char* what, int from, int to, Offer mine) {
    const Job::Channel channel{group_, members_.at(static_cast<std::size_t>(from)),
                               members_.at(static_cast<std::size_t>(to))};
    const bool sending = mine.from != nullptr;
    std::deque<Offer>& others = sending ? job_->receives[channel] : job_->sends[channel];
    ++*mine.left;
    if (others.empty()) {
      (sending ? job_->sends : job_->receives)[channel].push_back(std::move(mine));
      return;
    }
    const Offer other = std::move(others.front());
    others.pop_front();
    if (other.bytes != mine.bytes) {
      job_->break_up();  // before memory of this batch's other pieces goes away
      throw Error(Exit::kInternal, std::string(what) + ": " + name_of(to) + " expected another number of bytes from " +
                                       name_of(from) + ", found " + std::to_string(sending ? mine.bytes : other.bytes) +
                                       " sent, " + std::to_string(sending ? other.bytes : mine.bytes) + " wanted");
    }
    std::memcpy(sending ? other.to : mine.to, sending ? mine.from : other.from, mine.bytes);
    --*mine.left;
    --*other.left;
  }

  std::shared_ptr<Job> job_;
  int group_;
  std::vector<int> members_;  // ranks of the whole job
  int rank_, num_splits_ = 0;
};

}  // namespace

void run_thread_ranks(int num_ranks, const std::function<void(std::unique_ptr<Comm>)>& body) {
  const auto job = std::make_shared<Job>();
  std::vector<int> members(static_cast<std::size_t>(num_ranks));
  for (int r = 0; r < num_ranks; ++r) members[static_cast<std::size_t>(r)] = r;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (int r = 0; r < num_ranks; ++r)
    threads.emplace_back([&, r] {
      try {
        body(std::make_unique<ThreadComm>(job, 0, members, r));
      } catch (...) {
        const std::lock_guard lock(job->mutex);
        if (!first) first = std::current_exception();
        job->break_up();
      }
    });
  for (std::thread& t : threads) t.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace moe
