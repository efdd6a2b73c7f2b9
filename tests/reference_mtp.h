// What a module of multi-token prediction adds to its block, in the specification (DeepSeek-V3, section 2.2): which token a
// position sees and predicts, and the input of the block. Not here: the block, the order of modules (reference.cpp).
#pragma once

#include <functional>
#include <string>

#include "tests/reference.h"
#include "tests/reference_ops.h"

namespace moe::reference {

struct MtpInput {
  const ModelConfig& c;
  const ReferenceInput& in;
  int k;                                             // the module, from 0
  std::function<Weight(const std::string&)> weight;  // of its block: "mtp.projection.weight"
  Weight embedding;
};

// projection [rmsnorm(embedding of token i+k+1, or 0 where there is none) | rmsnorm(h)]
Matrix mtp_join(const MtpInput&, const Matrix& h);
// Returns dh; gradients of weights, the embedding's too, +=.
Matrix mtp_join_backward(const MtpInput&, const Matrix& dx, const Matrix& h);
// Token i+k+2 of the same sequence and document; -1: none, or not counted by the model.
std::vector<std::int32_t> mtp_targets(const ReferenceInput&, int k);

}  // namespace moe::reference
