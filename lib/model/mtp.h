// Modules of multi-token prediction (DeepSeek-V3, section 2.2). Module k (0-based) is block num_layers + k; at position i of
// a sequence it sees the hidden state h^k_i and token i+k+1, and predicts token i+k+2:
//   x^k_i = projection [norm(embedding(token i+k+1)) | norm(h^k_i)],  h^(k+1) = norm(block(x^k)),  logits = head h^(k+1)
// h^0 is the output of the model's final norm; embedding and head are the model's. A position whose token i+k+1 lies beyond
// the sequence or in another document has 0 for the first half and predicts nothing that counts, so that all blocks route
// the same tokens. Nothing that counts sees such a position: attention looks back.
// Not here: the blocks (block.h), their order (pass_mtp.cpp).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/model/block.h"
#include "lib/tensor/arena.h"

namespace moe {

// What a module makes of the tokens of a micro-batch.
struct MtpTokens {
  // Positions [first, first + count) have a token of their sequence and document: `ahead` positions on.
  struct Run {
    std::int64_t first = 0, count = 0;
  };
  int ahead = 1;  // k + 1
  std::vector<Run> runs;
  std::vector<std::int32_t> target_T;  // token i+k+2; -1: not counted, as the model's target of position i+k+1
  std::int64_t num_counted() const;
};
MtpTokens mtp_tokens(const MicroBatch& batch, int k);
// The targets alone that count; of any number of sequences.
std::int64_t num_mtp_targets(const MicroBatch& batch, int k);

// The saved state of one micro-batch in one module, beside its block's slot.
struct MtpSlot {
  Mat x_TD, h_TD;           // the block's output, and h^(k+1): what the head and the next module get
  Mat dh_TD;                // training: gradient of h^(k+1)
  std::span<float> rstd_T;  // of the norm between the two
};
// Shared by all modules.
struct MtpWork {
  Mat joined_T2D,
      djoined_T2D;  // [norm(embedding) | norm(h)]; made again for backward: norms are cheap beside what they take
  std::span<float> rstd_embedding_T, rstd_hidden_T;
  Mat dembedded_TD;  // training: gradient of the embeddings through all modules
};

// Modules that a pass runs.
struct PassOptions;
int num_modules(const PassOptions& options, const ModelConfig& config);

struct MtpRoom {
  const ModelConfig& config;
  std::int64_t num_tokens;
  DType dtype;
  bool training;
};
MtpSlot take_mtp_slot(Arena& arena, const MtpRoom& room);
MtpWork take_mtp_work(Arena& arena, const MtpRoom& room);
MtpSlot fitted(MtpSlot slot, std::int64_t num_tokens);
MtpWork fitted(MtpWork work, std::int64_t num_tokens);

// The input of a module's block from hidden states and embedded tokens: all that a module is beside its block and norm.
struct MtpJoin {
  Env env;
  const ModelConfig& config;
  const BlockParams& params;  // the module's
  const MtpTokens& tokens;
  CMat embedded_TD;  // row i: embedding of token i; position i takes row i + tokens.ahead
  CMat hidden_TD;    // h^k
  const MtpWork& work;
};
void mtp_join_forward(const MtpJoin&, Mat x_TD);  // x (=)
// The module's two norms and projection +=, dhidden += , work.dembedded += .
void mtp_join_backward(const MtpJoin&, CMat dx_TD, Mat dhidden_TD);

// h (=) norm(x) of a module; dx (=), its norm's gradient +=.
void mtp_norm_forward(const Env&, const ModelConfig&, const BlockParams&, const MtpSlot&);
void mtp_norm_backward(const Env&, const BlockParams&, const MtpSlot&, Mat dx_TD);

}  // namespace moe
