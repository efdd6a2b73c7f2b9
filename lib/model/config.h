// What a model is: its dimensions and its mathematics, and what keeps its experts in balance while it trains.
// add_model_options lists the fields once; command line, checkpoints and presets visit that list.
// Not here: how a run trains it (lib/run/train_options.h).
#pragma once

#include <cstdint>
#include <string>

#include "kernels/kernels.h"
#include "lib/base/options.h"

namespace moe {

enum class QkNorm : std::uint8_t { kNone, kHead, kFull };  // none; per head (Qwen3); over the whole projection (OLMoE)

struct ModelConfig {
  int vocab_size = 0;  // 0: as the data
  int num_layers = 4;
  int d_model = 128;
  int num_heads = 4, num_kv_heads = 4, head_dim = 32;
  float rope_theta = 1e4f;
  float norm_eps = 1e-5f;
  QkNorm qk_norm = QkNorm::kNone;
  int num_dense_layers = 0;  // the first so many blocks have a dense SwiGLU of width dense_ffn instead of experts
  int dense_ffn = 0;
  int num_experts = 8, top_k = 2, expert_ffn = 256;
  int num_shared_experts = 0;  // one SwiGLU of width num_shared_experts * expert_ffn that every token passes
  Score router_score = Score::kSoftmax;
  bool router_renormalize = true;
  float router_scale = 1;
  int num_expert_groups = 1, num_groups_kept = 1;
  GroupScore group_score = GroupScore::kTop2Sum;
  int max_nodes_per_token = 0;  // nodes whose experts a token may choose, where a mesh has more (DeepSeek-V3, 2.1.2); 0: any
  bool router_bias = false;     // expert bias that only the selection sees, moved by BalanceOptions::bias_update_speed
  bool tied_embeddings = false;
  float init_std = 0.02f;

  bool is_dense_layer(int layer) const { return layer < num_dense_layers; }
  int num_moe_layers() const { return num_layers - num_dense_layers; }
  int qkv_width() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
  RouterShape router_shape() const;
};

// Balancing of the experts' load (factors of the terms of the total loss, summed over the MoE layers).
struct BalanceOptions {
  float aux = 0;                // micro-batch balance loss (Switch Transformer): E sum f_i P_i
  float seq_aux = 0;            // sequence-wise balance loss (DeepSeek-V3, equation 17)
  float global_aux = 0;         // balance loss with f_i counted over the global batch so far (arXiv 2501.11873)
  float z = 0;                  // router z-loss (ST-MoE)
  float bias_update_speed = 0;  // step of the expert bias (arXiv 2408.15664); needs router_bias
  float capacity_factor =
      0;  // 0: dropless; else an expert takes at most factor * T K / E rows, the rest is dropped and counted
};

void add_model_options(Options& options, ModelConfig& config);
void add_balance_options(Options& options, BalanceOptions& balance);

// Throws Error(kUsage) naming the option, what it must be and what it is.
void check_config(const ModelConfig& config);

}  // namespace moe
