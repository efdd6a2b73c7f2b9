// What `moe-bench step` measured on the ranks of a mesh, and how it is told. One process has its own, finer report
// (bench_step.h): on a mesh gathered weights have no fixed address by which products could be told apart. Not here: the
// running (bench_mesh_step.cpp).
#pragma once

#include <array>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lib/comm/lane.h"
#include "lib/model/model.h"
#include "lib/run/bench_step.h"

namespace moe {

// What this rank computed in a step, seconds. The ends are embedding, head and loss; segments hold what this thread did, not
// the lane.
enum class MeshPart : std::uint8_t { kPre, kDispatch, kExperts, kCombine, kEnds, kUpdate };
inline constexpr std::size_t kNumMeshParts = 6;
inline constexpr const char* kMeshPartNames[kNumMeshParts] = {"pre", "dispatch", "experts", "combine", "ends", "update"};

// Mean over ranks and largest.
struct RankSpread {
  double mean = 0, max = 0;
};

struct MeshStepReport {
  ModelConfig model;
  MeshOptions mesh;
  BatchShape batch;  // of all ranks
  int num_ranks = 1;
  bool on_gpu = false;  // then of the parts only kUpdate is known
  Timing seconds;       // of the slowest rank
  // Of a step, mean over the measured ones.
  RankSpread step, compute, exposed;
  std::array<RankSpread, kNumMeshParts> parts;
  struct Lane {
    RankSpread busy, exposed;
  };
  std::map<std::string, Lane> lane;
  double gemm_peak_gflops = 0;           // sum over ranks, all at the same time
  double waited = 0;                     // part of the time that threads could run but had no processor, mean over ranks
  double max_vio = 0, rank_max_vio = 0;  // mean over layers: rows of the busiest expert, rank / mean - 1
  // Bytes of the rank with most, and of the same rank what was predicted.
  ModelMemory predicted;                      // with balanced routing, as --dry-run says it
  std::size_t predicted_with_rows_bytes = 0;  // with the most rows that its experts got
  double measured_bytes = 0;  // memory that the process took for the model and its steps; of a GPU, that all there took
  double weight_bytes = 0, grad_bytes = 0, master_bytes = 0, moment_bytes = 0;  // counted in the parameters that are here
  std::vector<double> predicted_r, measured_r;                                  // of each rank
  std::vector<double> in_use_r;                                                 // of its GPU, by all processes
  std::vector<StepCheck> checks;

  bool passed() const;
  bool knows(std::size_t part) const { return !on_gpu || part == static_cast<std::size_t>(MeshPart::kUpdate); }
  double tokens_per_second() const { return static_cast<double>(batch.num_tokens()) / seconds.median; }
  double gflops(bool causal) const;
  double imbalance_seconds() const { return compute.max - compute.mean; }
  // A step over the computation of the slowest rank: 1 if all communication is hidden and all ranks do the same.
  double step_over_compute() const { return step.max / compute.max; }
};

std::vector<std::string> mesh_step_lines(const MeshStepReport& report);
nlohmann::json mesh_step_json(const MeshStepReport& report);

}  // namespace moe
