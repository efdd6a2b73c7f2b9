// The list of parameters of a model: names, shapes, initial values. The only such list; memory, optimizer, checkpoints,
// counts and shards visit it.
#pragma once

#include <vector>

#include "lib/model/config.h"
#include "lib/tensor/param.h"

namespace moe {

// In the order of the forward pass. Weights are [out, in] as in Hugging Face; q, k and v lie in one tensor (rows q, then k,
// then v), gate and up in one (gate rows first). Latent attention: kv_a has the rows of the compressed vector, then those
// of the shared key part; a head of q or q_b has its rows without position, then those with; of kv_b key, then value.
std::vector<ParamSpec> parameter_specs(const ModelConfig& config);

// The parameters of one block; tensors that the block does not have are nullptr.
struct BlockParams {
  const Param *attn_norm, *qkv, *q_norm, *k_norm, *o, *ffn_norm;
  const Param *q, *q_a, *q_a_norm, *q_b, *kv_a, *kv_a_norm, *kv_b;  // latent attention: q, or the three of q_a
  const Param *gate_up, *down;                                      // dense block
  const Param *router, *expert_gate_up, *expert_down, *shared_gate_up, *shared_down;
  const Param *qkv_bias, *sinks, *o_bias, *router_bias, *expert_gate_up_bias, *expert_down_bias;  // router_bias: of logits
  const Param *mtp_embedding_norm, *mtp_hidden_norm, *mtp_projection, *mtp_norm;
};
BlockParams block_params(const ParamStore& store, int layer);

// Parameter counts in both conventions of the literature, and the work of training. Router biases count, as in the
// published totals, though no gradient moves them; the modules of multi-token prediction are counted apart.
struct ParamCounts {
  std::int64_t total = 0;
  std::int64_t active = 0;               // what one token uses, input embedding included
  std::int64_t active_no_embedding = 0;  // without the input embedding (a tied one counts once, as the head)
  std::int64_t experts = 0;              // routed experts
  std::int64_t mtp = 0;                  // of the modules, without the embedding and the head, which they share
  std::int64_t mtp_active = 0;           // of these, what one token uses
};
ParamCounts count_parameters(const ModelConfig& config);

// FLOP of one training step per token, forward and backward, without recomputation: 6 N_active (without input embedding)
// + attention 3 L H (S_qk + S_v) 2 seq_len c, with c = 1/2 for the causal half (PaLM, appendix B; causal count); a sliding
// layer has its window for seq_len. Modules of multi-token prediction count, each with a head.
double flop_per_token(const ModelConfig& config, int seq_len, bool causal = true);

}  // namespace moe
