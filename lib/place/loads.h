// What a placement is judged by: how many rows each expert gets, and which experts are chosen together. Plain numbers, taken
// from routing statistics, a trace of router decisions or a table. Not here: files (lib/io), placements.
#pragma once

#include <cstdint>
#include <vector>

namespace moe {

struct LayerLoads {
  std::vector<double> load_E;  // rows (routed slots) of each expert; any unit
  std::vector<double>
      coactivation_EE;  // tokens that chose both, symmetric, diagonal = tokens that chose it; empty: not known
  // Decisions of single tokens, top_k experts each (-1: dropped), for exact counts of nodes; empty: not known.
  std::vector<std::int32_t> sample_TK;
  // First token of each recorded step in the sample, and the end; empty: all are of one step.
  std::vector<std::int64_t> psum_sample_S1;
  // Rows of single recorded steps, evenly taken: a rank waits for the slowest of every step, not of the mean. Empty: not
  // known.
  std::vector<float> step_load_SE;
  double num_tokens = 0;  // that load_E counts; 0: not known
};

struct Loads {
  int num_experts = 0, top_k = 0;    // top_k 0: not known
  std::vector<int> layers;           // indices of the MoE layers, ascending
  std::vector<LayerLoads> of_layer;  // one per entry of `layers`
};

}  // namespace moe
