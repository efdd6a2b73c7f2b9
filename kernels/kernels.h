// THE PAGE: the formula, the shapes and `=` or `+=` of every operation, for every device.
//
// Rules. Parameter gradients are fp32 and `+=`; activation gradients are `=`, and where an argument `Store` says so
// `+=` (the residual stream). A Mat may be fp32 or bf16 unless a comment says f32; bf16 is read as float, computed in
// float and rounded once when stored. Outputs may not alias inputs unless a comment says so. Every sum has an order
// that depends on the shapes only: the same input gives the same bits with any number of threads.
// A shape that does not fit throws std::invalid_argument naming the operation.
// All memory, spans and tables too, is the stream's device's, numbers that are added up too, but for what is said to be of
// the host. On a GPU a call returns before its work is done, unless it returns a number; what would be thrown for values
// (ids out of range) is not looked at there.
//
// One struct of function pointers per noun; `Kernels` holds all of them; cpu_kernels() takes the widest vector
// instructions that this processor has. Not here: models, files, ranks.
#pragma once

#include "kernels/device.h"
#include "kernels/view.h"

namespace moe {

// Linear maps, weights stored [out, in] as Hugging Face does. Matrix units (CUDA, AMX) round an fp32 operand of more than
// 4096 columns to bf16 where the other one is of bf16 (the gradient of the logits).
struct GemmKernels {
  // y_MN (=|+=) x_MK w_NK^T
  void (*forward)(Stream&, CMat x_MK, CMat w_NK, Mat y_MN, Store store);
  // dx_MK (=|+=) dy_MN w_NK
  void (*backward_input)(Stream&, CMat dy_MN, CMat w_NK, Mat dx_MK, Store store);
  // dw_NK += dy_MN^T x_MK          dw f32
  void (*backward_weight)(Stream&, CMat dy_MN, CMat x_MK, Mat dw_NK);
};

// The same for E experts whose rows lie one expert after the other: expert e owns rows [psum_rows_E1[e],
// psum_rows_E1[e+1]) of the row operands (psum_rows_E1 has E+1 entries, from 0 to R; an expert may own none) and
// rows [e*N, (e+1)*N) of the weights w_ENK, seen as the matrix [E*N, K]. No padding, no capacity.
struct GroupedGemmKernels {
  void (*forward)(Stream&, CMat x_RK, CMat w_ENK, std::span<const std::int64_t> psum_rows_E1, Mat y_RN, Store store);
  void (*backward_input)(Stream&, CMat dy_RN, CMat w_ENK, std::span<const std::int64_t> psum_rows_E1, Mat dx_RK,
                         Store store);
  void (*backward_weight)(Stream&, CMat dy_RN, CMat x_RK, std::span<const std::int64_t> psum_rows_E1, Mat dw_ENK);
};

// Biases of linear maps: b_EN holds E*N elements next to each other, as a matrix of any shape. Row r of expert e (rows
// lie as in GroupedGemmKernels; an empty psum_rows_E1: one expert owns all) gets gate_R[r] b_e; gate_R = nullptr means 1.
struct BiasKernels {
  // y_RN[r] (=|+=) gate_R[r] b_e
  void (*forward)(Stream&, CMat b_EN, std::span<const std::int64_t> psum_rows_E1, const float* gate_R, Mat y_RN,
                  Store store);
  // dgate_R[r] += sum over N of dy_RN[r] b_e
  void (*backward_gate)(Stream&, CMat dy_RN, CMat b_EN, std::span<const std::int64_t> psum_rows_E1, float* dgate_R);
  // db_e += sum over the expert's rows, in their order, of gate_R[r] dy_RN[r]          db f32
  void (*backward_weight)(Stream&, CMat dy_RN, std::span<const std::int64_t> psum_rows_E1, const float* gate_R, Mat db_EN);
};

// Root mean square norm (Zhang & Sennrich 2019) of each of `groups` equal column groups of a row:
// y = x * rstd * w, rstd = 1 / sqrt(mean(x^2) + eps). The width of a group is G = cols / groups and w_G serves all
// groups: groups = 1 is the norm of the whole row, groups = H the per-head norm of queries and keys.
struct RmsNormKernels {
  void (*forward)(Stream&, CMat x_TC, CMat w_1G, int groups, float eps, Mat y_TC, float* rstd_Tg);  // rstd [T * groups]
  // dx (=|+=) rstd * (dy*w - x * rstd^2 * mean(dy*w*x)); dx may be dy itself with Store::kAssign.
  void (*backward_input)(Stream&, CMat dy_TC, CMat x_TC, CMat w_1G, int groups, const float* rstd_Tg, Mat dx_TC,
                         Store store);
  // dw_G += sum over rows and groups of dy * x * rstd
  void (*backward_weight)(Stream&, CMat dy_TC, CMat x_TC, int groups, const float* rstd_Tg, float* dw_G);
};

// Rotary position embedding (Su et al. 2021) of a part of each of the cols / head_dim heads of a row, in place: columns
// [first, first + R) of the head, as pairs (a, b) -> (a cos - b sin, b cos + a sin). The pairs are (i, i + R/2) as in
// Hugging Face's Llama family, or neighbours (2i, 2i + 1) as in the paper and in DeepSeek's models.
// cos_PR2, sin_PR2: tables of P positions x R/2 (f32); pos_T: the position of each row, in [0, P).
struct RopeShape {
  int head_dim = 2;
  int first = 0;
  int width = 0;  // R, even; 0: what follows `first`
  bool interleaved = false;
  int turned() const { return width > 0 ? width : head_dim - first; }
};
struct RopeKernels {
  void (*forward)(Stream&, Mat x_TC, const RopeShape&, std::span<const std::int32_t> pos_T, const float* cos_PR2,
                  const float* sin_PR2);
  void (*backward)(Stream&, Mat dx_TC, const RopeShape&, std::span<const std::int32_t> pos_T, const float* cos_PR2,
                   const float* sin_PR2);
};

// Keys and values of multi-head latent attention (DeepSeek-V2, section 2.1), from their up-projection kv [T, H*(N+Sv)],
// whose heads are [N of the key | Sv of the value], and the key part that all heads share, rope [T, R]. All of one dtype.
struct LatentShape {
  int num_heads = 1, nope_dim = 1, rope_dim = 2, value_dim = 1;  // H, N, R, Sv
};
struct LatentKernels {
  // k [T, H*(N+R)] (=) heads [N of kv | rope]; v [T, H*Sv] (=) the values of kv.
  void (*split)(Stream&, const LatentShape&, CMat kv, CMat rope_TR, Mat k, Mat v);
  // dkv (=) the same elements of dk and dv; drope_TR (=) sum over the heads, in their order, of the last R columns of dk.
  void (*join)(Stream&, const LatentShape&, CMat dk, CMat dv, Mat dkv, Mat drope_TR);
  // Generation attends to the compressed vectors [c | rope] themselves, with the up-projection w [H*(N+Sv), C] absorbed:
  // qa [T, H*(C+R)] (=) heads [q_N W_key | q_R] of q [T, H*(N+R)], ...
  void (*absorb)(Stream&, const LatentShape&, CMat q, CMat w, Mat qa);
  // ... and o [T, H*Sv] (=) heads W_value a of a [T, H*C], the sums of compressed vectors that attention gives.
  void (*expand)(Stream&, const LatentShape&, CMat a, CMat w, Mat o);
};

// Causal attention of num_seqs sequences of seq_len tokens each (T = num_seqs * seq_len); query head h reads the
// keys and values of head h / (num_heads / num_kv_heads). Token i of a sequence attends to j with
// doc_start[i] <= j <= i, where doc_start_T holds, for each token, the index inside its sequence of the first token
// of its document (nullptr: no documents, 0 everywhere). No seq_len x seq_len matrix is ever stored.
struct AttentionShape {
  int num_seqs = 1, seq_len = 1, num_heads = 1, num_kv_heads = 1;
  int head_dim = 1;                // width S of queries and keys
  int value_dim = 1;               // width of values and outputs
  float scale = 1;                 // usually 1 / sqrt(head_dim)
  int window = 0;                  // > 0: token i attends to j > i - window only; tiles outside are skipped
  const float* sinks_H = nullptr;  // a logit per query head that the denominator of its softmax counts too (gpt-oss)
};
struct AttentionKernels {
  // o = softmax(scale q k^T) v; lse_TH = log of the softmax's denominator (with the maximum folded in), f32.
  // q [T, H*S], k [T, Hk*S], v [T, Hk*Sv], o [T, H*Sv]; rows may be strided.
  void (*forward)(Stream&, const AttentionShape&, CMat q, CMat k, CMat v, const std::int32_t* doc_start_T, Mat o,
                  float* lse_TH);
  // dq, dk, dv (=); dsinks_H += , nullptr without sinks
  void (*backward)(Stream&, const AttentionShape&, CMat q, CMat k, CMat v, CMat o, const float* lse_TH,
                   const std::int32_t* doc_start_T, CMat d_o, Mat dq, Mat dk, Mat dv, float* dsinks_H);
};

// Attention of new tokens to the keys and values of a cache (generation). Row t of q belongs to a sequence whose position
// p lies in row first_row_T[t] + p of k and v; it sees the positions below num_keys_T[t] >= 1, of which with a window only
// the last so many. num_seqs and seq_len of the shape do not count. The bits of a row depend on its own sequence alone.
struct CacheAttentionKernels {
  // o (=) softmax(scale q k^T) v; q [T, H*S], k [rows, Hk*S], v [rows, Hk*Sv], which may be columns of k, o [T, H*Sv].
  void (*forward)(Stream&, const AttentionShape&, CMat q, CMat k, CMat v, std::span<const std::int64_t> first_row_T,
                  std::span<const std::int32_t> num_keys_T, Mat o);
};

// SwiGLU (Shazeer 2020) with the router's gate folded in: gu = [g | u] (the first F columns are the gate projection),
// h = gate * silu(g) * u, silu(z) = z / (1 + exp(-z)). gate_R = nullptr means 1. With a limit, gpt-oss' form (arXiv
// 2508.10925): h = gate * g' sigmoid(1.702 g') * (u' + 1), g' = min(g, limit), u' = u within -limit .. limit.
struct SwigluShape {
  float limit = 0;  // 0: plain
};
struct SwigluKernels {
  void (*forward)(Stream&, const SwigluShape&, CMat gu_R2F, const float* gate_R, Mat h_RF);
  // dgu (=), may be gu itself, 0 where the limit cuts; dgate_R (=) sum over F of dh * h / gate, may be nullptr.
  void (*backward_input)(Stream&, const SwigluShape&, CMat dh_RF, CMat gu_R2F, const float* gate_R, Mat dgu_R2F,
                         float* dgate_R);
};

// Routers. All f32. E logical experts, K chosen per token, ties to the lowest index.
enum class Score : std::uint8_t { kSoftmax, kSigmoid };
enum class GroupScore : std::uint8_t { kTop2Sum, kMax };
struct RouterShape {
  int num_experts = 1, top_k = 1;
  Score score = Score::kSoftmax;
  bool renormalize =
      false;        // divide the chosen scores by their sum (softmax over the chosen logits = softmax + renormalize)
  float scale = 1;  // factor on the gates (routed_scaling_factor)
  int num_groups = 1,
      num_groups_kept = 1;  // E experts in equal contiguous groups; only experts of the kept groups may be chosen
  GroupScore group_score = GroupScore::kTop2Sum;  // V3: sum of the two largest selection scores; V2: the largest
  // Node limit (DeepSeek-V3 section 2.1.2), after the group limit: a token's experts lie on at most num_nodes_kept nodes.
  // expert2node: [E] of the host, in [0, num_nodes), in any order and number; nullptr: no node limit. A node's score is the
  // sum of its ceil(K / num_nodes_kept) largest selection scores that the group limit leaves (of all of them where there are
  // fewer). Nodes are kept in order of falling score, ties to the lowest node, until num_nodes_kept are kept or none with
  // an allowed expert is left; all other experts are out. A token whose kept nodes hold fewer than K allowed experts, which
  // cannot be where any num_nodes_kept nodes hold K experts of any num_groups_kept groups (MeshContext checks it), throws
  // std::invalid_argument after all tokens; on a GPU it gets the best others. num_nodes_kept = num_nodes changes nothing.
  const std::int32_t* expert2node = nullptr;
  int num_nodes = 1, num_nodes_kept = 1;
};
struct RouterKernels {
  // scores_TE (=) softmax or sigmoid of logits; selection = scores + bias_E (bias may be nullptr); idx_TK (=) the K
  // experts of largest selection score inside the kept groups and nodes, in order of falling selection score; gate_TK (=)
  // scale * s or scale * s / (sum of the chosen s + 1e-20), from the scores without bias.
  void (*forward)(Stream&, const RouterShape&, const float* logits_TE, std::int64_t num_tokens, const float* bias_E,
                  float* scores_TE, std::int32_t* idx_TK, float* gate_TK);
  // Two steps, so that balance losses may add to dscores in between: dscores_TE (=) from dgate_TK, ...
  void (*backward_gates)(Stream&, const RouterShape&, const float* scores_TE, std::int64_t num_tokens,
                         const std::int32_t* idx_TK, const float* dgate_TK, float* dscores_TE);
  // ... then dlogits_TE (=) through softmax or sigmoid; may be dscores_TE itself.
  void (*backward_scores)(Stream&, const RouterShape&, const float* scores_TE, std::int64_t num_tokens,
                          const float* dscores_TE, float* dlogits_TE);
  // counts_GE (=): how often expert e is among the K largest of the scores (no bias, groups or nodes) of the tokens of
  // segment g; T = num_segments * tokens_per_segment. The f_i of the sequence-wise balance loss.
  void (*count_top_k)(Stream&, const RouterShape&, const float* scores_TE, std::int64_t num_segments,
                      std::int64_t tokens_per_segment, std::int64_t* counts_GE);
  // f_n (=) float(factor * (counts_n - before_n)), before_n = nullptr: 0. The f_i of a balance loss, from counts.
  void (*fractions)(Stream&, const std::int64_t* counts_n, const std::int64_t* before_n, double factor,
                    std::span<float> f_n);
  // Balance loss of num_segments segments of tokens_per_segment tokens each:
  //   P_i = mean over the segment's tokens of s_ti / sum_j s_tj,   L_g = sum_i f_gi P_i,   L = alpha * mean over g of L_g.
  // *loss += scale * L. f_GE is a constant. If dscores_TE is not null: dscores_TE += scale * dL/d(scores_TE).
  void (*balance_loss)(Stream&, const RouterShape&, const float* scores_TE, std::int64_t num_segments,
                       std::int64_t tokens_per_segment, const float* f_GE, float alpha, float scale, float* dscores_TE,
                       double* loss);
  // Router z-loss (ST-MoE): L = coef * mean over tokens of logsumexp(logits_t)^2, *loss += scale * L;
  // if dlogits_TE is not null: dlogits_TE += scale * dL/d(logits).
  void (*z_loss)(Stream&, const RouterShape&, const float* logits_TE, std::int64_t num_tokens, float coef, float scale,
                 float* dlogits_TE, double* loss);
  // What was decided: counts_E += slots of each expert, coactivation_EE += tokens that chose both, *entropy += T times the
  // mean over every eighth token (from the first) of the entropy of s / sum(s), in nats: a metric.
  void (*tally)(Stream&, const RouterShape&, const float* scores_TE, std::int64_t num_tokens, const std::int32_t* idx_TK,
                std::int64_t* counts_E, std::int64_t* coactivation_EE, double* entropy);
};

// Rows in the order of their experts. A slot is t*K + k; a row is a place in the sorted order, -1 = dropped.
struct PermuteKernels {
  // Counting sort by (expert, slot): psum_rows_E1 (=) first row of each expert; slot2row_N (=); row2slot_R (=), R =
  // psum_rows_E1[E]. capacity < 0: dropless, R = N. Otherwise an expert keeps its first `capacity` slots, the others
  // get slot2row = -1. Returns the number of dropped slots.
  std::int64_t (*plan)(Stream&, std::span<const std::int32_t> idx_N, int num_experts, std::int64_t capacity,
                       std::int64_t* psum_rows_E1, std::int32_t* slot2row_N, std::int32_t* row2slot_R);
  // x_RD[r] (=) x_TD[row2slot_R[r] / K]
  void (*gather)(Stream&, CMat x_TD, std::span<const std::int32_t> row2slot_R, int top_k, Mat x_RD);
  // x_TD[t] (=|+=) sum over k = 0 .. K-1, in that order, of y_RD[slot2row_N[t*K+k]]; dropped rows add nothing.
  void (*combine)(Stream&, CMat y_RD, std::span<const std::int32_t> slot2row_N, int top_k, Mat x_TD, Store store);
  // One number a slot, there and back: v_R[r] (=) v_N[row2slot_R[r]];  v_N[i] (=) v_R[slot2row_N[i]], 0 where dropped.
  void (*gather_values)(Stream&, const float* v_N, std::span<const std::int32_t> row2slot_R, float* v_R);
  void (*return_values)(Stream&, const float* v_R, std::span<const std::int32_t> slot2row_N, float* v_N);
};

// w_VD by token id. Ids must lie in [0, V): callers check data before it comes here; a foreign id throws.
struct EmbeddingKernels {
  void (*forward)(Stream&, std::span<const std::int32_t> id_T, CMat w_VD, Mat x_TD);  // x =
  void (*backward_weight)(Stream&, std::span<const std::int32_t> id_T, CMat dx_TD,
                          Mat dw_VD);  // dw += , in token order; f32
};

// Cross-entropy in nats. target -1: the token is not counted.
struct CrossEntropyKernels {
  // *sum += the sum over counted tokens of -log softmax(logits_t)[target_t]. loss_T (may be nullptr) (=) each token's term,
  // 0 where not counted. If grad_scale != 0, logits_TV (f32) is overwritten by grad_scale * (softmax - onehot), zero rows
  // where not counted.
  void (*forward)(Stream&, Mat logits_TV, std::span<const std::int32_t> target_T, float grad_scale, float* loss_T,
                  double* sum);
  // token_T (=) the place of each row's largest logit, ties to the lowest.
  void (*greedy)(Stream&, CMat logits_TV, std::int32_t* token_T);
};

// Elements by themselves.
struct ElementKernels {
  // to (=|+=) from, of the same shape: rounded, widened or only moved.
  void (*copy)(Stream&, CMat from, Mat to, Store store);
  // Row to_row_N[i] of `to` = row from_row_N[i] of `from`, i = 0, ..., N - 1, of the same dtype and width; nullptr: row i.
  // No row of `to` comes twice.
  void (*copy_rows)(Stream&, CMat from, const std::int64_t* from_row_N, Mat to, const std::int64_t* to_row_N,
                    std::int64_t N);
  void (*swap)(Stream&, std::span<float> a, std::span<float> b);
  // to[0, n) (=|+=) from[0][0, n) + from[1][0, n) + ..., in this order; the list is of the host, and one of them may be
  // `to`.
  void (*sum)(Stream&, std::span<const float* const> from, std::int64_t n, float* to, Store store);
};

// AdamW (Loshchilov & Hutter 2019), fused over all tensors of a list.
struct AdamWTensor {       // lists of them are of the host
  float* w = nullptr;      // weights, or their fp32 master
  BF16* w_bf16 = nullptr;  // rounded copy, rewritten after the update; may be nullptr
  float* g = nullptr;      // gradient; set to zero after the update
  void* m = nullptr;       // of dtype `moments`: read as float, computed in float, rounded once when stored
  void* v = nullptr;
  std::int64_t n = 0;
  float decay = 0;  // weight decay of this tensor
  DType moments = DType::kF32;
};
struct AdamWHyper {
  float lr = 0, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f;
  std::int64_t step = 1;  // 1 for the first update
  float grad_scale = 1;   // factor on g: the clip factor
};
struct AdamWKernels {
  // m = b1 m + (1-b1) g s;  v = b2 v + (1-b2) (g s)^2;  w -= lr * (m^ / (sqrt(v^) + eps) + decay * w), m^ = m / (1 -
  // b1^step), ...
  void (*step)(Stream&, std::span<const AdamWTensor> tensors, const AdamWHyper&);
  // *sum += the sum of g^2 over all of a list, which is of the host (order fixed by the sizes); not finite if any gradient
  // is not finite.
  void (*sum_of_squares)(Stream&, std::span<const std::span<const float>> g, double* sum);
  // Exponential moving average: mean += (1 - decay) (w - mean)
  void (*average)(Stream&, std::span<float> mean, const float* w, double decay);
};

// Muon (Jordan 2024; arXiv 2502.16982): the momentum of a matrix, made orthogonal, is its update.
// Tensors are those of AdamW; v is not looked at.
struct MuonKernels {
  // m = momentum * m + g s;  g (=) g s + momentum * m (Nesterov), of the unrounded m; s = grad_scale
  void (*momentum)(Stream&, const AdamWTensor&, float momentum, float grad_scale);
  // x_MN (=) scale * X5 with X0 = x / (|x|_F + 1e-7) and five steps A = X X^T (X^T X where M > N), B = b A + c A A,
  // X = a X + B X (X B): about scale * U V^T of x = U S V^T, singular values in 0.7 .. 1.2. x f32, without padding.
  // work: orthogonalize_floats(M, N) or more.
  void (*orthogonalize)(Stream&, Mat x_MN, float scale, std::span<float> work);
  // w -= lr * (g + decay * w); g (=) 0. g: the update.
  void (*apply)(Stream&, const AdamWTensor&, float lr);
};
constexpr std::int64_t orthogonalize_floats(std::int64_t M, std::int64_t N) {
  const std::int64_t r = M < N ? M : N;
  return M * N + 2 * r * r;
}

struct Kernels {
  const char* isa;  // "avx512", "avx2" or "generic"; "cuda"
  GemmKernels gemm;
  GroupedGemmKernels grouped_gemm;
  BiasKernels bias;
  RmsNormKernels rmsnorm;
  RopeKernels rope;
  LatentKernels latent;
  AttentionKernels attention;
  CacheAttentionKernels cache_attention;
  SwigluKernels swiglu;
  RouterKernels router;
  PermuteKernels permute;
  EmbeddingKernels embedding;
  CrossEntropyKernels cross_entropy;
  ElementKernels elements;
  AdamWKernels adamw;
  MuonKernels muon;
  // GFLOP/s of multiply-adds in registers alone, for `seconds` on all threads: the roof of this processor for products of
  // `dtype`.
  double (*register_peak_gflops)(Stream&, DType dtype, double seconds);
};

// Where a computation runs and with what.
struct Env {
  Stream& stream;
  const Kernels& kernels;
};

// The widest of avx512, avx2 and generic that this processor runs. The environment variable MOE_ISA may ask for less.
const Kernels& cpu_kernels();
// A given one by name, or nullptr if this processor or this build does not have it. For tests and moe-bench.
const Kernels* cpu_kernels_by_isa(const std::string& isa);

}  // namespace moe
