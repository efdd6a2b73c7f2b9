// ZeRO over units (DESIGN 3): what is gathered, used and released together. A unit is the dense part of a block, the experts
// of a block, the embedding, or the head with the final norm. Dense parameters are cut over shard x ep, a rank's experts
// over shard; both are replicated over `replicate`. Weights are gathered on the lane before use and prefetched by the caller
// one unit ahead; gradients are summed over the group of the unit in the order of its ranks, then over the replicas, while
// backward goes on. Where a group has one rank nothing is gathered or copied.
//   zero 1: masters and moments are sharded; weights and gradients whole, reduced once a step
//   zero 2: gradients too, reduced after each micro-batch
//   zero 3: weights too, gathered before use and dropped after
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/comm/comm.h"
#include "lib/comm/lane.h"
#include "lib/tensor/param.h"

namespace moe {

// The groups that a rank shares its parameters with; nullptr: it is alone.
struct UnitComms {
  Comm* dense = nullptr;
  Comm* expert = nullptr;
  Comm* replicate = nullptr;
  std::vector<ParamLayout> dense_layouts{};  // of each rank of `dense`, if some expert has copies
};

class Units {
 public:
  // The list of units of a model is derived from the names in the store. Takes the buffers of gathered weights and of
  // gradients that wait for their reduction. lane_env: what the lane's tasks compute with.
  Units(ParamStore& store, const UnitComms& comms, CommLane& lane, bool training, Env lane_env);
  ~Units();
  Units(const Units&) = delete;
  Units& operator=(const Units&) = delete;

  int embedding() const;
  int head() const;              // final norm and head; with tied embeddings the final norm alone
  int dense(int layer) const;    // everything of the block but the routed experts
  int experts(int layer) const;  // -1: none

  // Weights of the unit are in Param::weight when use() returns, and stay until release(). A prefetch starts the gather if a
  // buffer is free; it may be released without use. -1 is passed over.
  void prefetch(int unit);
  void use(int unit);
  void release(int unit);
  // Param::grad of the unit may be added to (+=) from here on, until reduce_gradients() starts its sum on the lane and takes
  // it away. `last`: of this step; then gradients are also summed over the replicas.
  void begin_gradients(int unit);
  void reduce_gradients(int unit, bool last);
  // Every reduction is done: Param::grad_shard holds the sum over all ranks that share it.
  void finish_gradients();
  // The optimizer has changed the shards: gathered weights are old.
  void weights_changed();
  // grad_shard (and whole gradients under zero 1) = 0. For a step that is dropped: AdamW leaves zeros itself.
  void clear_gradients();

  // Bytes of the buffers above the shards: gathered weights, gradients on their way, staging.
  // `store` may be one that a measuring arena made.
  static std::size_t buffer_bytes(const ParamStore& store, bool training, int num_replicas = 1);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moe
