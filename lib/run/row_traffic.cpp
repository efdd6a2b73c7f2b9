#include "lib/run/row_traffic.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "lib/run/step_traffic.h"

namespace moe {
namespace {

double log_choose(double n, double k) { return std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1); }

// P(none of `here` experts is among k of n at random).
double missed(double n, double here, double k) {
  return n - here < k ? 0 : std::exp(log_choose(n - here, k) - log_choose(n, k));
}

// One expert-parallel group in one layer: what its experts mean for the ranks of the group.
class GroupRows {
 public:
  GroupRows(const ModelConfig& c, const LayerPlacement& placed, const std::vector<int>& rank2node, DispatchMode mode)
      : c_(c), rank2node_(rank2node) {
    for (std::size_t r = 0; r < rank2node.size(); ++r) node2ranks_[rank2node[r]].push_back(r);
    const bool several =
        std::any_of(node2ranks_.begin(), node2ranks_.end(), [](const auto& n) { return n.second.size() > 1; });
    two_level_ = mode == DispatchMode::kTwoLevel || (mode == DispatchMode::kAuto && several && node2ranks_.size() > 1);
    find_shares(placed);
    find_parts();
    for (const auto& share_E : rank2share_) rank_chance_.push_back(chance(share_E));
    for (const auto& [node, ranks] : node2ranks_) node_chance_[node] = chance(share_of(ranks));
  }

  // Sum over the tokens of one token of each rank.
  RowsPerToken sum() const {
    RowsPerToken all;
    for (std::size_t r = 0; r < rank2node_.size(); ++r)
      for (const auto& [node, ranks] : node2ranks_) add_rows(r, node, ranks, all);
    return all;
  }

 private:
  void find_shares(const LayerPlacement& placed) {
    std::vector<double> num_copies(static_cast<std::size_t>(c_.num_experts));
    for (const auto& experts : placed.rank2experts)
      for (const int e : experts) ++num_copies[static_cast<std::size_t>(e)];
    for (const auto& experts : placed.rank2experts) {
      rank2share_.emplace_back(num_copies.size());
      for (const int e : experts)
        rank2share_.back()[static_cast<std::size_t>(e)] += 1 / num_copies[static_cast<std::size_t>(e)];
    }
  }

  // Groups of the router; or nodes, where it limits them.
  void find_parts() {
    expert2part_.assign(static_cast<std::size_t>(c_.num_experts), 0);
    if (c_.num_groups_kept < c_.num_expert_groups) {
      num_parts_ = c_.num_expert_groups, kept_ = c_.num_groups_kept;
      for (int e = 0; e < c_.num_experts; ++e)
        expert2part_[static_cast<std::size_t>(e)] = e / (c_.num_experts / c_.num_expert_groups);
    } else if (c_.max_nodes_per_token > 0 && c_.max_nodes_per_token < static_cast<int>(node2ranks_.size())) {
      num_parts_ = static_cast<int>(node2ranks_.size()), kept_ = c_.max_nodes_per_token;
      int part = 0;
      for (const auto& [node, ranks] : node2ranks_) {
        const std::vector<double> share_E = share_of(ranks);
        for (std::size_t e = 0; e < share_E.size(); ++e)
          if (share_E[e] > 0) expert2part_[e] = part;
        ++part;
      }
    }
  }

  std::vector<double> share_of(const std::vector<std::size_t>& ranks) const {
    std::vector<double> share_E(static_cast<std::size_t>(c_.num_experts));
    for (const std::size_t r : ranks)
      for (std::size_t e = 0; e < share_E.size(); ++e) share_E[e] += rank2share_[r][e];
    return share_E;
  }

  double chance(const std::vector<double>& share_E) const {
    std::vector<double> here_P(static_cast<std::size_t>(num_parts_));
    for (std::size_t e = 0; e < share_E.size(); ++e) here_P[static_cast<std::size_t>(expert2part_[e])] += share_E[e];
    return touch_chance(c_.num_experts, c_.top_k, kept_, here_P);
  }

