// Collectives as batches of messages. Letters: n ranks, r this rank.
#include "lib/comm/collectives.h"

#include <algorithm>

namespace moe {
namespace {

// Vectors of floats above this go by parts; below, latency counts and a tree is shorter.
constexpr std::size_t kSmallFloats = 4096;
// What goes by parts goes in slabs of so many floats at most, so that the parts of the others take little room.
constexpr std::size_t kSlabFloats = std::size_t{1} << 22;

void send(Comm& comm, const char* what, int to, std::span<const std::byte> data) {
  const SendPiece piece{to, data.data(), data.size()};
  comm.exchange(what, {&piece, 1}, {});
}

void receive(Comm& comm, const char* what, int from, std::span<std::byte> data) {
  const RecvPiece piece{from, data.data(), data.size()};
  comm.exchange(what, {}, {&piece, 1});
}

// values of rank 0 (=) all ranks' values in the order of a binomial tree; other ranks' values are partial after it.
template <class T, class Combine>
void reduce_to_first(Comm& comm, const char* what, std::span<T> values, Combine combine) {
  const int n = comm.size(), r = comm.rank();
  std::vector<T> theirs(values.size());
  for (int step = 1; step < n; step *= 2) {
    if (r & step) return send(comm, what, r - step, std::as_bytes(values));
    if (r + step >= n) continue;
    receive(comm, what, r + step, std::as_writable_bytes(std::span(theirs)));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = combine(values[i], theirs[i]);
  }
}

template <class T, class Combine>
void reduce_by_tree(Comm& comm, const char* what, std::span<T> values, Combine combine) {
  if (comm.size() == 1 || values.empty()) return;
  reduce_to_first(comm, what, values, combine);
  broadcast(comm, what, std::as_writable_bytes(values), 0);
}

std::span<float> part_of(std::span<float> values, int p, int n) {
  const auto begin = values.size() * static_cast<std::size_t>(p) / static_cast<std::size_t>(n);
  const auto end = values.size() * static_cast<std::size_t>(p + 1) / static_cast<std::size_t>(n);
  return values.subspan(begin, end - begin);
}

// mine (=) mine of rank 0 + mine of rank 1 + ...; theirs: n parts of the size of mine, that of this rank not filled.
void sum_in_rank_order(std::span<float> mine, std::span<float> theirs, int rank, int n) {
  const std::size_t size = mine.size();
  std::copy(mine.begin(), mine.end(), theirs.begin() + static_cast<std::ptrdiff_t>(size * static_cast<std::size_t>(rank)));
  std::copy_n(theirs.begin(), size, mine.begin());
  for (int p = 1; p < n; ++p) {
    const float* part = theirs.data() + size * static_cast<std::size_t>(p);
    for (std::size_t i = 0; i < size; ++i) mine[i] += part[i];
  }
}

// Part p goes to rank p, which sums it and gives the sum to all.
void reduce_by_parts(Comm& comm, const char* what, std::span<float> values) {
  const int n = comm.size(), r = comm.rank();
  const std::span<float> mine = part_of(values, r, n);
  std::vector<float> theirs(mine.size() * static_cast<std::size_t>(n));
  std::vector<SendPiece> parts, sums;
  std::vector<RecvPiece> of_mine, of_others;
  for (int p = 0; p < n; ++p) {
    if (p == r) continue;
    const std::span<float> part = part_of(values, p, n);
    parts.push_back({p, part.data(), part.size_bytes()});
    of_mine.push_back({p, theirs.data() + mine.size() * static_cast<std::size_t>(p), mine.size_bytes()});
    sums.push_back({p, mine.data(), mine.size_bytes()});
    of_others.push_back({p, part.data(), part.size_bytes()});
  }
  comm.exchange(what, parts, of_mine);
  sum_in_rank_order(mine, theirs, r, n);
  comm.exchange(what, sums, of_others);
}

constexpr auto kPlus = [](auto a, auto b) { return a + b; };

}  // namespace

// In round k every rank hears of 2^k more ranks (dissemination).
void barrier(Comm& comm, const char* what) {
  const int n = comm.size(), r = comm.rank();
  const std::byte token{1};
  std::byte seen{};
  for (int step = 1; step < n; step *= 2) {
    const SendPiece to{(r + step) % n, &token, 1};
    const RecvPiece from{(r - step % n + n) % n, &seen, 1};
    comm.exchange(what, {&to, 1}, {&from, 1});
  }
}

// A binomial tree over the distance from the root: who has the data gives it to the rank at distance + step.
void broadcast(Comm& comm, const char* what, std::span<std::byte> data, int from) {
  const int n = comm.size(), distance = (comm.rank() - from + n) % n;
  int step = 1;
  while (step < n) step *= 2;
  for (step /= 2; step >= 1; step /= 2) {
    if (distance % (2 * step) == 0 && distance + step < n) send(comm, what, (distance + step + from) % n, data);
    if (distance % (2 * step) == step) receive(comm, what, (distance - step + from) % n, data);
  }
}

std::vector<std::string> all_gather(Comm& comm, const char* what, const std::string& mine) {
  const auto n = static_cast<std::size_t>(comm.size());
  const std::uint64_t my_length = mine.size();
  std::vector<std::uint64_t> lengths(n);
  std::vector<std::string> all(n);
  std::vector<SendPiece> sends;
  std::vector<RecvPiece> receives;
  for (std::size_t p = 0; p < n; ++p) {
    sends.push_back({static_cast<int>(p), &my_length, sizeof my_length});
    receives.push_back({static_cast<int>(p), &lengths[p], sizeof lengths[p]});
  }
  comm.exchange(what, sends, receives);
  for (std::size_t p = 0; p < n; ++p) {
    all[p].resize(lengths[p]);
    sends[p] = {static_cast<int>(p), mine.data(), mine.size()};
    receives[p] = {static_cast<int>(p), all[p].data(), all[p].size()};
  }
  comm.exchange(what, sends, receives);
  return all;
}

void all_reduce_sum(Comm& comm, const char* what, std::span<double> values) { reduce_by_tree(comm, what, values, kPlus); }

void all_reduce_sum(Comm& comm, const char* what, std::span<std::int64_t> values) {
  reduce_by_tree(comm, what, values, kPlus);
}

void all_reduce_max(Comm& comm, const char* what, std::span<std::int64_t> values) {
  reduce_by_tree(comm, what, values, [](std::int64_t a, std::int64_t b) { return std::max(a, b); });
}

void all_reduce_sum(Comm& comm, const char* what, std::span<float> values) {
  if (comm.size() == 1) return;
  if (values.size() <= kSmallFloats) return reduce_by_tree(comm, what, values, kPlus);
  for (std::size_t done = 0; done < values.size(); done += kSlabFloats)
    reduce_by_parts(comm, what, values.subspan(done, std::min(kSlabFloats, values.size() - done)));
}

}  // namespace moe
