// The least max over mean that any placement of a layer can have. Not here: placements that come near it (solve.h).
#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>

#include "lib/place/score_parts.h"

namespace moe {
namespace {

// An expert of load w with c copies is on at most min(c, ranks) ranks, so one of them gets w / min(c, ranks) or more of it,
// however its rows are dealt. The smallest of the largest w_e / c_e over all c with sum c_e = num_slots and 1 <= c_e <=
// num_ranks: giving every further slot to the largest quotient is optimal, because a quotient that is the largest must
// fall for the maximum to fall, and only a slot of its own lowers it. Copies beyond num_ranks lower nothing.
double heaviest_copy(const std::vector<double>& load_E, int num_slots, int num_ranks) {
  std::priority_queue<std::pair<double, int>> quotients;  // load of a copy, number of copies
  for (const double w : load_E) quotients.emplace(w, 1);
  for (int left = num_slots - static_cast<int>(load_E.size()); left > 0; --left) {
    const auto [quotient, copies] = quotients.top();
    if (copies >= num_ranks) break;
    quotients.pop();
    quotients.emplace(quotient * copies / (copies + 1), copies + 1);
  }
  return quotients.top().first;
}

// One slot per expert. Of the k R + 1 heaviest experts, some rank of R has k + 1 or more; the k + 1 lightest of them weigh
// least. If it must have m > k + 1 experts in all, the others weigh at least as much as the m - k - 1 lightest of the layer.
// (k = 0: the heaviest expert and m - 1 companions.)
double crowded_rank(std::vector<double> load_E, int num_ranks, int least_slots) {
  std::sort(load_E.begin(), load_E.end(), std::greater<>());
  std::vector<double> psum{0};  // of the k heaviest
  for (const double w : load_E) psum.push_back(psum.back() + w);
  const std::size_t num_experts = load_E.size();
  double bound = 0;
  for (std::size_t k = 0, last = 0; last < num_experts; ++k, last = k * static_cast<std::size_t>(num_ranks)) {
    const double crowd = psum[last + 1] - psum[last - k];
    const std::size_t others =
        static_cast<std::size_t>(least_slots) > k + 1 ? static_cast<std::size_t>(least_slots) - k - 1 : 0;
    bound = std::max(bound, crowd + psum[num_experts] - psum[num_experts - std::min(others, num_experts)]);
  }
  return bound;
}

}  // namespace

double lower_bound(const std::vector<double>& load_E, int num_slots, int num_ranks, int least_slots) {
  check_loads(load_E);
  const double sum = std::accumulate(load_E.begin(), load_E.end(), 0.0);
  if (sum == 0) return 1;
  double heaviest = heaviest_copy(load_E, num_slots, num_ranks);
  if (num_slots == static_cast<int>(load_E.size()))
    heaviest = std::max(heaviest, crowded_rank(load_E, num_ranks, least_slots));
  return std::max(1.0, heaviest * num_ranks / sum);  // no maximum is below the mean
}

}  // namespace moe
