// A rank's messages to itself, and the group of one rank that has no others.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "lib/comm/comm.h"

namespace moe {

// Matches in order; a message moves when its second side comes. `left` counts the sides of a batch that still wait.
class SelfChannel {
 public:
  // How bytes move; left out: at once, in memory of the host.
  using Copy = std::function<void(void* to, const void* from, std::size_t bytes)>;
  explicit SelfChannel(Copy copy = {}) : copy_(std::move(copy)) {}
  void send(const SendPiece& piece, const std::shared_ptr<int>& left, const char* what);
  void receive(const RecvPiece& piece, const std::shared_ptr<int>& left, const char* what);

 private:
  struct Side {
    const void* from;
    void* to;
    std::size_t bytes;
    std::shared_ptr<int> left;
  };
  void match(const char* what);
  Copy copy_;
  std::deque<Side> sends_, receives_;
};

// Error(kInternal): a wait for a message to oneself whose other side was never started.
void require_matched(const char* what, const std::shared_ptr<int>& left);

std::unique_ptr<Comm> make_self_comm(const std::string& host);

}  // namespace moe
