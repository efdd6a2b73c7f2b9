// The last batches of messages of a rank, in all its groups, for the moment when one of them does not end: which it was, and
// whether its peers are ahead or behind. Written by the lane's thread, read by the watchdog's. Not here: when it is printed.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string>

#include "lib/comm/comm.h"

namespace moe {

class BatchLog {
 public:
  static constexpr std::size_t kKept = 32;

  // The number of a batch that starts now: 1, 2, ... on every rank alike as long as all call alike. `what`: a string
  // literal. Messages to the own rank are counted like others.
  std::uint64_t started(const char* what, const std::string& group, std::span<const SendPiece> sends,
                        std::span<const RecvPiece> receives);
  void finished(std::uint64_t number);
  // One line a batch, the newest last, under a heading.
  std::string text() const;

 private:
  using Clock = std::chrono::steady_clock;
  // Of one direction: bytes, and the peer that has most of them.
  struct Flow {
    std::size_t bytes = 0, most_bytes = 0;
    int num_peers = 0, most_peer = 0;
    std::string text(const char* preposition) const;
  };
  struct Batch {
    std::uint64_t number;
    const char* what;
    std::string group;
    Flow sent, received;
    Clock::time_point started, finished;
    bool is_done = false;
  };
  template <class Pieces>
  static Flow flow_of(const Pieces& pieces);
  static std::string line(const Batch& batch);

  mutable std::mutex mutex_;
  std::deque<Batch> batches_;
  std::uint64_t num_started_ = 0;
};

}  // namespace moe
