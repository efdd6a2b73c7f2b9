// See reference_attention.h. YaRN follows DeepSeek-V3's published modeling code step by step.
#include "tests/reference_attention.h"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace moe::reference {
namespace {

int rope_width(const ModelConfig& c) { return c.attention == AttentionKind::kMla ? c.qk_rope_head_dim : c.head_dim; }

double get_mscale(double scale, double mscale) { return scale <= 1 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0; }

double find_correction_dim(double num_rotations, double dim, double base, double length) {
  return dim * std::log(length / (num_rotations * 2 * std::acos(-1.0))) / (2 * std::log(base));
}

// Where a pair of a head lies before and after: halves after, neighbours or halves before.
struct PairAt {
  std::int64_t a_in, b_in, a_out, b_out;
};
PairAt pair_at(const ModelConfig& c, std::int64_t begin, int i) {
  const int half = rope_width(c) / 2;
  const PairAt p{begin + i, begin + i + half, begin + i, begin + i + half};
  if (!c.rope_interleaved) return p;
  return {begin + std::int64_t{2} * i, begin + std::int64_t{2} * i + 1, p.a_out, p.b_out};
}

template <class Turn>
Matrix turn_heads(const ModelConfig& c, const Matrix& x, int S, int seq_len, Turn turn) {
  const int R = rope_width(c);
  const std::vector<double> frequency = rope_frequencies(c);
  const double m = rope_factor(c);
  Matrix y = x;
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t head = 0; head < x.cols; head += S)
      for (int i = 0; i < R / 2; ++i) {
        const double angle = static_cast<double>(t % seq_len) * frequency[static_cast<std::size_t>(i)];
        turn(y, t, pair_at(c, head + S - R, i), m * std::cos(angle), m * std::sin(angle));
      }
  return y;
}

// The comma-separated types of the layers, over and over.
int window_of(const AttentionInput& in) {
  std::vector<bool> slides;
  std::istringstream types(in.c.layer_types);
  for (std::string type; std::getline(types, type, ',');) slides.push_back(type == "sliding");
  return slides[static_cast<std::size_t>(in.layer) % slides.size()] ? in.c.sliding_window : 0;
}

AttentionDims dims_of(const AttentionInput& in) {
  const ModelConfig& c = in.c;
  const bool mla = c.attention == AttentionKind::kMla;
  const int S = mla ? c.qk_nope_head_dim + c.qk_rope_head_dim : c.head_dim;
  const double m = get_mscale(c.yarn.factor, c.yarn.mscale_all_dim);
  return {.num_seqs = in.num_seqs,
          .seq_len = in.seq_len,
          .num_heads = c.num_heads,
          .num_kv_heads = mla ? c.num_heads : c.num_kv_heads,
          .head_dim = S,
          .value_dim = mla ? c.v_head_dim : c.head_dim,
          .scale = m * m / std::sqrt(S),
          .window = window_of(in),
          .sinks = c.attention_sinks ? in.weight("attn.sinks") : Weight{}};
}

// ---- grouped queries ----

int norm_groups(const ModelConfig& c, const Matrix& x) {
  return c.qk_norm == QkNorm::kHead ? static_cast<int>(x.cols) / c.head_dim : 1;
}

// which: "q" or "k"
Matrix norm_and_rotate(const AttentionInput& in, const std::string& which, const Matrix& x) {
  const ModelConfig& c = in.c;
  const Matrix normed = c.qk_norm == QkNorm::kNone
                            ? x
                            : rmsnorm(x, in.weight("attn." + which + "_norm.weight"), norm_groups(c, x), c.norm_eps);
  return rope(c, normed, c.head_dim, in.seq_len);
}

Matrix norm_and_rotate_backward(const AttentionInput& in, const std::string& which, const Matrix& dy, const Matrix& x) {
  const ModelConfig& c = in.c;
  const Matrix dnormed = rope_backward(c, dy, c.head_dim, in.seq_len);
  if (c.qk_norm == QkNorm::kNone) return dnormed;
  return rmsnorm_backward(dnormed, x, in.weight("attn." + which + "_norm.weight"), norm_groups(c, x), c.norm_eps);
}

struct Projections {
  Qkv raw, rotated;  // after QK norm and RoPE; v as it was
};