  void add_rows(std::size_t sender, int node, const std::vector<std::size_t>& ranks, RowsPerToken& rows) const {
    const bool far = node != rank2node_[sender];
    double each = 0;
    for (const std::size_t r : ranks)
      if (r != sender) each += rank_chance_[r];
    if (!far) {
      rows.intra += each;
    } else if (!two_level_) {
      rows.inter += each;
    } else {
      const auto& own = node2ranks_.at(rank2node_[sender]);
      const auto place = static_cast<std::size_t>(std::find(own.begin(), own.end(), sender) - own.begin());
      rows.inter += node_chance_.at(node);
      rows.intra += each - rank_chance_[ranks[place % ranks.size()]];  // what arrives where it is wanted stays there
    }
  }

  const ModelConfig& c_;
  const std::vector<int>& rank2node_;
  bool two_level_ = false;
  std::map<int, std::vector<std::size_t>> node2ranks_;
  std::vector<std::vector<double>> rank2share_;  // of each expert's rows
  std::vector<int> expert2part_;
  int num_parts_ = 1, kept_ = 1;
  std::vector<double> rank_chance_;
  std::map<int, double> node_chance_;
};

// Nodes of the group of ranks [first, first + ep), numbered from 0: groups that lie alike are counted once.
std::vector<int> nodes_of_group(const std::vector<int>& rank2node, int first, int ep) {
  std::map<int, int> number;
  std::vector<int> nodes;
  for (int r = first; r < first + ep; ++r)
    nodes.push_back(
        number.try_emplace(rank2node[static_cast<std::size_t>(r)], static_cast<int>(number.size())).first->second);
  return nodes;
}

}  // namespace

// Over the ways in which the kept parts can hold some of the parts with experts of the set.
double touch_chance(int num_experts, int top_k, int kept, const std::vector<double>& here_P) {
  const auto num_parts = static_cast<int>(here_P.size());
  const double chosen_from = static_cast<double>(num_experts) / num_parts * kept;
  std::vector<double> here;
  for (const double h : here_P)
    if (h > 0) here.push_back(h);
  const auto n = static_cast<int>(here.size());
  if (kept >= num_parts || n > 16) {  // of very many the mean does
    double all = 0;
    for (const double h : here) all += h;
    return 1 - missed(chosen_from, all * kept / num_parts, top_k);
  }
  double none = 0;
  for (unsigned subset = 0; subset < 1u << n; ++subset) {
    double inside = 0, size = 0;
    for (int i = 0; i < n; ++i)
      if (subset >> i & 1u) inside += here[static_cast<std::size_t>(i)], ++size;
    if (size > kept || kept - size > num_parts - n) continue;
    none +=
        std::exp(log_choose(num_parts - n, kept - size) - log_choose(num_parts, kept)) * missed(chosen_from, inside, top_k);
  }
  return 1 - none;
}

RowsPerToken rows_per_token(const ModelConfig& c, const MeshOptions& mesh, const std::vector<int>& rank2node) {
  const int ep = mesh.shape.ep;
  if (ep == 1 || c.num_moe_layers() == 0) return {};
  std::map<std::vector<int>, double> nodes2count;
  for (int r = 0; r < mesh.shape.size(); r += ep) ++nodes2count[nodes_of_group(rank2node, r, ep)];
  std::vector<LayerPlacement> layers = mesh.plan.placed;
  if (layers.empty()) layers = {linear_layer(c.num_experts, ep)};
  RowsPerToken rows;
  for (const auto& [nodes, count] : nodes2count)
    for (const LayerPlacement& placed : layers) {
      const RowsPerToken group = GroupRows(c, placed, nodes, mesh.dispatch).sum();
      const double share = count / static_cast<double>(layers.size()) / mesh.shape.size();
      rows.inter += share * group.inter, rows.intra += share * group.intra;
    }
  return rows;
}

}  // namespace moe
