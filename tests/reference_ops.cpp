// The operations of the specification: see reference_ops.h for the contracts.
#include "tests/reference_ops.h"

#include <algorithm>
#include <cmath>

namespace moe::reference {

Matrix Matrix::columns(std::int64_t begin, std::int64_t n) const {
  Matrix part(rows, n);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < n; ++j) part(i, j) = (*this)(i, begin + j);
  return part;
}

Matrix Matrix::row(std::int64_t i) const {
  Matrix one(1, cols);
  for (std::int64_t j = 0; j < cols; ++j) one(0, j) = (*this)(i, j);
  return one;
}

void Matrix::operator+=(const Matrix& b) {
  for (std::size_t i = 0; i < v.size(); ++i) v[i] += b.v.at(i);
}

Matrix join_columns(const Matrix& a, const Matrix& b) {
  Matrix both(a.rows, a.cols + b.cols);
  for (std::int64_t i = 0; i < a.rows; ++i) {
    for (std::int64_t j = 0; j < a.cols; ++j) both(i, j) = a(i, j);
    for (std::int64_t j = 0; j < b.cols; ++j) both(i, a.cols + j) = b(i, j);
  }
  return both;
}

Matrix linear(const Matrix& x_MK, Weight w_NK, std::int64_t N, Weight bias) {
  const std::int64_t K = x_MK.cols;
  Matrix y_MN(x_MK.rows, N);
  for (std::int64_t m = 0; m < x_MK.rows; ++m)
    for (std::int64_t n = 0; n < N; ++n) {
      if (bias.w) y_MN(m, n) = bias.w[n];
      for (std::int64_t k = 0; k < K; ++k) y_MN(m, n) += x_MK(m, k) * w_NK.w[n * K + k];
    }
  return y_MN;
}

Matrix linear_backward(const Matrix& dy_MN, const Matrix& x_MK, Weight w_NK, Weight bias) {
  const std::int64_t K = x_MK.cols;
  Matrix dx_MK(x_MK.rows, K);
  for (std::int64_t m = 0; m < x_MK.rows; ++m)
    for (std::int64_t n = 0; n < dy_MN.cols; ++n) {
      if (bias.dw) bias.dw[n] += dy_MN(m, n);
      for (std::int64_t k = 0; k < K; ++k) {
        dx_MK(m, k) += dy_MN(m, n) * w_NK.w[n * K + k];
        w_NK.dw[n * K + k] += dy_MN(m, n) * x_MK(m, k);
      }
    }
  return dx_MK;
}

namespace {

// 1 / sqrt(mean(x^2) + eps) of G columns from `begin`.
double reciprocal_rms(const Matrix& x, std::int64_t i, std::int64_t begin, std::int64_t G, double eps) {
  double sum = 0;
  for (std::int64_t j = 0; j < G; ++j) sum += x(i, begin + j) * x(i, begin + j);
  return 1 / std::sqrt(sum / static_cast<double>(G) + eps);
}

}  // namespace

Matrix rmsnorm(const Matrix& x, Weight w, int groups, double eps) {
  const std::int64_t G = x.cols / groups;
  Matrix y(x.rows, x.cols);
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t begin = 0; begin < x.cols; begin += G) {
      const double r = reciprocal_rms(x, i, begin, G, eps);
      for (std::int64_t j = 0; j < G; ++j) y(i, begin + j) = x(i, begin + j) * r * w.w[j];
    }
  return y;
}

// With r = (mean(x^2) + eps)^(-1/2): dr/dx_j = -r^3 x_j / G, so dx_j = r (dy_j w_j - x_j r^2 mean(dy w x)).
Matrix rmsnorm_backward(const Matrix& dy, const Matrix& x, Weight w, int groups, double eps) {
  const std::int64_t G = x.cols / groups;
  Matrix dx(x.rows, x.cols);
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t begin = 0; begin < x.cols; begin += G) {
      const double r = reciprocal_rms(x, i, begin, G, eps);
      double mean = 0;
      for (std::int64_t j = 0; j < G; ++j) mean += dy(i, begin + j) * w.w[j] * x(i, begin + j) / static_cast<double>(G);
      for (std::int64_t j = 0; j < G; ++j) {
        dx(i, begin + j) = r * (dy(i, begin + j) * w.w[j] - x(i, begin + j) * r * r * mean);
        w.dw[j] += dy(i, begin + j) * x(i, begin + j) * r;
      }
    }
  return dx;
}

