// The gradients of units on their way from where kernels add them to the shards that the optimizer reads.
//   zero 2, 3: kernels add into one of a few buffers, which is all zero whenever it is given out; its sum over the group is
//     added to the shards
//   zero 1: kernels add into the whole gradients of the store; the last reduction of a step puts the sum into the shards and
//     zeroes the other rows
// In the last reduction of a step gradients of copies of experts are summed too, then the replicas'.
// Not here: weights (unit_weights.h), the exchange itself (row_exchange.h).
#pragma once

#include <vector>

#include "lib/comm/lane.h"
#include "lib/parallel/copy_gradients.h"
#include "lib/parallel/row_exchange.h"
#include "lib/parallel/unit_list.h"
#include "lib/parallel/units.h"

namespace moe {

class UnitGradients {
 public:
  UnitGradients(ParamStore& store, const UnitList& list, const UnitBuffers& buffers, const UnitComms& comms, CommLane& lane,
                int num_replicas, Env env);

  // See Units. -1 is passed over.
  void begin(int unit);
  void reduce(int unit, bool last);
  void check_all_reduced() const;  // throws std::logic_error: a unit was begun and not reduced
  void clear();
  CommLane::Ticket last_ticket() const { return last_ticket_; }

 private:
  struct Buffer {
    UnitKind kind;
    std::byte* data;
    int unit = -1;                // that kernels add to
    CommLane::Ticket ticket = 0;  // of the reduction that reads it
  };

  bool uses_buffers(const Unit& unit) const { return unit.is_cut() && store_.layout().zero >= 2; }
  Buffer* find(int unit);
  void show(const Unit& unit, std::byte* data);
  std::vector<ReduceRows> contributions(const Unit& unit) const;
  void reduce_group(const Unit& unit, std::span<const ReduceRows> tensors) const;
  void reduce_replicas(const Unit& unit) const;
  void zero(float* data, std::int64_t n) const;

  ParamStore& store_;
  const UnitList& list_;
  std::span<float> staging_;
  UnitComms comms_;
  CopyGradients copies_;
  CommLane& lane_;
  int num_replicas_;
  Env env_;
  std::vector<Buffer> buffers_;
  CommLane::Ticket last_ticket_ = 0;
};

}  // namespace moe
