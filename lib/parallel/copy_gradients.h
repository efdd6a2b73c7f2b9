// Gradients of experts that several ranks hold a copy of. Each copy has the gradient of the tokens that came to it; their
// sum is taken once, by the rank that speaks for the expert (ParamLayout), in the order of the ranks, and is given to all.
// So every copy makes the same step and they stay equal, bit for bit. Where shards cut an expert differently its rows go to
// whoever has them. Not here: sums over a group that holds the same rows (row_exchange.h).
#pragma once

#include <memory>
#include <vector>

#include "lib/comm/comm.h"
#include "lib/parallel/unit_list.h"
#include "lib/tensor/param.h"

namespace moe {

class CopyGradients {
 public:
  // dense: all ranks of the replica; rank2layout: how each of them cuts the model, empty if nobody has copies.
  CopyGradients(ParamStore& store, const UnitList& list, Comm* dense, const std::vector<ParamLayout>& rank2layout, Env env);

  // Some rank has a copy of an expert of the unit: the same answer on every rank.
  bool has_copies(int unit) const { return !units_.empty() && units_[static_cast<std::size_t>(unit)].any; }
  // grad_shard (=) the sum over all copies. In a task of the lane, on every rank of the group.
  void sum(int unit);

 private:
  struct Part {
    int peer;
    std::size_t param;
    std::int64_t at, count;  // of the shard
  };
  struct UnitCopies {
    bool any = false;
    std::vector<Part> copies;  // here, by the peer that speaks for them
    std::vector<Part> spoken;  // here, by the peer that has a copy
  };
  void add_unit(const Unit& unit, UnitCopies& copies, int rank, const std::vector<ParamLayout>& rank2layout) const;
  float* gradient(const Part& part) const { return store_.all()[part.param].grad_shard + part.at; }

  ParamStore& store_;
  Comm* dense_;
  std::vector<UnitCopies> units_;  // empty: no copies anywhere
  Env env_;
  std::unique_ptr<Arena> arena_;
  std::span<float> received_;
};

}  // namespace moe
