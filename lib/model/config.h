// What a model is: its dimensions and its mathematics, and what keeps its experts in balance while it trains.
// add_model_options lists the fields once; command line, checkpoints and presets visit that list.
// Not here: how a run trains it (lib/run/train_options.h).
#pragma once

#include <cstdint>
#include <string>

#include "kernels/kernels.h"
#include "lib/base/options.h"
#include "lib/base/value_schedule.h"

namespace moe {

enum class AttentionKind : std::uint8_t {
  kGqa,  // grouped queries; as many key/value heads as query heads make it multi-head attention
  kMla,  // multi-head latent attention (DeepSeek-V2, section 2.1)
};
enum class QkNorm : std::uint8_t { kNone, kHead, kFull };  // none; per head (Qwen3); over the whole projection (OLMoE)

// Stretch of the rotary embedding (YaRN, arXiv 2309.00071) as Hugging Face computes it: slow frequencies are divided by
// the factor, fast ones stay, a ramp lies in between. With g(m) = 0.1 m ln(factor) + 1, cosines and sines are multiplied by
// g(mscale) / g(mscale_all_dim), and the scores of attention by g(mscale_all_dim)^2.
struct YarnOptions {
  float factor = 1;                     // 1: no stretch
  int original_length = 4096;           // positions before it
  float beta_fast = 32, beta_slow = 1;  // turns within original_length at the ends of the ramp
  bool truncate = true;                 // the ramp ends at whole dimensions
  float mscale = 1, mscale_all_dim = 0;

  double attention_factor(double m) const;  // g
  double table_factor() const { return attention_factor(mscale) / attention_factor(mscale_all_dim); }
  double score_factor() const { return attention_factor(mscale_all_dim) * attention_factor(mscale_all_dim); }
};

struct ModelConfig {
  int vocab_size = 0;  // 0: as the data
  int num_layers = 4;
  int d_model = 128;
  AttentionKind attention = AttentionKind::kGqa;
  int num_heads = 4;
  int num_kv_heads = 4, head_dim = 32;     // kGqa
  int kv_lora_rank = 64, q_lora_rank = 0;  // kMla: widths of the compressed keys and values, and queries (0: not compressed)
  int qk_nope_head_dim = 32, qk_rope_head_dim = 16, v_head_dim = 32;  // kMla: parts of a head
  float rope_theta = 1e4f;
  bool rope_interleaved = false;  // pairs (2i, 2i + 1), as DeepSeek's weights have them; else (i, i + R/2)
  YarnOptions yarn;
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
  // gpt-oss (arXiv 2508.10925): biases of q, k, v and the output map, of the router's logits and of the experts; per query
  // head a learnt logit without a value in the softmax; layers that see only the last sliding_window tokens; SwiGLU as
  // (u + 1) g sigmoid(1.702 g) with g at most, and u within, swiglu_limit.
  bool attention_bias = false, router_logit_bias = false, expert_bias = false;  // attention_bias: kGqa
  bool attention_sinks = false;                                                 // kGqa
  int sliding_window = 0;            // tokens, the own one included; 0: all layers see everything
  std::string layer_types = "full";  // of the blocks in turn, over and over: "sliding,full"
  float swiglu_limit = 0;            // 0: plain SwiGLU
  // Modules behind the last block that predict one token more each (multi-token prediction, DeepSeek-V3, section 2.2):
  // blocks num_layers, num_layers + 1, ... with experts unless all blocks are dense.
  int num_mtp_layers = 0;

  int num_blocks() const { return num_layers + num_mtp_layers; }
  bool is_mtp_layer(int layer) const { return layer >= num_layers; }
  bool is_dense_layer(int layer) const { return layer < num_dense_layers || num_dense_layers == num_layers; }
  int num_moe_layers() const { return num_dense_layers == num_layers ? 0 : num_blocks() - num_dense_layers; }  // MTP's too
  int window_of(int layer) const;  // of attention; 0: everything before
  bool is_mla() const { return attention == AttentionKind::kMla; }
  int qkv_width() const { return (num_heads + 2 * num_kv_heads) * head_dim; }               // kGqa
  int qk_dim() const { return is_mla() ? qk_nope_head_dim + qk_rope_head_dim : head_dim; }  // of a query and a key
  int value_dim() const { return is_mla() ? v_head_dim : head_dim; }
  int rope_dim() const { return is_mla() ? qk_rope_head_dim : head_dim; }  // columns of a head that are turned
  float attention_scale() const;                                           // of q k^T
  double rope_frequency(int pair) const;  // angle from one position to the next, pair in [0, rope_dim() / 2)
  RouterShape router_shape() const;
};

// Balancing of the experts' load (factors of the terms of the total loss, summed over the MoE layers).
struct BalanceOptions {
  float aux = 0;                    // micro-batch balance loss (Switch Transformer): E sum f_i P_i
  float seq_aux = 0;                // sequence-wise balance loss (DeepSeek-V3, equation 17)
  float global_aux = 0;             // balance loss with f_i counted over the global batch so far (arXiv 2501.11873)
  float z = 0;                      // router z-loss (ST-MoE)
  ValueSchedule bias_update_speed;  // step of the expert bias (arXiv 2408.15664); needs router_bias
  float capacity_factor =
      0;  // 0: dropless; else an expert takes at most factor * T K / E rows, the rest is dropped and counted
};

void add_model_options(Options& options, ModelConfig& config);
void add_balance_options(Options& options, BalanceOptions& balance);

// Throws Error(kUsage) naming the option, what it must be and what it is.
void check_config(const ModelConfig& config);

}  // namespace moe
