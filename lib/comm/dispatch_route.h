// The maps of a route and how they come about from ids alone; pure functions, no messages (dispatch_plan.cpp), no rows
// (dispatch.cpp). Only dispatch*.cpp includes this. A packet is a row on its way, its entries are the experts that want it.
// Letters: P packets, N entries, B buckets, U packets that arrived at their destination, R = entries that arrived there.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/comm/dispatch_ways.h"

namespace moe {

// Packets and entries of a contiguous part.
struct PacketRange {
  std::int64_t row = 0, num_rows = 0, entry = 0, num_entries = 0;
};

struct PacketView {
  std::span<const std::int32_t> num_entries_P;
  std::span<const std::int32_t> expert_N;
  std::span<const float> gate_N;
};

// As they travel: one message per peer of 32-bit words, num_entries_P then expert_N then gate_N.
struct PacketList {
  std::vector<std::int32_t> num_entries_P, expert_N;
  std::vector<float> gate_N;

  void clear();
  // The words of `range.num_rows` packets; appended. Returns the words behind them.
  std::span<const std::int32_t> append(std::span<const std::int32_t> words, const PacketRange& range);
  PacketView view() const { return {num_entries_P, expert_N, gate_N}; }
};
inline PacketRange following(const PacketRange& r, std::int64_t num_rows, std::int64_t num_entries) {
  return {r.row + r.num_rows, num_rows, r.entry + r.num_entries, num_entries};
}
inline std::int64_t num_words(const PacketRange& range) { return range.num_rows + 2 * range.num_entries; }

// Packets of a list sorted by (bucket, place in the list): a packet that several buckets want is there several times, each
// time with the entries that belong to the bucket, in their order.
struct PacketSplit {
  std::vector<std::int64_t> psum_packets_B1, psum_entries_B1;
  std::vector<std::int32_t> packet2source_P, num_entries_P, entry2source_N;

  std::int64_t num_packets() const { return psum_packets_B1.back(); }
  std::int64_t num_entries() const { return psum_entries_B1.back(); }
  PacketRange bucket(int b) const;
  std::span<const std::int32_t> sources_of(int b) const;
};
// split (=). Entries whose expert is -1 or has bucket -1 are left out.
void split_packets(PacketView list, std::span<const std::int32_t> expert2bucket_E, int num_buckets, PacketSplit& split);
// to (=) the words of bucket b; returns where they end.
std::int32_t* write_words(const PacketSplit& split, int b, PacketView list, std::int32_t* to);

// Up to `stride` rows of each item, -1 behind the last: what permute.combine sums.
struct RowMap {
  int stride = 1;
  std::vector<std::int32_t> rows;
};

// What dispatch(), combine() and return_gates() need of one micro-batch; the way back needs no messages about messages.
// combine() keeps partial sums in one buffer: [U here | hop-2 returns of what was forwarded | returns to the source].
struct Route::Hops {
  std::int64_t num_tokens = 0, num_slots = 0;
  std::int64_t num_other_nodes = 0;             // sum over tokens of distinct real nodes other than the own
  PacketSplit out;                              // tokens -> buckets; entries are slots
  std::vector<PacketRange> arrived_S;           // hop 1, of each source, in its place among what arrived
  PacketSplit forward;                          // packets of hop 1 -> ranks of this node
  std::vector<PacketRange> own_F, forwarded_F;  // in U: of each rank of this node its own packets, then what it forwards
  std::vector<std::int32_t> row2u_R, entry2row_R;
  RowMap u2rows, arrived2sums, token2sums;

  std::int64_t num_arrived() const;  // packets of hop 1
  std::int64_t num_u() const;
  std::int64_t forward_at() const { return num_u(); }  // of the buffer of combine()
  std::int64_t out_at() const { return num_u() + forward.num_packets(); }
  std::int64_t num_sums() const { return out_at() + out.num_packets(); }
};

// Counting sort of what arrived by (local expert, order of arrival): row2u, entry2row, u2rows, num_rows, psum_rows_L1 and
// gate_R (=).
void sort_arrived(const PacketList& here, const ExpertWays& experts, Route& route, std::span<float> gate_R);
// arrived2sums and token2sums (=), when all splits and ranges are there.
void find_sums(const DispatchWays& ways, Route::Hops& hops);
// One rank alone: row2u (=) row -> token and token2sums (=) token -> rows, so that rows are copied once.
void shorten_for_one_rank(Route::Hops& hops);

}  // namespace moe
