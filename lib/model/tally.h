// What routers did and what losses added up to, of the micro-batches between two resets. Kernels add it up on the device,
// and nobody waits for it before pull(). Balance losses need some of it while a micro-batch is on its way: what other ranks
// counted comes over the lane. Not here: the losses themselves (router.cpp).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/comm/world.h"
#include "lib/model/config.h"
#include "lib/tensor/host_room.h"

namespace moe {

// What the router of one MoE layer did with the tokens of this rank since the last reset.
struct RoutingTally {
  std::vector<std::int64_t> counts_E;         // routed slots per expert
  std::vector<std::int64_t> coactivation_EE;  // tokens that chose both
  std::int64_t num_tokens = 0, num_dropped = 0;
  bool records = false;             // keeps the decisions too, until reset
  std::vector<std::int16_t> idx_N;  // of every token, in the order of the micro-batches, before capacity drops any
  double entropy_sum = 0;           // over tokens, of the normalised scores, in nats
  double aux = 0, seq_aux = 0, global_aux = 0,
         z = 0;  // loss terms, weighted by the micro-batch's share; known after backward
  // For balance losses: tokens of this micro-batch (which may go through in parts), and of all of the step so far; of all
  // ranks after finish_micro_batch().
  std::int64_t micro_tokens = 0, so_far_tokens = 0;
  void reset(int num_experts);
};

// Slots per expert as a balance loss has them: counts_E - before_E, nullptr: 0.
struct BalanceCounts {
  const std::int64_t *counts_E = nullptr, *before_E = nullptr;
};

// Where the kernels of one layer add up, on the device.
struct TallyRoom {
  std::span<std::int64_t> counts_E, coactivation_EE;
  double *entropy = nullptr, *aux = nullptr, *seq_aux = nullptr, *global_aux = nullptr, *z = nullptr;
  BalanceCounts micro, so_far;  // of this micro-batch, of all of the step; of all ranks
};

struct TallyMemory {
  // Of MoE layers: since the last reset; before this micro-batch; and of all ranks, if there are others.
  std::span<std::int64_t> counts_LE, before_LE, micro_LE, so_far_LE, coactivation_LEE;
  std::span<double> sums;  // the losses, then five of each layer
};
TallyMemory take_tally_memory(Arena& arena, const ModelConfig& config, int num_modules);

class Tallies {
 public:
  Tallies(const ModelConfig& config, int num_modules, const TallyMemory& memory, World& world, Stream& stream);

  std::vector<RoutingTally>& layers() { return layers_; }  // one per block; dense ones count nothing
  const TallyRoom& room(int layer) const { return rooms_[static_cast<std::size_t>(layer)]; }
  double* loss(int module) { return &memory_.sums[static_cast<std::size_t>(module + 1)]; }  // -1: the model's

  void reset();
  // layers() and losses() (=) what was added up. Waits.
  void pull();
  // Sums of the cross-entropy over counted tokens here: the model's, then each module's.
  const std::vector<double>& losses() const { return losses_; }
  // The same of the forwards since the last call. Waits.
  std::vector<double> take_losses();

  // Around the forward of a micro-batch for balance losses over all ranks; collective calls. Its backward begins with
  // wait_for_others().
  void begin_micro_batch();
  void finish_micro_batch(Stream& lane_stream);
  void wait_for_others();

 private:
  std::vector<std::int64_t> micro_counts(Stream& lane_stream);
  void share(Stream& lane_stream);

  int first_layer_, num_experts_, num_losses_;
  TallyMemory memory_;
  World& world_;
  Stream& stream_;
  std::vector<TallyRoom> rooms_;  // by block
  std::vector<RoutingTally> layers_;
  std::vector<double> losses_;
  std::vector<std::int64_t> so_far_LE_;  // of all ranks, if there are others
  HostRoom counts_room_, pairs_room_, sums_room_, shared_room_;
  CommLane::Ticket shared_ = 0;
};

}  // namespace moe