Weight qkv_bias(const AttentionInput& in) { return in.c.attention_bias ? in.weight("attn.qkv.bias") : Weight{}; }

Projections project(const AttentionInput& in, const Matrix& h) {
  const std::int64_t q_cols = std::int64_t{in.c.num_heads} * in.c.head_dim,
                     kv_cols = std::int64_t{in.c.num_kv_heads} * in.c.head_dim;
  const Matrix qkv = linear(h, in.weight("attn.qkv.weight"), q_cols + 2 * kv_cols, qkv_bias(in));
  Projections p;
  p.raw = {qkv.columns(0, q_cols), qkv.columns(q_cols, kv_cols), qkv.columns(q_cols + kv_cols, kv_cols)};
  p.rotated = {norm_and_rotate(in, "q", p.raw.q), norm_and_rotate(in, "k", p.raw.k), p.raw.v};
  return p;
}

Matrix gqa_backward(const AttentionInput& in, const Matrix& d_o, const Matrix& h) {
  const Projections p = project(in, h);
  Qkv d = attention_backward(dims_of(in), d_o, p.rotated, in.doc_start);
  d.q = norm_and_rotate_backward(in, "q", d.q, p.raw.q);
  d.k = norm_and_rotate_backward(in, "k", d.k, p.raw.k);
  return linear_backward(join_columns(join_columns(d.q, d.k), d.v), h, in.weight("attn.qkv.weight"), qkv_bias(in));
}

// ---- latent attention ----

struct Latent {
  Matrix q_a, q_n;          // compressed queries before and after their norm; q_n = h if they are not compressed
  Matrix kv_a, c_kv, kv_n;  // [c_kv | k_R], c_kv, norm(c_kv)
  Qkv heads;                // what attention reads
};

std::string query_map(const ModelConfig& c) { return c.q_lora_rank > 0 ? "attn.q_b.weight" : "attn.q.weight"; }

// [k_C of the head | the turned key part]; values.
void set_keys_and_values(const AttentionInput& in, const Matrix& kv, const Matrix& k_rope, Qkv& heads) {
  const std::int64_t N = in.c.qk_nope_head_dim, R = in.c.qk_rope_head_dim, V = in.c.v_head_dim;
  heads.k = heads.v = Matrix(kv.rows, 0);
  for (int head = 0; head < in.c.num_heads; ++head) {
    heads.k = join_columns(join_columns(heads.k, kv.columns(head * (N + V), N)), k_rope.columns(0, R));
    heads.v = join_columns(heads.v, kv.columns(head * (N + V) + N, V));
  }
}

Latent latent_of(const AttentionInput& in, const Matrix& h) {
  const ModelConfig& c = in.c;
  const int S = c.qk_nope_head_dim + c.qk_rope_head_dim;
  Latent x;
  x.q_n = h;
  if (c.q_lora_rank > 0) {
    x.q_a = linear(h, in.weight("attn.q_a.weight"), c.q_lora_rank);
    x.q_n = rmsnorm(x.q_a, in.weight("attn.q_a_norm.weight"), 1, c.norm_eps);
  }
  x.heads.q = rope(c, linear(x.q_n, in.weight(query_map(c)), std::int64_t{c.num_heads} * S), S, in.seq_len);
  x.kv_a = linear(h, in.weight("attn.kv_a.weight"), c.kv_lora_rank + c.qk_rope_head_dim);
  x.c_kv = x.kv_a.columns(0, c.kv_lora_rank);
  x.kv_n = rmsnorm(x.c_kv, in.weight("attn.kv_a_norm.weight"), 1, c.norm_eps);
  const Matrix kv = linear(x.kv_n, in.weight("attn.kv_b.weight"), c.num_heads * (c.qk_nope_head_dim + c.v_head_dim));
  const Matrix k_rope = rope(c, x.kv_a.columns(c.kv_lora_rank, c.qk_rope_head_dim), c.qk_rope_head_dim, in.seq_len);
  set_keys_and_values(in, kv, k_rope, x.heads);
  return x;
}

