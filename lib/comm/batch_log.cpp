#include "lib/comm/batch_log.h"

#include <cstdio>
#include <map>

#include "lib/base/byte_size.h"

namespace moe {

template <class Pieces>
BatchLog::Flow BatchLog::flow_of(const Pieces& pieces) {
  std::map<int, std::size_t> peer2bytes;
  for (const auto& piece : pieces)
    if (piece.bytes > 0) peer2bytes[piece.peer] += piece.bytes;
  Flow flow;
  for (const auto& [peer, bytes] : peer2bytes) {
    flow.bytes += bytes;
    ++flow.num_peers;
    if (bytes > flow.most_bytes) flow.most_bytes = bytes, flow.most_peer = peer;
  }
  return flow;
}

// "3.00 KiB to 2 ranks (most: 2.00 KiB, 1)", "nothing"
std::string BatchLog::Flow::text(const char* preposition) const {
  if (num_peers == 0) return "nothing";
  return bytes_text(static_cast<double>(bytes)) + " " + preposition + " " + std::to_string(num_peers) +
         (num_peers == 1 ? " rank" : " ranks") + " (most: " + bytes_text(static_cast<double>(most_bytes)) + ", " +
         std::to_string(most_peer) + ")";
}

std::string BatchLog::line(const Batch& b) {
  const std::chrono::duration<double> seconds = (b.is_done ? b.finished : Clock::now()) - b.started;
  char state[64];
  std::snprintf(state, sizeof state, b.is_done ? "done after %.3f s" : "NOT DONE after %.3f s", seconds.count());
  return "\n  #" + std::to_string(b.number) + " " + b.what + " (" + b.group + "): sent " + b.sent.text("to") +
         ", received " + b.received.text("from") + ", " + state;
}

std::uint64_t BatchLog::started(const char* what, const std::string& group, std::span<const SendPiece> sends,
                                std::span<const RecvPiece> receives) {
  const std::lock_guard lock(mutex_);
  if (batches_.size() == kKept) batches_.pop_front();
  batches_.push_back({++num_started_, what, group, flow_of(sends), flow_of(receives), Clock::now(), {}});
  return num_started_;
}

void BatchLog::finished(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  for (Batch& b : batches_)
    if (b.number == number) b.is_done = true, b.finished = Clock::now();
}

std::string BatchLog::text() const {
  const std::lock_guard lock(mutex_);
  std::string text = "last batches of messages of this rank, of " + std::to_string(num_started_) +
                     " (ranks are those of the group; the newest is last):";
  for (const Batch& b : batches_) text += line(b);
  return text;
}

}  // namespace moe
