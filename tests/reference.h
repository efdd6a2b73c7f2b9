// The specification: the whole Mixture-of-Experts decoder in double, plain loops, forward and hand-written backward.
// Slow on purpose; every other implementation is judged by it. Its own judges are finite differences
// (reference_test.cpp) and values of an independent framework (golden_reference_test.cpp).
//
// The model. x_t = embedding[token_t]; then for each block
//   x += Wo attention(rope(qk_norm(q)), rope(qk_norm(k)), v),   [q; k; v] = Wqkv rmsnorm(x), or latent attention
//                           (reference_attention.h)
//   x += ffn(rmsnorm(x)),   ffn = SwiGLU in the first num_dense_layers blocks, else
//                           sum over the chosen experts of gate * SwiGLU_e + shared SwiGLU (if any, gate 1)
// logits = Whead rmsnorm(x), or embedding rmsnorm(x) if tied.
//
// Choices that formulas leave open:
//   * RoPE rotates the pairs (i, i + S/2) of a head, or (2i, 2i + 1), by position * theta^(-2i/S), or what YaRN makes of
//     it. The position is the index inside the sequence, also inside documents: scores depend on differences only. QK norm
//     comes before RoPE, the scale is 1/sqrt(S), under YaRN times the square of its mscale_all_dim factor.
//   * Token i of a sliding layer sees j > i - sliding_window. A sink is a logit beside those of a head's keys, not scaled,
//     without a value. Biases of experts are inside their gates: gate * (Wd h + bd).
//   * QkNorm::kHead is one RMSNorm of width S per head, weight [S] shared by the heads; kFull is one RMSNorm over the
//     whole projection, weight [H*S] for q and [Hk*S] for k. Every norm uses norm_eps.
//   * Experts of groups that are not kept have selection score -infinity. Ties go to the lowest index, for groups too.
//     Gates come from the scores without bias: scale * s, or scale * s / (sum of the chosen s + 1e-20).
//   * With a node limit (ReferenceInput::expert2node), after the groups: a node scores the sum of its
//     ceil(K / num_nodes_kept) largest selection scores that are not -infinity; experts outside the num_nodes_kept best
//     nodes have selection score -infinity.
//   * Cross entropy is the mean over counted tokens (target >= 0) of all sequences; 0 if none counts.
//   * Module k of multi-token prediction (block L + k) gets h^k_i, h^0 being what the head gets, and token i+k+1: see
//     reference_mtp.h. Its output, normed by its own norm, is h^(k+1), and goes through the model's head. Its cross entropy
//     is the mean over its own counted targets; each has the coefficient mtp / number of modules. Its block counts as the
//     others.
//   * total = cross entropy + sum over MoE layers (not a mean) of the four balance terms; each term below holds its
//     coefficient already:
//       aux         aux * E * sum_i f_i P_i, f_i = count_i / (T K) of the actual selection (bias, groups and nodes included)
//       seq_aux     seq_aux * mean over sequences of sum_i f_i P_i, f_i = E / (K T_s) * (how often expert i is among the K
//                   largest scores of a token, without bias, groups and nodes)
//       global_aux  as aux, with f_i given from outside (ReferenceInput::global_f)
//       z           z * mean over tokens of logsumexp(router logits)^2
//     P_i is the mean over the tokens (of the batch, or of the sequence) of s_ti / sum_j s_tj. f never has a gradient.
//
// Parameters, weights [out, in]: see reference_shapes(). Not here: the optimiser (reference_train.h).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lib/model/config.h"

namespace moe {

// By name, row-major. Also used for gradients (same names, same sizes).
using ReferenceParams = std::map<std::string, std::vector<double>>;

struct ReferenceLoss {
  double aux = 0, seq_aux = 0, global_aux = 0, z = 0;  // coefficients
  double mtp = 0;                                      // weight of multi-token prediction
};

// T = num_seqs * seq_len tokens.
struct ReferenceInput {
  int num_seqs = 1, seq_len = 1;
  std::vector<std::int32_t> tokens;   // [T]
  std::vector<std::int32_t> targets;  // [T], -1 = not counted
  std::vector<std::int32_t>
      doc_start;  // [T], index inside the sequence of the first token of the document; empty: 0 everywhere
  // "layers.{i}.router.bias" -> [E]; a layer that is absent has no bias.
  ReferenceParams router_bias;
  // [blocks][E], used where ReferenceLoss::global_aux is not 0; entries of dense layers are not read.
  std::vector<std::vector<double>> global_f;
  std::vector<std::int32_t> expert2node;  // [E], the same in every layer; empty: no node limit
  int num_nodes_kept = 1;
};

struct ReferenceTerms {
  double cross_entropy = 0, aux = 0, seq_aux = 0, global_aux = 0, z = 0;
  std::vector<double> mtp{};  // cross entropy of each module of multi-token prediction, without its coefficient
  double mtp_weighted = 0;    // all of them, with it
  double total() const { return cross_entropy + aux + seq_aux + global_aux + z + mtp_weighted; }
};

struct ReferenceOutput {
  std::vector<double> logits;  // [T, V]
  ReferenceTerms terms;
  ReferenceParams grads;                           // d total / d parameter; empty after reference_forward
  std::vector<std::vector<double>> mtp_logits;     // of each module, [T, V]
  std::vector<std::vector<std::int64_t>> counts;   // [L][E] rows routed to each expert; empty vector for a dense layer
  std::vector<std::vector<std::int32_t>> experts;  // [L][T*K] chosen experts in order of falling selection score
  std::vector<std::vector<double>> gates;          // [L][T*K]
};

ReferenceOutput reference_forward(const ModelConfig&, const ReferenceParams&, const ReferenceInput&,
                                  const ReferenceLoss& = {});
// The same and the gradient of every parameter.
ReferenceOutput reference_run(const ModelConfig&, const ReferenceParams&, const ReferenceInput&, const ReferenceLoss& = {});

// The list of parameters with their logical shapes.
struct ReferenceShape {
  std::string name;
  std::vector<std::int64_t> dims;
  std::int64_t size() const;
};
std::vector<ReferenceShape> reference_shapes(const ModelConfig&);
// Normal values of deviation `std` (norms: 1 + std * normal); the same seed gives the same values everywhere.
ReferenceParams reference_random_params(const ModelConfig&, std::uint64_t seed, double std);

}  // namespace moe
