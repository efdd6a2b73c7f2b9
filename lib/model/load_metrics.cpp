#include "lib/model/load_metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moe {

LoadMetrics load_metrics(std::span<const std::int64_t> counts_E) {
  LoadMetrics m;
  m.dead = static_cast<int>(std::count(counts_E.begin(), counts_E.end(), 0));
  const auto total = static_cast<double>(std::accumulate(counts_E.begin(), counts_E.end(), std::int64_t{0}));
  if (total == 0) return m;
  const double mean = total / static_cast<double>(counts_E.size());
  double squares = 0;
  for (std::int64_t c : counts_E) squares += (static_cast<double>(c) - mean) * (static_cast<double>(c) - mean);
  m.max_vio = static_cast<double>(*std::max_element(counts_E.begin(), counts_E.end())) / mean - 1;
  m.cv = std::sqrt(squares / static_cast<double>(counts_E.size())) / mean;
  return m;
}

}  // namespace moe
