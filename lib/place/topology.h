// The ranks of an expert-parallel group and the nodes that they are on, as a placement is made for them. Text form
// "node:4 rank:8" (4 nodes of 8 ranks), uneven nodes "rank:8,8,4". Not here: which experts (lib/base/placement.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moe {

struct Topology {
  std::vector<int> rank2node;  // nodes are numbered 0, 1, ...; the ranks of a node are neighbours

  int num_ranks() const { return static_cast<int>(rank2node.size()); }
  int num_nodes() const { return rank2node.empty() ? 0 : rank2node.back() + 1; }
  std::vector<int> num_ranks_of_node() const;
  bool operator==(const Topology&) const = default;
};

// "node:N rank:R" or "node:N rank:R0,R1,..." (N counts; with one R every node has R) or "rank:R" (one node) or
// "rank:R0,R1,...". Error(kUsage) naming the word that is wrong.
Topology parse_topology(const std::string& text);
std::string topology_text(const Topology& topology);  // what parse_topology() reads

}  // namespace moe