namespace {

// One query: token t (row) of head h, whose keys are the rows first .. t of key-value head g.
struct Query {
  std::int64_t t, first;
  std::int64_t q_col, k_col, o_col, v_col;
};

template <class Visit>
void for_each_query(const AttentionDims& dims, std::span<const std::int32_t> doc_start, Visit visit) {
  const int heads_per_kv_head = dims.num_heads / dims.num_kv_heads;
  for (std::int64_t s = 0; s < dims.num_seqs; ++s)
    for (int h = 0; h < dims.num_heads; ++h)
      for (std::int64_t i = 0; i < dims.seq_len; ++i) {
        const std::int64_t t = s * dims.seq_len + i;
        const std::int64_t start = doc_start.empty() ? 0 : doc_start[static_cast<std::size_t>(t)];
        const int g = h / heads_per_kv_head;
        visit(Query{t, s * dims.seq_len + start, h * dims.head_dim, g * dims.head_dim, h * dims.value_dim,
                    g * dims.value_dim});
      }
}

// p_j = e^z_j / (e^sink + sum over i of e^z_i), z_j = scale * q_t . k_j, j = first .. t; the last one is the sink's.
std::vector<double> attention_weights(const AttentionDims& dims, const Qkv& x, const Query& at) {
  std::vector<double> z;
  for (std::int64_t j = at.first; j <= at.t; ++j) {
    double dot = 0;
    for (int c = 0; c < dims.head_dim; ++c) dot += x.q(at.t, at.q_col + c) * x.k(j, at.k_col + c);
    z.push_back(dot * dims.scale);
  }
  z.push_back(dims.sinks.w ? dims.sinks.w[at.head] : -std::numeric_limits<double>::infinity());
  return softmax(z);
}

}  // namespace

Matrix attention(const AttentionDims& dims, const Qkv& x, std::span<const std::int32_t> doc_start) {
  Matrix o(x.q.rows, std::int64_t{dims.num_heads} * dims.value_dim);
  for_each_query(dims, doc_start, [&](const Query& at) {
    const std::vector<double> p = attention_weights(dims, x, at);
    for (std::int64_t j = at.first; j <= at.t; ++j)
      for (int c = 0; c < dims.value_dim; ++c)
        o(at.t, at.o_col + c) += p[static_cast<std::size_t>(j - at.first)] * x.v(j, at.v_col + c);
  });
  return o;
}

// dp_j = do . v_j, 0 of the sink;  dz_j = scale p_j (dp_j - sum_i p_i dp_i);  dq = sum_j dz_j k_j, dk_j = dz_j q, dv_j = p_j do
Qkv attention_backward(const AttentionDims& dims, const Matrix& d_o, const Qkv& x, std::span<const std::int32_t> doc_start) {
  Qkv d{Matrix(x.q.rows, x.q.cols), Matrix(x.k.rows, x.k.cols), Matrix(x.v.rows, x.v.cols)};
  for_each_query(dims, doc_start, [&](const Query& at) {
    const std::vector<double> p = attention_weights(dims, x, at);
    std::vector<double> dp(p.size(), 0.0);
    double mean = 0;
    for (std::size_t j = 0; j + 1 < p.size(); ++j) {
      const std::int64_t row = at.first + static_cast<std::int64_t>(j);
      for (int c = 0; c < dims.value_dim; ++c) dp[j] += d_o(at.t, at.o_col + c) * x.v(row, at.v_col + c);
      mean += p[j] * dp[j];
    }
    if (dims.sinks.dw) dims.sinks.dw[at.head] -= p.back() * mean;
    for (std::size_t j = 0; j + 1 < p.size(); ++j) {
      const std::int64_t row = at.first + static_cast<std::int64_t>(j);
      const double dz = p[j] * (dp[j] - mean) * dims.scale;
      for (int c = 0; c < dims.head_dim; ++c) {
        d.q(at.t, at.q_col + c) += dz * x.k(row, at.k_col + c);
        d.k(row, at.k_col + c) += dz * x.q(at.t, at.q_col + c);
      }
      for (int c = 0; c < dims.value_dim; ++c) d.v(row, at.v_col + c) += p[j] * d_o(at.t, at.o_col + c);
    }
  });
  return d;
}

