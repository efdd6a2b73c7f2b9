// Whom a rank sends rows to and hears from: the same for every micro-batch. Only dispatch*.cpp and its tests include this.
// A row leaves its source into buckets: one for every other node (its forwarder there gets it: the rank with the source's
// index inside the node, modulo the size of that node), and one for every rank of the own node. Hop 1 is to other nodes,
// hop 2 inside a node. Flat: every rank is a node of its own, so that hop 2 falls away. Not here: rows, messages.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/comm/dispatch.h"

namespace moe {

struct DispatchWays {
  // A bucket's forwarder or, inside the own node, its destination.
  struct Bucket {
    int peer;
    bool inside;
  };

  DispatchWays(int rank, std::vector<int> rank2node, DispatchMode wanted);

  DispatchMode mode;  // kFlat or kTwoLevel
  int rank;
  std::vector<Bucket> buckets;  // in the order of sums: nodes by their lowest rank, the ranks of the own node one by one
  std::vector<int> sources;     // hop 1: ranks whose rows for this node come here, ascending
  std::vector<int> inside;      // hop 2: ranks of this node, ascending, this one too
  std::vector<int> inside2bucket;
  int self_inside = 0, self_bucket = 0;         // this rank in `inside`, in `buckets`
  std::vector<std::int32_t> rank2bucket_R;      // the bucket that leads to each rank
  std::vector<std::int32_t> rank2inside_R;      // -1: on another node
  std::vector<std::int32_t> rank2other_node_R;  // lowest rank of its real node; -1: this node
  std::vector<bool> is_far_R;                   // rank on another real node
  bool hop1 = false, hop2 = false;              // there is anything to do for some rank of the group: the same on all ranks
};

// The same of experts, as a map has them.
struct ExpertWays {
  ExpertWays(const DispatchWays& ways, const ExpertMap& map);

  std::vector<std::int32_t> expert2bucket_E;      // of every expert
  std::vector<std::int32_t> expert2inside_E;      // -1: on another node
  std::vector<std::int32_t> expert2local_E;       // -1: on another rank
  std::vector<std::int32_t> expert2other_node_E;  // lowest rank of its real node; -1: this node
  int rank, num_local_experts;
};

}  // namespace moe
