// Cases of the tests of dispatch and a serial model of them, written from the words of lib/comm/dispatch.h: for every slot
// who sends its row to whom, by brute force. Shares no code with the product but ExpertMap.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "lib/comm/dispatch.h"
#include "tests/random.h"

namespace moe {

struct DispatchCase {
  std::vector<int> rank2node;
  ExpertMap map;
  int top_k = 1;
  std::vector<std::vector<std::int32_t>> idx;  // of each rank
  std::vector<std::vector<float>> gate;

  int num_ranks() const { return static_cast<int>(rank2node.size()); }
  std::int64_t num_tokens(int rank) const { return static_cast<std::int64_t>(idx[rank].size()) / top_k; }
  int num_kept(int rank, std::int64_t t) const {
    const auto first = idx[rank].begin() + t * top_k;
    return static_cast<int>(std::count_if(first, first + top_k, [](int e) { return e >= 0; }));
  }
};

enum class MapKind { kLinear, kFewExperts, kPermuted };
enum class Routing { kRandom, kDropped, kAllToOne, kAllExperts, kSomeRanksEmpty, kAllDropped, kNoTokens };

// Experts in a shuffled order; rank 0 has none where there are others, and of the others perhaps only every second has.
inline ExpertMap permuted_map(int num_experts, int num_ranks) {
  ExpertMap map;
  map.rank2experts.resize(num_ranks);
  map.expert2rank.resize(num_experts);
  map.expert2local.resize(num_experts);
  for (int i = 0; i < num_experts; ++i) {
    const int e = (i * 5 + 3) % num_experts, r = num_ranks == 1 ? 0 : 1 + (i * 2) % (num_ranks - 1);
    map.expert2rank[e] = r;
    map.expert2local[e] = static_cast<int>(map.rank2experts[r].size());
    map.rank2experts[r].push_back(e);
  }
  return map;
}

inline std::int64_t tokens_of_case(Routing routing, int rank) {
  if (routing == Routing::kNoTokens || (routing == Routing::kSomeRanksEmpty && rank % 2 == 0)) return 0;
  return rank == 1 ? 1 : 7 + 4 * rank;
}

// K distinct experts of each token (kAllToOne: one and the same), -1 for about a third of the slots of kDropped.
inline DispatchCase make_dispatch_case(const std::vector<int>& nodes, MapKind kind, Routing routing,
                                       std::uint64_t seed = 1) {
  DispatchCase c{.rank2node = nodes};
  const int ranks = c.num_ranks(), E = kind == MapKind::kFewExperts ? 3 : 12;
  c.map = kind == MapKind::kPermuted ? permuted_map(E, ranks) : linear_expert_map(E, ranks);
  c.top_k = routing == Routing::kAllExperts ? E : routing == Routing::kAllToOne ? 1 : 3;
  for (int r = 0; r < ranks; ++r) {
    std::vector<std::int32_t> idx;
    for (std::int64_t t = 0; t < tokens_of_case(routing, r); ++t) {
      const auto keys = random_ints(E, seed + 1000 * r + t, 0, 1 << 20);
      std::vector<std::int32_t> experts(E);
      for (int e = 0; e < E; ++e) experts[e] = e;
      std::sort(experts.begin(), experts.end(), [&](int a, int b) { return std::tie(keys[a], a) < std::tie(keys[b], b); });
      for (int k = 0; k < c.top_k; ++k) {
        const bool drop = routing == Routing::kAllDropped || (routing == Routing::kDropped && keys[k] % 3 == 0);
        idx.push_back(drop ? -1 : routing == Routing::kAllToOne ? E - 1 : experts[k]);
      }
    }
    c.gate.push_back(random_floats(idx.size(), seed + 77 + r));
    c.idx.push_back(std::move(idx));
  }
  return c;
}

struct ModelRow {
  int source;
  std::int64_t token;
  std::size_t slot;
  int expert;
};

// What each rank holds after dispatch and what each sends for it.
struct DispatchModel {
  std::vector<std::vector<ModelRow>> rows;
  std::vector<DispatchTraffic> dispatch, combine;
  std::vector<std::int64_t> control_bytes;

  DispatchModel(const DispatchCase& c, bool two_level, std::int64_t row_bytes)
      : rows(c.num_ranks()), dispatch(c.num_ranks()), combine(c.num_ranks()), control_bytes(c.num_ranks()) {
    place_rows(c, two_level);
    count_rows(c, two_level, row_bytes);
    count_control(c, two_level);
  }

