#include "lib/run/world_text.h"

#include "lib/comm/collectives.h"

namespace moe {

void broadcast_text(World& world, const char* what, std::string& text) {
  if (world.alone()) return;
  world.lane().call(what, [&] {
    std::uint64_t length = text.size();
    broadcast(world.comm(), what, std::as_writable_bytes(std::span(&length, 1)), 0);
    text.resize(length);
    broadcast(world.comm(), what, std::as_writable_bytes(std::span(text)), 0);
  });
}

std::vector<std::string> gather_texts_at_first(Comm& comm, const char* what, const std::string& mine) {
  const std::uint64_t my_length = mine.size();
  const bool is_first = comm.rank() == 0;
  const auto n = static_cast<std::size_t>(is_first ? comm.size() : 0);
  std::vector<std::uint64_t> lengths(n);
  std::vector<std::string> all(n);
  std::vector<SendPiece> send = {{0, &my_length, sizeof my_length}};
  std::vector<RecvPiece> receives;
  for (std::size_t r = 0; r < n; ++r) receives.push_back({static_cast<int>(r), &lengths[r], sizeof lengths[r]});
  comm.exchange(what, send, receives);
  for (std::size_t r = 0; r < n; ++r) {
    all[r].resize(lengths[r]);
    receives[r] = {static_cast<int>(r), all[r].data(), all[r].size()};
  }
  send[0] = {0, mine.data(), mine.size()};
  comm.exchange(what, send, receives);
  return all;
}

}  // namespace moe
