// Rows per rank. Not here: the least that any placement can have (score_bound.cpp).
#include <algorithm>
#include <limits>
#include <numeric>

#include "lib/place/score_parts.h"

namespace moe {
namespace {

// Per expert the parts of its rows that ranks get, over tokens of all ranks alike: rank loads are linear in expert loads.
std::vector<std::vector<Part>> mean_parts(const LayerPlacement& placed, std::size_t num_experts, const Topology& topology,
                                          ReplicaChoice choice) {
  std::vector<std::vector<Part>> parts_E;
  for (const std::vector<int>& ranks : expert_ranks(placed, num_experts)) {
    const bool same_for_all = choice == ReplicaChoice::kSpread || ranks.size() == 1;
    const int num_sources = same_for_all ? 1 : topology.num_ranks();
    std::vector<double> share_R(static_cast<std::size_t>(topology.num_ranks()));
    for (int source = 0; source < num_sources; ++source)
      for (const Part& p : parts_by_rank(ranks, source, topology, choice))
        share_R[static_cast<std::size_t>(p.at)] += p.share / num_sources;
    std::vector<Part> parts;
    for (const int r : ranks)
      if (parts.empty() || parts.back().at != r) parts.push_back({r, share_R[static_cast<std::size_t>(r)]});
    parts_E.push_back(std::move(parts));
  }
  return parts_E;
}

template <class T>
std::vector<double> sum_parts(std::span<const T> load_E, const std::vector<std::vector<Part>>& parts_E, int num_ranks) {
  std::vector<double> load_R(static_cast<std::size_t>(num_ranks));
  for (std::size_t e = 0; e < load_E.size(); ++e)
    for (const Part& p : parts_E[e]) load_R[static_cast<std::size_t>(p.at)] += p.share * static_cast<double>(load_E[e]);
  return load_R;
}

}  // namespace

std::vector<double> rank_loads(const LayerPlacement& placed, const LayerLoads& loads, const Topology& topology,
                               ReplicaChoice choice) {
  check_loads(loads.load_E);
  check_placement(placed, loads.load_E.size(), topology);
  const auto parts_E = mean_parts(placed, loads.load_E.size(), topology, choice);
  return sum_parts<double>(loads.load_E, parts_E, topology.num_ranks());
}

double max_over_mean(const std::vector<double>& load_R) {
  check_loads(load_R);
  const double sum = std::accumulate(load_R.begin(), load_R.end(), 0.0);
  if (sum == 0) return 1;
  return *std::max_element(load_R.begin(), load_R.end()) * static_cast<double>(load_R.size()) / sum;
}

double step_max_over_mean(const LayerPlacement& placed, const LayerLoads& loads, const Topology& topology,
                          ReplicaChoice choice) {
  const std::size_t num_experts = loads.load_E.size();
  if (loads.step_load_SE.empty()) return std::numeric_limits<double>::quiet_NaN();
  check_placement(placed, num_experts, topology);
  const auto parts_E = mean_parts(placed, num_experts, topology, choice);
  const std::size_t num_steps = loads.step_load_SE.size() / num_experts;
  double sum = 0;
  for (std::size_t s = 0; s < num_steps; ++s) {
    const auto load_E = std::span(loads.step_load_SE).subspan(s * num_experts, num_experts);
    sum += max_over_mean(sum_parts<float>(load_E, parts_E, topology.num_ranks()));
  }
  return sum / static_cast<double>(num_steps);
}

}  // namespace moe
