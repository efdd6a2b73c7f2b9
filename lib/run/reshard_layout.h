// moe-reshard IN -o OUT: a checkpoint in another layout (files, dtype, what is kept), streamed with bounded memory; the
// layout-independent digest of what is kept is the same before and after. Not here: the plan (lib/io/reshard_plan.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/common_options.h"
#include "lib/base/error.h"

namespace moe {

class World;

struct LayoutOptions {
  std::string input, output;
  int ep = 0, shard = 0, replicate = 1;  // files as the ranks of this mesh write them; 0: as in the input
  std::string plan;               // where experts live: a plan file, "none", "" as in the input if the ranks are as many
  int files = 0;                  // or so many files of even size; 0: one per rank of the mesh
  std::int64_t memory_bytes = 0;  // most that the buffers of this process may take
  bool weights_only = false;      // weights and router biases alone
  bool drop_optimizer = false;    // without moments (masters, counters and data position stay)
  bool drop_mtp = false;
  std::string weights = "model";     // or ema: the moving average becomes the weights
  std::string dtype = "keep";        // of the weights: keep, fp32 or bf16
  std::vector<std::string> average;  // further checkpoints: the mean of all is written
  int upcycle = 0;                   // dense checkpoint -> so many experts, each a copy of the dense FFN
  std::string experts;               // "0-31": keep these experts only
};

// On the ranks of a job the files are shared out among them. Prints old and new layout and both digests.
Exit reshard_layout(const LayoutOptions& layout, const CommonOptions& common, const Invocation& invocation, World& world);
// The same without a word; its seconds.
double reshard_seconds(const LayoutOptions& layout, const CommonOptions& common, const Invocation& invocation, World& world);

}  // namespace moe
