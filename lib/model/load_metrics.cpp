#include "lib/model/load_metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace moe {

LoadMetrics load_metrics(std::span<const std::int64_t> counts_E) {
  return load_metrics(std::vector<double>(counts_E.begin(), counts_E.end()));
}

LoadMetrics load_metrics(std::span<const double> load_E) {
  LoadMetrics m;
  m.dead = static_cast<int>(std::count(load_E.begin(), load_E.end(), 0.0));
  const double total = std::accumulate(load_E.begin(), load_E.end(), 0.0);
  if (total == 0) return m;
  const double mean = total / static_cast<double>(load_E.size());
  double squares = 0;
  for (const double load : load_E) squares += (load - mean) * (load - mean);
  m.max_vio = *std::max_element(load_E.begin(), load_E.end()) / mean - 1;
  m.cv = std::sqrt(squares / static_cast<double>(load_E.size())) / mean;
  return m;
}

}  // namespace moe
