#include "lib/place/node_counts.h"

#include <algorithm>

namespace moe {

TokenList tokens_of(const LayerLoads& loads, int top_k) {
  TokenList list;
  const auto close = [&](double weight) {
    list.start.push_back(list.expert.size());
    list.weight.push_back(weight);
  };
  const std::size_t num_experts = loads.load_E.size();
  if (!loads.sample_TK.empty() && top_k > 0) {
    for (std::size_t i = 0; i < loads.sample_TK.size(); ++i) {
      if (loads.sample_TK[i] >= 0) list.expert.push_back(loads.sample_TK[i]);
      if ((i + 1) % static_cast<std::size_t>(top_k) == 0) close(1);
    }
  } else if (!loads.coactivation_EE.empty()) {
    for (std::size_t a = 0; a < num_experts; ++a)
      for (std::size_t b = 0; b < a; ++b) {
        const double both = loads.coactivation_EE[a * num_experts + b];
        if (!(both > 0)) continue;
        list.expert.insert(list.expert.end(), {static_cast<std::int32_t>(b), static_cast<std::int32_t>(a)});
        close(both);
      }
  }
  return list;
}

NodeCounts::NodeCounts(const TokenList& tokens, const std::vector<double>& share_EN, const Topology& topology)
    : tokens_(&tokens) {
  for (const int ranks : topology.num_ranks_of_node())
    cross_N_.push_back(1 - static_cast<double>(ranks) / topology.num_ranks());
  const std::size_t num_nodes = cross_N_.size(), num_experts = share_EN.size() / num_nodes,
                    num_tokens = tokens.weight.size();
  tokens_of_E_.resize(num_experts);
  saved_E_.resize(num_experts);
  cost_EN_.resize(num_experts * num_nodes);
  for (std::size_t e = 0; e < num_experts; ++e) {
    const auto first = share_EN.begin() + static_cast<std::ptrdiff_t>(e * num_nodes);
    const auto whole = std::find_if(first, first + static_cast<std::ptrdiff_t>(num_nodes), [](double s) { return s >= 1; });
    const auto node = static_cast<std::size_t>(whole - first);
    expert2node_.push_back(node < num_nodes ? static_cast<int>(node) : -1);
  }
  count_TN_.resize(num_tokens * num_nodes);
  missed_TN_.assign(num_tokens * num_nodes, 1.0F);
  for (std::size_t t = 0; t < num_tokens; ++t)
    for (std::size_t i = tokens.start[t]; i < tokens.start[t + 1]; ++i) {
      const int e = tokens.expert[i];
      tokens_of_E_[at(e)].push_back(t);
      if (node_of(e) >= 0) {
        ++count_TN_[cell(t, node_of(e))];
      } else {
        for (std::size_t n = 0; n < num_nodes; ++n)
          missed_TN_[t * num_nodes + n] *= static_cast<float>(1 - share_EN[at(e) * num_nodes + n]);
      }
    }
  for (std::size_t e = 0; e < num_experts; ++e) sum_expert(static_cast<int>(e));
}

double NodeCounts::rows() const {
  double sum = 0;
  for (std::size_t t = 0; t < tokens_->weight.size(); ++t)
    for (std::size_t n = 0; n < cross_N_.size(); ++n) {
      const std::size_t i = t * cross_N_.size() + n;
      sum += tokens_->weight[t] * cross_N_[n] * (count_TN_[i] > 0 ? 1.0 : 1.0 - static_cast<double>(missed_TN_[i]));
    }
  return sum;
}

void NodeCounts::sum_expert(int expert) {
  const int home = node_of(expert);
  if (home < 0) return;
  const std::size_t num_nodes = cross_N_.size();
  double* cost_N = &cost_EN_[at(expert) * num_nodes];
  std::fill(cost_N, cost_N + num_nodes, 0.0);
  saved_E_[at(expert)] = 0;
  for (const std::size_t t : tokens_of_E_[at(expert)]) {
    const std::size_t first = t * num_nodes;
    const double weight = tokens_->weight[t];
    for (std::size_t n = 0; n < num_nodes; ++n)
      if (count_TN_[first + n] == 0) cost_N[n] += weight * static_cast<double>(missed_TN_[first + n]);
    if (count_TN_[cell(t, home)] == 1) saved_E_[at(expert)] += weight * static_cast<double>(missed_TN_[cell(t, home)]);
  }
}

double NodeCounts::at_best_after_exchange(int e, int f) const {
  const int a = node_of(e), b = node_of(f);
  return join(e, b) + join(f, a) - cross_N_[at(a)] * saved_E_[at(e)] - cross_N_[at(b)] * saved_E_[at(f)];
}

// Tokens that chose both touch both nodes as before: what the sums took for a gain there is none.
double NodeCounts::after_exchange(int e, int f) const {
  const int a = node_of(e), b = node_of(f);
  double change = at_best_after_exchange(e, f);
  const auto& mine = tokens_of_E_[at(e)];
  const auto& theirs = tokens_of_E_[at(f)];
  for (std::size_t i = 0, j = 0; i < mine.size() && j < theirs.size();) {
    if (mine[i] != theirs[j]) {
      mine[i] < theirs[j] ? ++i : ++j;
      continue;
    }
    const std::size_t t = mine[i];
    for (const int n : {a, b})
      if (count_TN_[cell(t, n)] == 1)
        change += cross_N_[at(n)] * tokens_->weight[t] * static_cast<double>(missed_TN_[cell(t, n)]);
    ++i, ++j;
  }
  return change;
}

// A token's counts on `node` rise or fall by one: the sums of its other experts follow.
void NodeCounts::add(int expert, int node, int change) {
  for (const std::size_t t : tokens_of_E_[at(expert)]) {
    std::uint16_t& count = count_TN_[cell(t, node)];
    const int before = count, after = before + change;
    count = static_cast<std::uint16_t>(after);
    const double w = tokens_->weight[t] * static_cast<double>(missed_TN_[cell(t, node)]);
    if (w == 0 || std::min(before, after) > 1) continue;
    for (std::size_t i = tokens_->start[t]; i < tokens_->start[t + 1]; ++i) {
      const int f = tokens_->expert[i];
      if (f == expert || node_of(f) < 0) continue;
      if (std::min(before, after) == 0) cost_EN_[at(f) * cross_N_.size() + at(node)] -= change * w;
      if (std::min(before, after) == 1 && node_of(f) == node) saved_E_[at(f)] -= change * w;
    }
  }
}

void NodeCounts::exchange(int e, int f) {
  const int a = node_of(e), b = node_of(f);
  expert2node_[at(e)] = expert2node_[at(f)] = -1;  // not counted as others while they move
  add(e, a, -1);
  add(f, b, -1);
  add(e, b, +1);
  add(f, a, +1);
  expert2node_[at(e)] = b;
  expert2node_[at(f)] = a;
  sum_expert(e);
  sum_expert(f);
}

}  // namespace moe