  static std::vector<int> ranks_of(const DispatchCase& c, int node) {
    std::vector<int> ranks;
    for (int r = 0; r < c.num_ranks(); ++r)
      if (c.rank2node[r] == node) ranks.push_back(r);
    return ranks;
  }
  static int forwarder(const DispatchCase& c, bool two_level, int source, int destination) {
    if (!two_level) return c.rank2node[source] == c.rank2node[destination] ? source : destination;
    if (c.rank2node[source] == c.rank2node[destination]) return source;
    const auto here = ranks_of(c, c.rank2node[source]), there = ranks_of(c, c.rank2node[destination]);
    const auto index = std::find(here.begin(), here.end(), source) - here.begin();
    return there[index % there.size()];
  }

 private:
  // Order of arrival: by forwarder, its own rows first, then by source and token. Flat: the destination is the forwarder of
  // all rows, its own first.
  void place_rows(const DispatchCase& c, bool two_level) {
    for (int s = 0; s < c.num_ranks(); ++s)
      for (std::size_t slot = 0; slot < c.idx[s].size(); ++slot)
        if (const int e = c.idx[s][slot]; e >= 0)
          rows[c.map.expert2rank[e]].push_back({s, static_cast<std::int64_t>(slot) / c.top_k, slot, e});
    for (int d = 0; d < c.num_ranks(); ++d)
      std::sort(rows[d].begin(), rows[d].end(), [&](const ModelRow& a, const ModelRow& b) {
        const auto key = [&](const ModelRow& r) {
          const int f = two_level ? forwarder(c, true, r.source, d) : d;
          return std::tuple(c.map.expert2local[r.expert], f, r.source != f, r.source, r.slot);
        };
        return key(a) < key(b);
      });
  }

  // Each row that travels, once: (token, from, to).
  void count_rows(const DispatchCase& c, bool two_level, std::int64_t row_bytes) {
    std::set<std::tuple<int, std::int64_t, int, int>> hops;
    std::set<std::tuple<int, std::int64_t, int>> nodes;  // source, token, other node
    for (int d = 0; d < c.num_ranks(); ++d)
      for (const ModelRow& r : rows[d]) {
        const int f = forwarder(c, two_level, r.source, d);
        if (f != r.source) hops.emplace(r.source, r.token, r.source, f);
        if (f != d) hops.emplace(r.source, r.token, f, d);
        if (c.rank2node[d] != c.rank2node[r.source]) nodes.emplace(r.source, r.token, c.rank2node[d]);
      }
    const auto count = [&](DispatchTraffic& t, bool far) {
      (far ? t.inter_node_bytes : t.intra_node_bytes) += row_bytes;
      ++(far ? t.inter_node_rows : t.intra_node_rows);
    };
    for (const auto& [s, t, from, to] : hops) {
      count(dispatch[from], c.rank2node[from] != c.rank2node[to]);
      count(combine[to], c.rank2node[from] != c.rank2node[to]);
    }
    for (const auto& [s, t, node] : nodes) {
      dispatch[s].inter_node_bytes_min += row_bytes;
      combine[s].inter_node_bytes_min += row_bytes;
    }
  }

  // Counts to everyone one has to do with, then 4 bytes for each packet and 8 for each entry.
  void count_control(const DispatchCase& c, bool two_level) {
    for (int s = 0; s < c.num_ranks(); ++s) {
      const auto node = ranks_of(c, c.rank2node[s]);
      const std::set<int> all(c.rank2node.begin(), c.rank2node.end());
      control_bytes[s] = two_level ? 32 * (static_cast<std::int64_t>(node.size()) - 1) + 16 * (std::ssize(all) - 1)
                                   : 16 * (c.num_ranks() - 1);
    }
    std::set<std::tuple<int, std::int64_t, int, int>> packets;  // source, token, from, to
    for (int d = 0; d < c.num_ranks(); ++d)
      for (const ModelRow& r : rows[d]) {
        const int f = forwarder(c, two_level, r.source, d);
        for (const auto& [from, to] : {std::pair(r.source, f), std::pair(f, d)})
          if (from != to) control_bytes[from] += 8 + 4 * packets.emplace(r.source, r.token, from, to).second;
      }
  }
};

}  // namespace moe
