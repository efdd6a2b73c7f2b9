// The operations of the specification. Each forward is a pure function of its input; each backward takes the same input
// and recomputes what it needs, so that nothing is saved. dx is returned (=); gradients of weights are `+=`.
// Not here: routers (reference_router.h), the order of the operations (reference.cpp).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moe::reference {

struct Matrix {
  std::int64_t rows = 0, cols = 0;
  std::vector<double> v;

  Matrix() = default;
  Matrix(std::int64_t r, std::int64_t c) : rows(r), cols(c), v(static_cast<std::size_t>(r * c), 0.0) {}
  double& operator()(std::int64_t i, std::int64_t j) { return v[static_cast<std::size_t>(i * cols + j)]; }
  double operator()(std::int64_t i, std::int64_t j) const { return v[static_cast<std::size_t>(i * cols + j)]; }
  Matrix columns(std::int64_t begin, std::int64_t n) const;
  Matrix row(std::int64_t i) const;
  void operator+=(const Matrix& b);
};
Matrix join_columns(const Matrix& a, const Matrix& b);

// A weight and, in a backward pass, where its gradient is added.
struct Weight {
  const double* w = nullptr;
  double* dw = nullptr;
  Weight at(std::int64_t offset) const { return {w + offset, dw ? dw + offset : nullptr}; }
};

// y_MN = x_MK w_NK^T + bias_N, if there is one.
Matrix linear(const Matrix& x_MK, Weight w_NK, std::int64_t N, Weight bias = {});
Matrix linear_backward(const Matrix& dy_MN, const Matrix& x_MK, Weight w_NK, Weight bias = {});

// y = x / sqrt(mean(x^2) + eps) * w over each of `groups` equal column groups, which share w [cols / groups].
Matrix rmsnorm(const Matrix& x, Weight w, int groups, double eps);
Matrix rmsnorm_backward(const Matrix& dy, const Matrix& x, Weight w, int groups, double eps);

// Causal attention inside each sequence and document. q [T, H*S], k [T, Hk*S], v [T, Hk*Sv] -> [T, H*Sv]
struct AttentionDims {
  int num_seqs = 1, seq_len = 1, num_heads = 1, num_kv_heads = 1, head_dim = 1, value_dim = 1;
  double scale = 1;
  int window = 0;  // > 0: token i sees j > i - window only
  Weight sinks;    // [H], or none: e^sink is one more term of the denominator of a head's softmax
};
struct Qkv {
  Matrix q, k, v;
};
Matrix attention(const AttentionDims&, const Qkv&, std::span<const std::int32_t> doc_start);
Qkv attention_backward(const AttentionDims&, const Matrix& d_o, const Qkv&, std::span<const std::int32_t> doc_start);

// down(silu(gate(x)) * up(x)); gate_up [2F, D] with the rows of gate first, down [D, F]. With a limit (gpt-oss)
// down((u + 1) g sigmoid(1.702 g)), g = min(gate(x), limit), u = up(x) cut to [-limit, limit].
struct Swiglu {
  Weight gate_up, down, gate_up_bias, down_bias;  // biases: or none
  std::int64_t F = 1;
  double limit = 0;
};
Matrix swiglu(const Matrix& x, const Swiglu&);
Matrix swiglu_backward(const Matrix& dy, const Matrix& x, const Swiglu&);

// Mean over counted targets of -log softmax(logits)[target].
double cross_entropy(const Matrix& logits, std::span<const std::int32_t> targets);
Matrix cross_entropy_backward(const Matrix& logits, std::span<const std::int32_t> targets);

// softmax and log(sum(exp)) of one row.
std::vector<double> softmax(std::span<const double> z);
double log_sum_exp(std::span<const double> z);

}  // namespace moe::reference
