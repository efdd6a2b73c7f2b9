// How many nodes tokens touch, while experts change nodes: the cost of each change is known without counting anew. Not here:
// which change is made (solve_traffic.cpp), experts with copies, which stay where they are while others move.
//   T tokens   E experts   N nodes
#pragma once

#include <cstdint>
#include <vector>

#include "lib/place/loads.h"
#include "lib/place/topology.h"

namespace moe {

// Tokens by the experts they chose: token t's are expert[start[t] .. start[t + 1]). Without a sample, every pair of experts
// is a token that counts as often as both were chosen together: then nodes touched are pairs parted.
struct TokenList {
  std::vector<std::int32_t> expert;
  std::vector<std::size_t> start{0};
  std::vector<double> weight;
};
TokenList tokens_of(const LayerLoads& loads, int top_k);  // empty if neither a sample nor co-activation is known

class NodeCounts {
 public:
  // share_EN: the part of an expert's rows that a node gets. Experts with all of it on one node can move.
  NodeCounts(const TokenList& tokens, const std::vector<double>& share_EN, const Topology& topology);

  int node_of(int expert) const { return expert2node_[at(expert)]; }  // -1: on several
  // Rows that cross nodes, of all tokens: of each token and node it touches, those that come from other nodes.
  double rows() const;
  // What rows() changes by if the two exchange nodes. at_best: never less than that, from sums that are kept.
  double at_best_after_exchange(int e, int f) const;
  double after_exchange(int e, int f) const;
  void exchange(int e, int f);

 private:
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }
  std::size_t cell(std::size_t token, int node) const { return token * cross_N_.size() + at(node); }
  void add(int expert, int node, int change);  // to the counts of its tokens
  void sum_expert(int expert);                 // saved_ and cost_ anew
  double join(int expert, int node) const { return cross_N_[at(node)] * cost_EN_[at(expert) * cross_N_.size() + at(node)]; }

  const TokenList* tokens_;
  std::vector<std::vector<std::size_t>> tokens_of_E_;
  std::vector<int> expert2node_;
  std::vector<double> cross_N_;          // part of the tokens that come from other nodes
  std::vector<std::uint16_t> count_TN_;  // experts of the token on the node, of those that can move
  std::vector<float> missed_TN_;         // P(no copy of the other experts on the node is taken)
  std::vector<double> saved_E_;          // weight of tokens that would not touch the expert's node without it
  std::vector<double> cost_EN_;          // weight of its tokens that do not touch the node yet
};

}  // namespace moe
