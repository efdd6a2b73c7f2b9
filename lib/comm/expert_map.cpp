#include "lib/comm/expert_map.h"

#include <cstdint>

namespace moe {

ExpertMap linear_expert_map(int num_experts, int num_ranks) {
  ExpertMap map;
  map.rank2experts.resize(static_cast<std::size_t>(num_ranks));
  for (int r = 0; r < num_ranks; ++r) {
    const auto begin = std::int64_t{num_experts} * r / num_ranks, end = std::int64_t{num_experts} * (r + 1) / num_ranks;
    for (auto e = begin; e < end; ++e) {
      map.expert2rank.push_back(r);
      map.expert2local.push_back(static_cast<int>(e - begin));
      map.rank2experts[static_cast<std::size_t>(r)].push_back(static_cast<int>(e));
    }
  }
  return map;
}

}  // namespace moe
