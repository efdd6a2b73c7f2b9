// The attention of the specification between the norm of a block and its output map: grouped queries and latent attention
// (DeepSeek-V2, section 2.1), rotary embedding, YaRN. Not here: softmax attention itself (reference_ops.h).
#pragma once

#include <functional>
#include <string>

#include "lib/model/config.h"
#include "tests/reference_ops.h"

namespace moe::reference {

struct AttentionInput {
  const ModelConfig& c;
  std::function<Weight(const std::string&)> weight;  // "attn.q_norm.weight"
  int num_seqs, seq_len;
  std::span<const std::int32_t> doc_start;
  int layer = 0;
};

// h [T, D], the normed residual stream -> o [T, H*Sv]; and dh from d_o, gradients of weights +=.
Matrix attention_core(const AttentionInput&, const Matrix& h);
Matrix attention_core_backward(const AttentionInput&, const Matrix& d_o, const Matrix& h);

// The rotary embedding of the last R columns of every head of width S, R the width that the configuration gives; the
// position is the row index modulo seq_len. Interleaved pairs come out as halves, as in Hugging Face's DeepSeek models:
// queries and keys alike, so that scores are the same. The backward is the transpose.
Matrix rope(const ModelConfig&, const Matrix& x, int S, int seq_len);
Matrix rope_backward(const ModelConfig&, const Matrix& dy, int S, int seq_len);

// Angles per position of the R/2 pairs, and the factor on cosines and sines.
std::vector<double> rope_frequencies(const ModelConfig&);
double rope_factor(const ModelConfig&);

}  // namespace moe::reference
