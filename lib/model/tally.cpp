#include "lib/model/tally.h"

#include <algorithm>

#include "lib/comm/collectives.h"

namespace moe {
namespace {

enum : std::size_t { kEntropyAt, kAuxAt, kSeqAuxAt, kGlobalAuxAt, kZAt, kNumSums };  // of a layer

// Memory of the stream's device as the host sees it when the stream has come there.
template <class T>
std::span<T> to_host(Stream& stream, std::span<T> from, HostRoom& room) {
  if (stream.is_cpu()) return from;
  const std::span<T> to = room.of<T>(from.size());
  stream.copy(to.data(), from.data(), from.size_bytes());
  return to;
}

template <class T>
void zero(Stream& stream, std::span<T> memory) {
  stream.zero(memory.data(), memory.size_bytes());
}

}  // namespace

void RoutingTally::reset(int num_experts) {
  const auto E = static_cast<std::size_t>(num_experts);
  counts_E.assign(E, 0);
  coactivation_EE.assign(E * E, 0);
  idx_N.clear();
  num_tokens = num_dropped = micro_tokens = so_far_tokens = 0;
  entropy_sum = aux = seq_aux = global_aux = z = 0;
}

TallyMemory take_tally_memory(Arena& arena, const ModelConfig& c, int num_modules) {
  const std::int64_t L = c.num_moe_layers(), E = c.num_experts;
  TallyMemory m;
  for (auto* counts : {&m.counts_LE, &m.before_LE, &m.micro_LE, &m.so_far_LE}) *counts = arena.vector<std::int64_t>(L * E);
  m.coactivation_LEE = arena.vector<std::int64_t>(L * E * E);
  m.sums = arena.vector<double>(1 + num_modules + L * static_cast<std::int64_t>(kNumSums));
  return m;
}

Tallies::Tallies(const ModelConfig& c, int num_modules, const TallyMemory& memory, World& world, Stream& stream)
    : first_layer_(c.num_blocks() - c.num_moe_layers()),
      num_experts_(c.num_experts),
      num_losses_(1 + num_modules),
      memory_(memory),
      world_(world),
      stream_(stream),
      rooms_(static_cast<std::size_t>(c.num_blocks())),
      layers_(rooms_.size()),
      losses_(static_cast<std::size_t>(num_losses_)),
      so_far_LE_(memory.counts_LE.size()),
      counts_room_(stream.device()),
      pairs_room_(stream.device()),
      sums_room_(stream.device()),
      shared_room_(stream.device()) {
  const auto E = static_cast<std::size_t>(num_experts_);
  for (std::size_t i = 0; i < static_cast<std::size_t>(c.num_moe_layers()); ++i) {
    const auto of_layer = [&](std::span<std::int64_t> all, std::size_t n) { return all.subspan(i * n, n); };
    const std::span<std::int64_t> counts_E = of_layer(memory.counts_LE, E);
    double* const sums = memory.sums.subspan(static_cast<std::size_t>(num_losses_) + i * kNumSums).data();
    const bool alone = world.alone();
    rooms_[static_cast<std::size_t>(first_layer_) + i] = {
        .counts_E = counts_E,
        .coactivation_EE = of_layer(memory.coactivation_LEE, E * E),
        .entropy = sums + kEntropyAt,
        .aux = sums + kAuxAt,
        .seq_aux = sums + kSeqAuxAt,
        .global_aux = sums + kGlobalAuxAt,
        .z = sums + kZAt,
        .micro = alone ? BalanceCounts{counts_E.data(), of_layer(memory.before_LE, E).data()}
                       : BalanceCounts{of_layer(memory.micro_LE, E).data()},
        .so_far = {alone ? counts_E.data() : of_layer(memory.so_far_LE, E).data()}};
  }
}

void Tallies::reset() {
  for (std::size_t i = static_cast<std::size_t>(first_layer_); i < layers_.size(); ++i) layers_[i].reset(num_experts_);
  wait_for_others();
  std::fill(so_far_LE_.begin(), so_far_LE_.end(), 0);
  zero(stream_, memory_.counts_LE);
  zero(stream_, memory_.coactivation_LEE);
  zero(stream_, memory_.sums);
}

void Tallies::pull() {
  const auto counts_LE = to_host(stream_, memory_.counts_LE, counts_room_);
  const auto pairs_LEE = to_host(stream_, memory_.coactivation_LEE, pairs_room_);
  const auto sums = to_host(stream_, memory_.sums, sums_room_);
  stream_.synchronize();
  std::copy_n(sums.begin(), num_losses_, losses_.begin());
  const auto E = static_cast<std::size_t>(num_experts_);
  for (std::size_t i = 0; i < layers_.size() - static_cast<std::size_t>(first_layer_); ++i) {
    RoutingTally& t = layers_[static_cast<std::size_t>(first_layer_) + i];
    std::copy_n(counts_LE.begin() + static_cast<std::ptrdiff_t>(i * E), E, t.counts_E.begin());
    std::copy_n(pairs_LEE.begin() + static_cast<std::ptrdiff_t>(i * E * E), E * E, t.coactivation_EE.begin());
    const double* const s = sums.subspan(static_cast<std::size_t>(num_losses_) + i * kNumSums).data();
    t.entropy_sum = s[kEntropyAt], t.aux = s[kAuxAt], t.seq_aux = s[kSeqAuxAt], t.global_aux = s[kGlobalAuxAt],
    t.z = s[kZAt];
  }
}

std::vector<double> Tallies::take_losses() {
  const auto losses = memory_.sums.first(static_cast<std::size_t>(num_losses_));
  const auto sums = to_host(stream_, losses, sums_room_);
  stream_.synchronize();
  std::vector<double> taken(sums.begin(), sums.end());
  zero(stream_, losses);
  return taken;
}

void Tallies::begin_micro_batch() {
  wait_for_others();
  stream_.copy(memory_.before_LE.data(), memory_.counts_LE.data(), memory_.before_LE.size_bytes());
  for (RoutingTally& t : layers_) t.micro_tokens = 0;
}

// One sum over all ranks for all layers.
void Tallies::finish_micro_batch(Stream& lane_stream) {
  if (!world_.alone()) {
    shared_ = world_.lane().submit("balance counts", [this, &lane_stream] { share(lane_stream); });
    return;
  }
  for (RoutingTally& t : layers_) t.so_far_tokens += t.micro_tokens;
}

void Tallies::wait_for_others() { world_.lane().wait(shared_); }

// Slots per expert of this rank and this micro-batch, [L, E], then tokens, [L].
std::vector<std::int64_t> Tallies::micro_counts(Stream& lane_stream) {
  const std::size_t n = memory_.counts_LE.size();
  std::vector<std::int64_t> micro(n);
  const auto room = shared_room_.of<std::int64_t>(2 * n);
  lane_stream.copy(room.data(), memory_.counts_LE.data(), memory_.counts_LE.size_bytes());
  lane_stream.copy(room.data() + n, memory_.before_LE.data(), memory_.before_LE.size_bytes());
  lane_stream.synchronize();
  for (std::size_t i = 0; i < n; ++i) micro[i] = room[i] - room[n + i];
  for (std::size_t i = static_cast<std::size_t>(first_layer_); i < layers_.size(); ++i)
    micro.push_back(layers_[i].micro_tokens);
  return micro;
}

// On the lane, whose stream is done with its copies when the task is.
void Tallies::share(Stream& lane_stream) {
  const std::size_t n = memory_.counts_LE.size();
  std::vector<std::int64_t> micro = micro_counts(lane_stream);
  all_reduce_sum(world_.comm(), "balance counts", std::span(micro));
  for (std::size_t i = 0; i < n; ++i) so_far_LE_[i] += micro[i];
  for (std::size_t i = n; i < micro.size(); ++i) {
    RoutingTally& t = layers_[static_cast<std::size_t>(first_layer_) + i - n];
    t.micro_tokens = micro[i];
    t.so_far_tokens += micro[i];
  }
  const auto room = shared_room_.of<std::int64_t>(2 * n);
  std::copy_n(micro.begin(), n, room.begin());
  std::copy_n(so_far_LE_.begin(), n, room.begin() + static_cast<std::ptrdiff_t>(n));
  lane_stream.copy(memory_.micro_LE.data(), room.data(), n * sizeof(std::int64_t));
  lane_stream.copy(memory_.so_far_LE.data(), room.data() + n, n * sizeof(std::int64_t));
}

}  // namespace moe
