#include "lib/comm/dispatch_route.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "lib/base/error.h"

namespace moe {
namespace {

void expect_int32(std::int64_t n, const char* what) {
  if (n <= std::numeric_limits<std::int32_t>::max()) return;
  throw Error(Exit::kInternal, std::string("dispatch: expected fewer than 2^31 ") + what + ", found " + std::to_string(n),
              "use smaller micro-batches");
}

// visit(packet, entry, bucket) of every entry that has one.
template <class Visit>
void for_entries(PacketView list, std::span<const std::int32_t> expert2bucket_E, Visit visit) {
  std::size_t entry = 0;
  for (std::size_t p = 0; p < list.num_entries_P.size(); ++p)
    for (const std::size_t end = entry + static_cast<std::size_t>(list.num_entries_P[p]); entry < end; ++entry) {
      const std::int32_t e = list.expert_N[entry];
      const std::int32_t b = e < 0 ? -1 : expert2bucket_E[static_cast<std::size_t>(e)];
      if (b >= 0) visit(static_cast<std::int32_t>(p), static_cast<std::int32_t>(entry), b);
    }
}

// map (=) room for the rows of `num_items`; num_rows_of(item) says how many each will have.
template <class NumRowsOf>
void start_map(RowMap& map, std::int64_t num_items, NumRowsOf num_rows_of) {
  map.stride = 1;
  for (std::int64_t i = 0; i < num_items; ++i) map.stride = std::max(map.stride, static_cast<int>(num_rows_of(i)));
  map.rows.assign(static_cast<std::size_t>(num_items * map.stride), -1);
}

// map (+=) for each packet of bucket b its row in a buffer where the bucket begins at `at`. filled: rows an item has so far.
void add_bucket(const PacketSplit& split, int b, std::int64_t at, std::vector<std::int32_t>& filled, RowMap& map) {
  for (const std::int32_t item : split.sources_of(b))
    map.rows[std::int64_t{item} * map.stride + filled[item]++] = static_cast<std::int32_t>(at++);
}

// map (=) empty, with the stride that the packets of `split` need for num_items; at(b): where bucket b begins.
template <class At>
void find_rows(const PacketSplit& split, std::int64_t num_items, At at, RowMap& map) {
  std::vector<std::int32_t> filled(static_cast<std::size_t>(num_items));
  for (const std::int32_t item : split.packet2source_P) ++filled[item];
  start_map(map, num_items, [&](std::int64_t i) { return filled[i]; });
  std::fill(filled.begin(), filled.end(), 0);
  for (int b = 0; b + 1 < static_cast<int>(split.psum_packets_B1.size()); ++b) add_bucket(split, b, at(b), filled, map);
}

}  // namespace

void PacketList::clear() {
  num_entries_P.clear();
  expert_N.clear();
  gate_N.clear();
}

std::span<const std::int32_t> PacketList::append(std::span<const std::int32_t> words, const PacketRange& range) {
  const auto P = static_cast<std::size_t>(range.num_rows), N = static_cast<std::size_t>(range.num_entries);
  const auto counts = words.first(P), experts = words.subspan(P, N), gates = words.subspan(P + N, N);
  num_entries_P.insert(num_entries_P.end(), counts.begin(), counts.end());
  expert_N.insert(expert_N.end(), experts.begin(), experts.end());
  const std::size_t before = gate_N.size();
  gate_N.resize(before + N);
  if (N > 0) std::memcpy(gate_N.data() + before, gates.data(), gates.size_bytes());
  return words.subspan(P + 2 * N);
}

PacketRange PacketSplit::bucket(int b) const {
  return {psum_packets_B1[b], psum_packets_B1[b + 1] - psum_packets_B1[b], psum_entries_B1[b],
          psum_entries_B1[b + 1] - psum_entries_B1[b]};
}

std::span<const std::int32_t> PacketSplit::sources_of(int b) const {
  const PacketRange r = bucket(b);
  return std::span(packet2source_P).subspan(r.row, r.num_rows);
}

void split_packets(PacketView list, std::span<const std::int32_t> expert2bucket_E, int num_buckets, PacketSplit& split) {
  expect_int32(static_cast<std::int64_t>(list.expert_N.size()), "slots");
  std::vector<std::int32_t> last_packet_B(num_buckets, -1);
  split.psum_packets_B1.assign(num_buckets + 1, 0);
  split.psum_entries_B1.assign(num_buckets + 1, 0);
  for_entries(list, expert2bucket_E, [&](std::int32_t p, std::int32_t, std::int32_t b) {
    split.psum_packets_B1[b + 1] += last_packet_B[b] != p;
    ++split.psum_entries_B1[b + 1];
    last_packet_B[b] = p;
  });
  for (int b = 0; b < num_buckets; ++b) {
    split.psum_packets_B1[b + 1] += split.psum_packets_B1[b];
    split.psum_entries_B1[b + 1] += split.psum_entries_B1[b];
  }
  split.packet2source_P.resize(split.num_packets());
  split.num_entries_P.assign(split.num_packets(), 0);
  split.entry2source_N.resize(split.num_entries());
  std::vector<std::int64_t> next_packet_B = split.psum_packets_B1, next_entry_B = split.psum_entries_B1;
  std::fill(last_packet_B.begin(), last_packet_B.end(), -1);
  for_entries(list, expert2bucket_E, [&](std::int32_t p, std::int32_t entry, std::int32_t b) {
    if (last_packet_B[b] != p) split.packet2source_P[next_packet_B[b]++] = p;
    last_packet_B[b] = p;
    ++split.num_entries_P[next_packet_B[b] - 1];
    split.entry2source_N[next_entry_B[b]++] = entry;
  });
}

std::int32_t* write_words(const PacketSplit& split, int b, PacketView list, std::int32_t* to) {
  const PacketRange r = split.bucket(b);
  const auto entries = std::span(split.entry2source_N).subspan(r.entry, r.num_entries);
  to = std::copy_n(split.num_entries_P.begin() + r.row, r.num_rows, to);
  for (const std::int32_t i : entries) *to++ = list.expert_N[i];
  for (const std::int32_t i : entries) *to++ = std::bit_cast<std::int32_t>(list.gate_N[i]);
  return to;
}

std::int64_t Route::Hops::num_arrived() const {
  return arrived_S.empty() ? 0 : arrived_S.back().row + arrived_S.back().num_rows;
}
std::int64_t Route::Hops::num_u() const { return forwarded_F.back().row + forwarded_F.back().num_rows; }

void sort_arrived(const PacketList& here, const ExpertWays& experts, Route& route, std::span<float> gate_R) {
  const auto R = static_cast<std::int64_t>(here.expert_N.size());
  expect_int32(R, "rows of one rank");
  if (R > static_cast<std::int64_t>(gate_R.size()))
    throw Error(Exit::kInternal, "dispatch: expected at most " + std::to_string(gate_R.size()) + " rows on rank " +
                                     std::to_string(experts.rank) + ", found " + std::to_string(R));
  Route::Hops& hops = *route.hops;
  route.num_rows = R;
  route.psum_rows_L1.assign(experts.num_local_experts + 1, 0);
  for (const std::int32_t e : here.expert_N) {
    const std::int32_t local = experts.expert2local_E.at(static_cast<std::size_t>(e));
    if (local < 0) throw Error(Exit::kInternal, "dispatch: expert " + std::to_string(e) + " came to the wrong rank");
    ++route.psum_rows_L1[local + 1];
  }
  for (int l = 0; l < experts.num_local_experts; ++l) route.psum_rows_L1[l + 1] += route.psum_rows_L1[l];
  std::vector<std::int64_t> next_row_L = route.psum_rows_L1;
  hops.row2u_R.resize(R);
  hops.entry2row_R.resize(R);
  const auto U = static_cast<std::int64_t>(here.num_entries_P.size());
  start_map(hops.u2rows, U, [&](std::int64_t u) { return here.num_entries_P[u]; });
  std::int64_t entry = 0;
  for (std::int64_t u = 0; u < U; ++u)
    for (int i = 0; i < here.num_entries_P[u]; ++i, ++entry) {
      const auto row = static_cast<std::int32_t>(next_row_L[experts.expert2local_E[here.expert_N[entry]]]++);
      hops.row2u_R[row] = static_cast<std::int32_t>(u);
      hops.entry2row_R[entry] = row;
      hops.u2rows.rows[u * hops.u2rows.stride + i] = row;
      gate_R[row] = here.gate_N[entry];
    }
}

void find_sums(const DispatchWays& ways, Route::Hops& hops) {
  expect_int32(hops.num_sums(), "partial sums of one rank");
  const auto forward_at = [&](int d) {
    return d == ways.self_inside ? hops.forwarded_F[d].row : hops.forward_at() + hops.forward.psum_packets_B1[d];
  };
  const auto out_at = [&](int b) {
    return b == ways.self_bucket ? hops.own_F[ways.self_inside].row : hops.out_at() + hops.out.psum_packets_B1[b];
  };
  find_rows(hops.forward, hops.num_arrived(), forward_at, hops.arrived2sums);
  find_rows(hops.out, hops.num_tokens, out_at, hops.token2sums);
}

void shorten_for_one_rank(Route::Hops& hops) {
  for (std::int32_t& u : hops.row2u_R) u = hops.out.packet2source_P[u];
  const RowMap& from = hops.u2rows;
  RowMap& to = hops.token2sums;
  to.stride = from.stride;
  to.rows.assign(static_cast<std::size_t>(hops.num_tokens * to.stride), -1);
  for (std::int64_t u = 0; u < hops.num_u(); ++u)
    std::copy_n(&from.rows[u * from.stride], from.stride, &to.rows[std::int64_t{hops.out.packet2source_P[u]} * to.stride]);
}

}  // namespace moe