Matrix queries_backward(const AttentionInput& in, const Matrix& dq, const Latent& x, const Matrix& h) {
  const ModelConfig& c = in.c;
  const Matrix d = rope_backward(c, dq, c.qk_nope_head_dim + c.qk_rope_head_dim, in.seq_len);
  const Matrix dq_n = linear_backward(d, x.q_n, in.weight(query_map(c)));
  if (c.q_lora_rank == 0) return dq_n;
  const Matrix dq_a = rmsnorm_backward(dq_n, x.q_a, in.weight("attn.q_a_norm.weight"), 1, c.norm_eps);
  return linear_backward(dq_a, h, in.weight("attn.q_a.weight"));
}

Matrix keys_backward(const AttentionInput& in, const Qkv& d, const Latent& x, const Matrix& h) {
  const ModelConfig& c = in.c;
  const std::int64_t N = c.qk_nope_head_dim, R = c.qk_rope_head_dim, V = c.v_head_dim;
  Matrix dkv(h.rows, 0), dk_rope(h.rows, R);
  for (int head = 0; head < c.num_heads; ++head) {
    dkv = join_columns(join_columns(dkv, d.k.columns(head * (N + R), N)), d.v.columns(head * V, V));
    dk_rope += d.k.columns(head * (N + R) + N, R);
  }
  const Matrix dkv_n = linear_backward(dkv, x.kv_n, in.weight("attn.kv_b.weight"));
  const Matrix dc_kv = rmsnorm_backward(dkv_n, x.c_kv, in.weight("attn.kv_a_norm.weight"), 1, c.norm_eps);
  const Matrix dkv_a = join_columns(dc_kv, rope_backward(c, dk_rope, c.qk_rope_head_dim, in.seq_len));
  return linear_backward(dkv_a, h, in.weight("attn.kv_a.weight"));
}

}  // namespace

std::vector<double> rope_frequencies(const ModelConfig& c) {
  const YarnOptions& y = c.yarn;
  const int dim = rope_width(c);
  const double base = c.rope_theta;
  double low = find_correction_dim(y.beta_fast, dim, base, y.original_length);
  double high = find_correction_dim(y.beta_slow, dim, base, y.original_length);
  if (y.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, dim - 1.0);
  std::vector<double> list;
  for (int i = 0; i < dim / 2; ++i) {
    const double freq_extra = 1 / std::pow(base, 2.0 * i / dim), freq_inter = 1 / (y.factor * std::pow(base, 2.0 * i / dim));
    const double ramp = std::clamp((i - low) / (low == high ? 0.001 : high - low), 0.0, 1.0);
    list.push_back(y.factor > 1 ? freq_inter * ramp + freq_extra * (1 - ramp) : freq_extra);
  }
  return list;
}

double rope_factor(const ModelConfig& c) {
  return get_mscale(c.yarn.factor, c.yarn.mscale) / get_mscale(c.yarn.factor, c.yarn.mscale_all_dim);
}

Matrix rope(const ModelConfig& c, const Matrix& x, int S, int seq_len) {
  return turn_heads(c, x, S, seq_len, [&](Matrix& y, std::int64_t t, const PairAt& p, double cos, double sin) {
    const double a = x(t, p.a_in), b = x(t, p.b_in);
    y(t, p.a_out) = a * cos - b * sin;
    y(t, p.b_out) = b * cos + a * sin;
  });
}

Matrix rope_backward(const ModelConfig& c, const Matrix& dy, int S, int seq_len) {
  return turn_heads(c, dy, S, seq_len, [&](Matrix& dx, std::int64_t t, const PairAt& p, double cos, double sin) {
    const double a = dy(t, p.a_out), b = dy(t, p.b_out);
    dx(t, p.a_in) = a * cos + b * sin;
    dx(t, p.b_in) = b * cos - a * sin;
  });
}

Matrix attention_core(const AttentionInput& in, const Matrix& h) {
  const bool mla = in.c.attention == AttentionKind::kMla;
  return attention(dims_of(in), mla ? latent_of(in, h).heads : project(in, h).rotated, in.doc_start);
}

Matrix attention_core_backward(const AttentionInput& in, const Matrix& d_o, const Matrix& h) {
  if (in.c.attention == AttentionKind::kGqa) return gqa_backward(in, d_o, h);
  const Latent x = latent_of(in, h);
  const Qkv d = attention_backward(dims_of(in), d_o, x.heads, in.doc_start);
  Matrix dh = queries_backward(in, d.q, x, h);
  dh += keys_backward(in, d, x, h);
  return dh;
}

}  // namespace moe::reference
