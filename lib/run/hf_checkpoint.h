// moe-reshard import and export: checkpoints of Hugging Face (safetensors, sharded, config.json) of the families of
// lib/run/hf_config.h <-> checkpoints of this program. Strict both ways: every tensor of the files is used and every tensor
// of the model filled, else Error(kBadInput) with both lists. Memory is bounded by memory_bytes. Not here: the file format
// (lib/io/safetensors.h), which name is which tensor (lib/run/hf_names.h), config.json (lib/run/hf_config.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/common_options.h"
#include "lib/base/error.h"

namespace moe {

// Of experts on disk: a tensor each (transformers 4), one of all (5), or one of all in MXFP4 (gpt-oss; import only).
enum class HfLayout { kPerExpert, kFused, kPacked };

struct HfOptions {
  std::string input, output;                // import: HF directory -> run directory; export: checkpoint -> HF directory
  std::int64_t memory_bytes = 0;            // most that buffers may take
  std::string dtype = "keep";               // keep, fp32 or bf16
  std::string weights = "model";            // export only; or ema: the moving average of the weights
  HfLayout layout = HfLayout::kPerExpert;   // export only
  std::int64_t file_bytes = 5'000'000'000;  // export only: most of one safetensors file
  bool drop_mtp = false;                    // leave out the modules of multi-token prediction
  std::vector<std::string> ignore_keys;     // import only: keys of config.json to pass over
};

// Writes output/step-00000000 with weights only, config of the model in its state. Prints what was assumed where
// config.json is silent.
Exit import_hf(const HfOptions& hf, const CommonOptions& common, const Invocation& invocation);
// Writes output/config.json, model-*.safetensors and model.safetensors.index.json; tokenizer files are not made.
Exit export_hf(const HfOptions& hf, const CommonOptions& common, const Invocation& invocation);

}  // namespace moe
