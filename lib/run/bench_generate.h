// What `moe-bench generate` measured of one batch size. Not here: the running (bench_generate.cpp).
#pragma once

#include "lib/run/bench_step.h"

namespace moe {

struct GenerateSample {
  int batch = 1;
  double prefill_seconds = 0;
  Timing step;                // of decoding
  double weight_bytes = 0;    // that a step must read, mean: all but the input embedding; of experts those that were chosen
  double chosen_experts = 0;  // of a layer and step, mean
  double kv_bytes = 0;        // of the cache that a step reads, mean
  StepCheck check;            // logits at the end against the same text computed as a whole
};

// Bytes of weights that every step reads: all but the experts, the input embedding and modules of multi-token prediction.
double dense_bytes(const ParamStore& params, const ModelConfig& config);
double bytes_of_expert(const ModelConfig& config, DType dtype);  // of one layer

}  // namespace moe
