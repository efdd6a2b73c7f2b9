// What moe-reshard writes: the tensors of the output, and for each from which tensor of the input its elements come and what
// happens to them on the way. Not here: where they are written (target_layout.h), the work itself (reshard_copy.h).
#pragma once

#include <string>
#include <vector>

#include "lib/io/manifest.h"
#include "lib/run/reshard_layout.h"

namespace moe {

// How dimension 0 of a tensor comes out of its source.
enum class RowsFrom {
  kSame,    // index i from index i
  kSelect,  // index i from index ReshardContent::experts[i]
  kRepeat,  // [E, ...]: the whole source under each index
  kNormal,  // no source: normal(0, std), a pure function of (seed, name, global element index), as moe-train initialises
  kZero,    // no source
};

struct ContentTensor {
  ManifestTensor target;             // without slices
  std::string from_name, from_role;  // of the input
  RowsFrom rows = RowsFrom::kSame;
  float std = 0;
  // The same tensor with the same bits; only its cut may change.
  bool untouched = true;
};

struct ReshardContent {
  std::vector<ContentTensor> tensors;  // ordered by (name, role)
  std::vector<int> experts;            // of kSelect
  std::uint64_t seed = 0;              // of kNormal
  nlohmann::json state;
  std::vector<std::string> changes;  // what was asked for beside a layout, in words

  std::vector<ManifestTensor> targets() const;
};

// inputs[0] is IN, the others those of --average. Error(kUsage) for options that the input does not allow, Error(kBadInput)
// naming the tensor in which inputs differ.
ReshardContent make_content(const LayoutOptions& options, const std::vector<Manifest>& inputs);

// "0-31" or "0,2,5-7": ids below num_experts, each once, in the order of the text. Error(kUsage) otherwise.
std::vector<int> parse_expert_list(const std::string& text, int num_experts);

}  // namespace moe
