// What `moe-bench dispatch` measured, and how it is told. Not here: the running (bench_dispatch.cpp).
#pragma once

#include <array>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lib/run/bench_table.h"
#include "lib/run/bench_workload.h"

namespace moe {

enum class DispatchPhase : std::uint8_t { kPlan, kDispatch, kCombine, kGates, kForward, kBackward };
inline constexpr std::size_t kNumDispatchPhases = 6;
inline constexpr const char* kDispatchPhaseNames[kNumDispatchPhases] = {"plan",  "dispatch", "combine",
                                                                        "gates", "forward",  "backward"};

// One workload by one way of exchange. Bytes are of one dispatch and its combine, of all ranks, mean over repetitions.
struct DispatchRow {
  std::string name, description;  // of the workload or the layer
  int layer = -1;                 // of a trace
  DispatchMode mode = DispatchMode::kFlat;
  std::array<Timing, kNumDispatchPhases> seconds;  // of the slowest rank
  double inter_bytes = 0, intra_bytes = 0, control_bytes = 0;
  double inter_bytes_min = 0;       // worked out by the dispatcher
  double inter_bytes_expected = 0;  // worked out here from the routing, for this way of exchange
  double least_bytes_expected = 0;  // the same for inter_bytes_min
  double busiest_node_bytes = 0;    // of a dispatch: what crosses the border of the busiest node, one direction
  std::int64_t sent_inter_bytes = 0, sent_intra_bytes = 0;  // of everything that this row sent, repetitions not counted too
  std::int64_t num_wrong = 0;                               // rows, sums and gates
  std::vector<double> rows_r;                               // that each rank received, mean over repetitions that differ
  double max_over_mean = 1;                                 // of a repetition, mean over them
  double row_bytes = 0;
  std::int64_t tokens = 0;  // of all ranks, that made these rows

  const Timing& of(DispatchPhase phase) const { return seconds[static_cast<std::size_t>(phase)]; }
  bool passed() const;
  double imbalance() const;                       // most received / mean, of rows_r
  double inter_rows_per_token() const;            // of dispatch alone
  double exchange_seconds() const;                // dispatch and combine
  double rank_gbytes() const;                     // payload that a rank sends, mean, dispatch and combine
  double node_gbytes() const;                     // over the border of the busiest node, dispatch and combine
  double node_gbytes(DispatchPhase phase) const;  // of dispatch or combine alone
};

double max_over_mean_rows(const std::vector<double>& rows_r);  // 1 if there are none

std::vector<std::string> dispatch_legend(double link_gbits);
std::string dispatch_header();
std::string dispatch_line(const DispatchRow& row, double link_gbits);
// Rows received by each rank, as a picture; many ranks are shortened.
std::vector<std::string> histogram_lines(const DispatchRow& row);
// Flat over two-level: what the bytes between nodes predict, and what the times say.
std::string comparison_line(const DispatchRow& flat, const DispatchRow& two_level);
// All layers of a trace by one way of exchange, whose rows these are: sums; balance as mean and worst of the layers.
std::string total_line(const std::vector<DispatchRow>& layers);
nlohmann::json total_json(const std::vector<DispatchRow>& layers);
nlohmann::json dispatch_json(const DispatchRow& row, double link_gbits);
nlohmann::json comparison_json(const DispatchRow& flat, const DispatchRow& two_level);

}  // namespace moe