namespace {

double sigmoid(double z) { return 1 / (1 + std::exp(-z)); }

// h = z sigmoid(alpha z) up of one element and its derivatives; z and up are g and u, or what the limit makes of them.
struct Gated {
  double h, dg, du;
};
Gated gated(double g, double u, double limit) {
  const double alpha = limit > 0 ? 1.702 : 1;
  const double z = limit > 0 ? std::min(g, limit) : g, up = limit > 0 ? std::clamp(u, -limit, limit) + 1 : u;
  const double s = sigmoid(alpha * z);
  const bool g_is_cut = limit > 0 && g > limit, u_is_cut = limit > 0 && std::fabs(u) > limit;
  return {z * s * up, g_is_cut ? 0 : up * s * (1 + alpha * z * (1 - s)), u_is_cut ? 0 : z * s};
}

Matrix hidden(const Matrix& gu, const Swiglu& f) {
  Matrix h(gu.rows, f.F);
  for (std::int64_t i = 0; i < gu.rows; ++i)
    for (std::int64_t j = 0; j < f.F; ++j) h(i, j) = gated(gu(i, j), gu(i, f.F + j), f.limit).h;
  return h;
}

}  // namespace

Matrix swiglu(const Matrix& x, const Swiglu& f) {
  return linear(hidden(linear(x, f.gate_up, 2 * f.F, f.gate_up_bias), f), f.down, x.cols, f.down_bias);
}

Matrix swiglu_backward(const Matrix& dy, const Matrix& x, const Swiglu& f) {
  const Matrix gu = linear(x, f.gate_up, 2 * f.F, f.gate_up_bias);
  const Matrix dh = linear_backward(dy, hidden(gu, f), f.down, f.down_bias);
  Matrix dgu(gu.rows, gu.cols);
  for (std::int64_t i = 0; i < gu.rows; ++i)
    for (std::int64_t j = 0; j < f.F; ++j) {
      const Gated d = gated(gu(i, j), gu(i, f.F + j), f.limit);
      dgu(i, j) = dh(i, j) * d.dg;
      dgu(i, f.F + j) = dh(i, j) * d.du;
    }
  return linear_backward(dgu, x, f.gate_up, f.gate_up_bias);
}

double log_sum_exp(std::span<const double> z) {
  const double largest = *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (const double a : z) sum += std::exp(a - largest);
  return largest + std::log(sum);
}

std::vector<double> softmax(std::span<const double> z) {
  const double lse = log_sum_exp(z);
  std::vector<double> p;
  for (const double a : z) p.push_back(std::exp(a - lse));
  return p;
}

namespace {

std::span<const double> row_of(const Matrix& m, std::int64_t i) {
  return std::span(m.v).subspan(static_cast<std::size_t>(i * m.cols), static_cast<std::size_t>(m.cols));
}

double num_counted(std::span<const std::int32_t> targets) {
  return static_cast<double>(std::count_if(targets.begin(), targets.end(), [](std::int32_t t) { return t >= 0; }));
}

}  // namespace

double cross_entropy(const Matrix& logits, std::span<const std::int32_t> targets) {
  double sum = 0;
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    const std::int32_t target = targets[static_cast<std::size_t>(t)];
    if (target >= 0) sum += log_sum_exp(row_of(logits, t)) - logits(t, target);
  }
  return sum / std::max(1.0, num_counted(targets));
}

Matrix cross_entropy_backward(const Matrix& logits, std::span<const std::int32_t> targets) {
  Matrix d(logits.rows, logits.cols);
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    const std::int32_t target = targets[static_cast<std::size_t>(t)];
    if (target < 0) continue;
    const std::vector<double> p = softmax(row_of(logits, t));
    for (std::int64_t v = 0; v < logits.cols; ++v)
      d(t, v) = (p[static_cast<std::size_t>(v)] - (v == target ? 1 : 0)) / num_counted(targets);
  }
  return d;
}

}  // namespace moe::reference
