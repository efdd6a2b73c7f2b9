// What a model is: its dimensions and its mathematics. One list of fields (visited by the options of moe-train and by
// checkpoints); presets fill it. Not here: how a run trains it (lib/run/train_options.h).
#pragma once

#include <cstdint>
#include <string>

#include "kernels/kernels.h"

namespace moe {

enum class QkNorm : std::uint8_t { kNone, kHead, kFull };  // none; per head (Qwen3); over the whole projection (OLMoE)

struct ModelConfig {
  int vocab_size = 256;
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
  bool router_bias = false;  // expert bias that only the selection sees, moved by bias_update_speed (aux-loss-free balancing)
  bool tied_embeddings = false;
  float init_std = 0.02f;

  bool is_dense_layer(int layer) const { return layer < num_dense_layers; }
};

}  // namespace moe
