// Dispatcher::plan: who wants which packet, hop by hop. For each hop first the counts of packets and entries, then for each
// packet its number of entries, for each entry expert and gate; both sides keep the order, so rows travel without headers.
#include <algorithm>
#include <utility>

#include "lib/base/error.h"
#include "lib/comm/dispatch_state.h"

namespace moe {
namespace {

void expect_experts(std::span<const std::int32_t> idx_N, std::span<const float> gate_N, int top_k, int num_experts) {
  if (top_k < 1 || idx_N.size() % static_cast<std::size_t>(top_k) != 0 || idx_N.size() != gate_N.size())
    throw Error(Exit::kInternal, "dispatch: expected top_k ids and gates of each token, found " +
                                     std::to_string(idx_N.size()) + " ids, " + std::to_string(gate_N.size()) +
                                     " gates, top_k " + std::to_string(top_k));
  for (const std::int32_t e : idx_N)
    if (e < -1 || e >= num_experts)
      throw Error(Exit::kInternal, "dispatch: expected an expert below " + std::to_string(num_experts) + " or -1, found " +
                                       std::to_string(e));
}

}  // namespace

void Dispatcher::State::count_other_nodes(PacketView tokens, const ExpertWays& experts, Route::Hops& hops) {
  hops.num_other_nodes = 0;
  if (std::find(ways.is_far_R.begin(), ways.is_far_R.end(), true) == ways.is_far_R.end()) return;
  last_token_of_node.assign(ways.is_far_R.size(), -1);
  std::size_t slot = 0;
  for (std::size_t t = 0; t < tokens.num_entries_P.size(); ++t)
    for (int k = 0; k < tokens.num_entries_P[t]; ++k, ++slot) {
      const std::int32_t e = tokens.expert_N[slot], node = e < 0 ? -1 : experts.expert2other_node_E[e];
      if (node < 0 || last_token_of_node[node] == static_cast<std::int32_t>(t)) continue;
      last_token_of_node[node] = static_cast<std::int32_t>(t);
      ++hops.num_other_nodes;
    }
}

// arrived_S (=)
void Dispatcher::State::count_hop1(Route::Hops& hops) {
  using Counts = std::pair<std::int64_t, std::int64_t>;  // packets, entries
  std::vector<Counts> counts_B(num_buckets()), counts_S(ways.sources.size());
  for (int b = 0; b < num_buckets(); ++b) {
    if (ways.buckets[b].inside) continue;
    const PacketRange r = hops.out.bucket(b);
    counts_B[b] = {r.num_rows, r.num_entries};
    batch.send(ways.buckets[b].peer, &counts_B[b], 1);
  }
  for (std::size_t i = 0; i < ways.sources.size(); ++i) batch.receive(ways.sources[i], &counts_S[i], 1);
  batch.exchange_control(comm, "dispatch counts", traffic);
  PacketRange next;
  for (std::size_t i = 0; i < ways.sources.size(); ++i)
    hops.arrived_S[i] = next = following(next, counts_S[i].first, counts_S[i].second);
}

// hops.arrived_S, arrived (=)
void Dispatcher::State::exchange_hop1(PacketView tokens, Route::Hops& hops) {
  arrived.clear();
  hops.arrived_S.assign(ways.sources.size(), {});
  if (!ways.hop1) return;
  count_hop1(hops);
  words_out.resize(num_words({0, hops.out.num_packets(), 0, hops.out.num_entries()}));  // at most: sent from, so never moved
  std::int32_t* sent = words_out.data();
  for (int b = 0; b < num_buckets(); ++b) {
    if (ways.buckets[b].inside) continue;
    std::int32_t* const end = write_words(hops.out, b, tokens, sent);
    batch.send(ways.buckets[b].peer, sent, end - sent);
    sent = end;
  }
  std::int64_t num_in = 0, received = 0;
  for (const PacketRange& r : hops.arrived_S) num_in += num_words(r);
  words_in.resize(num_in);
  for (std::size_t i = 0; i < ways.sources.size(); received += num_words(hops.arrived_S[i++]))
    batch.receive(ways.sources[i], words_in.data() + received, num_words(hops.arrived_S[i]));
  batch.exchange_control(comm, "dispatch ids", traffic);
  std::span<const std::int32_t> words(words_in);
  for (const PacketRange& r : hops.arrived_S) words = arrived.append(words, r);
}

// own_F and forwarded_F (=)
void Dispatcher::State::count_hop2(Route::Hops& hops) {
  struct Counts {
    std::int64_t own_packets, own_entries, forwarded_packets, forwarded_entries;
  };
  std::vector<Counts> to_F(num_inside()), from_F(num_inside());
  for (int d = 0; d < num_inside(); ++d) {
    const PacketRange own = hops.out.bucket(ways.inside2bucket[d]), forwarded = hops.forward.bucket(d);
    to_F[d] = {own.num_rows, own.num_entries, forwarded.num_rows, forwarded.num_entries};
    if (d == ways.self_inside) continue;
    batch.send(ways.inside[d], &to_F[d], 1);
    batch.receive(ways.inside[d], &from_F[d], 1);
  }
  from_F[ways.self_inside] = to_F[ways.self_inside];
  if (ways.hop2) batch.exchange_control(comm, "dispatch counts", traffic);
  hops.own_F.assign(num_inside(), {});
  hops.forwarded_F.assign(num_inside(), {});
  PacketRange next;
  for (int f = 0; f < num_inside(); ++f) {
    hops.own_F[f] = next = following(next, from_F[f].own_packets, from_F[f].own_entries);
    hops.forwarded_F[f] = next = following(next, from_F[f].forwarded_packets, from_F[f].forwarded_entries);
  }
}

// own_F, forwarded_F, here (=)
void Dispatcher::State::exchange_hop2(PacketView tokens, Route::Hops& hops) {
  count_hop2(hops);
  std::int64_t num_in = 0;
  for (int f = 0; f < num_inside(); ++f) num_in += num_words(hops.own_F[f]) + num_words(hops.forwarded_F[f]);
  words_in.resize(num_in);
  words_out.resize(num_words(
      {0, hops.out.num_packets() + hops.forward.num_packets(), 0, hops.out.num_entries() + hops.forward.num_entries()}));
  std::int32_t *sent = words_out.data(), *received = words_in.data();
  for (int d = 0; d < num_inside(); ++d) {
    const bool self = d == ways.self_inside;
    std::int32_t* const from = self ? received : sent;
    std::int32_t* const end =
        write_words(hops.forward, d, arrived.view(), write_words(hops.out, ways.inside2bucket[d], tokens, from));
    const std::int64_t num_received = num_words(hops.own_F[d]) + num_words(hops.forwarded_F[d]);
    if (!self) batch.send(ways.inside[d], from, end - from);
    if (!self) batch.receive(ways.inside[d], received, num_received);
    if (!self) sent = end;
    received += num_received;
  }
  if (ways.hop2) batch.exchange_control(comm, "dispatch ids", traffic);
  here.clear();
  std::span<const std::int32_t> words(words_in);
  for (int f = 0; f < num_inside(); ++f) words = here.append(here.append(words, hops.own_F[f]), hops.forwarded_F[f]);
}

void Dispatcher::plan(std::span<const std::int32_t> idx_N, std::span<const float> gate_N, int top_k, Route& route,
                      std::span<float> gate_R, std::size_t map) {
  State& s = *state_;
  const ExpertWays& experts = s.maps.at(map);
  if (!s.choices[map].empty()) {
    s.choices[map][0].choose(idx_N, top_k, s.chosen_N);
    idx_N = s.chosen_N;
  }
  expect_experts(idx_N, gate_N, top_k, static_cast<int>(experts.expert2bucket_E.size()));
  if (!route.hops) route.hops = std::make_unique<Route::Hops>();
  Route::Hops& hops = *route.hops;
  hops.num_slots = static_cast<std::int64_t>(idx_N.size());
  hops.num_tokens = hops.num_slots / top_k;
  s.tokens_num_entries.assign(hops.num_tokens, top_k);
  const PacketView tokens{s.tokens_num_entries, idx_N, gate_N};
  s.count_other_nodes(tokens, experts, hops);
  split_packets(tokens, experts.expert2bucket_E, s.num_buckets(), hops.out);
  s.exchange_hop1(tokens, hops);
  split_packets(s.arrived.view(), experts.expert2inside_E, s.num_inside(), hops.forward);
  s.exchange_hop2(tokens, hops);
  sort_arrived(s.here, experts, route, gate_R);
  if (s.alone())
    shorten_for_one_rank(hops);
  else
    find_sums(s.ways, hops);
}

}  // namespace moe
