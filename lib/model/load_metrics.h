// How evenly experts are loaded: pure functions of counts.
#pragma once

#include <cstdint>
#include <span>

namespace moe {

struct LoadMetrics {
  double max_vio = 0;  // max / mean - 1 (arXiv 2408.15664, section 4): 0 is perfect balance
  double cv = 0;       // standard deviation / mean
  int dead = 0;        // experts without a single row
};
// Zero rows in all: all metrics 0 but `dead`.
LoadMetrics load_metrics(std::span<const std::int64_t> counts_E);
LoadMetrics load_metrics(std::span<const double> load_E);  // in any unit

}  // namespace moe
