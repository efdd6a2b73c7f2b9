// Attention rows. Work is counted causally: the pairs j <= i only, 2 products forward, 5 backward (the scores are computed
// again). A check recomputes one head of one sequence in double, forward and backward.
#include <algorithm>
#include <cmath>
#include <functional>

#include "lib/run/bench_cases.h"

namespace moe {
namespace {

struct AttentionSet {
  Mat qkv, o, d_o, dqkv;
  std::span<float> lse_TH, sinks_H, dsinks_H;
};

struct AttentionBench {
  Env env;
  AttentionShape s;
  bool has_sinks = false;
  std::int64_t T = std::int64_t{s.num_seqs} * s.seq_len;
  std::int64_t q = std::int64_t{s.num_heads} * s.head_dim, k = std::int64_t{s.num_kv_heads} * s.head_dim;
  std::int64_t v = std::int64_t{s.num_kv_heads} * s.value_dim, o = std::int64_t{s.num_heads} * s.value_dim;

  AttentionSet take(Operands& from) const {
    return {from.matrix(T, q + k + v),    from.matrix(T, o),        from.matrix(T, o),       from.matrix(T, q + k + v),
            from.floats(T * s.num_heads), from.floats(s.num_heads), from.floats(s.num_heads)};
  }
  AttentionShape shape_of(const AttentionSet& a) const {
    AttentionShape shape = s;
    if (has_sinks) shape.sinks_H = a.sinks_H.data();
    return shape;
  }
  void forward(const AttentionSet& a) const {
    env.kernels.attention.forward(env.stream, shape_of(a), a.qkv.slice_cols(0, q), a.qkv.slice_cols(q, k),
                                  a.qkv.slice_cols(q + k, v), nullptr, a.o, a.lse_TH.data());
  }
  void backward(const AttentionSet& a) const {
    env.kernels.attention.backward(env.stream, shape_of(a), a.qkv.slice_cols(0, q), a.qkv.slice_cols(q, k),
                                   a.qkv.slice_cols(q + k, v), a.o, a.lse_TH.data(), nullptr, a.d_o, a.dqkv.slice_cols(0, q),
                                   a.dqkv.slice_cols(q, k), a.dqkv.slice_cols(q + k, v),
                                   has_sinks ? a.dsinks_H.data() : nullptr);
  }
  double num_pairs() const {  // sum over i < L of min(i + 1, W)
    const double L = s.seq_len, W = s.window > 0 ? std::min(s.window, s.seq_len) : s.seq_len;
    return s.num_seqs * s.num_heads * (W * (W + 1) / 2 + (L - W) * W);
  }
};

// Plain loops in double for the last sequence and the last key/value head with all its query heads.
class HeadReference {
 public:
  HeadReference(const AttentionBench& bench, const AttentionSet& a)
      : b_(bench),
        a_(a),
        L_(bench.s.seq_len),
        S_(bench.s.head_dim),
        V_(bench.s.value_dim),
        o_(size(V_)),
        dq_(size(S_)),
        dk_(size(S_)),
        dv_(size(V_)) {}

  double forward_error() {
    WorstDeviation worst;
    for (int h = first_head(); h < b_.s.num_heads; ++h) {
      run_head(h);
      compare(a_.o, h * V_, V_, o_, worst);
    }
    return worst.value();
  }
  double backward_error() {
    WorstDeviation worst;
    for (int h = first_head(); h < b_.s.num_heads; ++h) {
      run_head(h);
      compare(a_.dqkv, h * S_, S_, dq_, worst);
    }
    compare(a_.dqkv, b_.q + b_.k - S_, S_, dk_, worst);
    compare(a_.dqkv, b_.q + b_.k + b_.v - V_, V_, dv_, worst);
    return worst.value();
  }

 private:
  std::size_t size(std::int64_t width) const { return static_cast<std::size_t>(L_ * width); }
  int first_head() const { return b_.s.num_heads - b_.s.num_heads / b_.s.num_kv_heads; }
  const float* row(CMat m, std::int64_t i, std::int64_t col) const {
    return m.slice_cols(col, 1).f32() + (b_.T - L_ + i) * m.stride;
  }

  template <class A, class B>
  static double dot(std::int64_t width, const A* x, const B* y) {
    double sum = 0;
    for (std::int64_t d = 0; d < width; ++d) sum += static_cast<double>(x[d]) * static_cast<double>(y[d]);
    return sum;
  }
  template <class A>
  static void add(std::vector<double>& to, std::int64_t i, std::int64_t width, double factor, const A* x) {
    for (std::int64_t d = 0; d < width; ++d)
      to[static_cast<std::size_t>(i * width + d)] += factor * static_cast<double>(x[d]);
  }
  // One head: o and dq start anew, dk and dv collect over the heads.
  void run_head(int h) {
    std::fill(o_.begin(), o_.end(), 0.0);
    std::fill(dq_.begin(), dq_.end(), 0.0);
#pragma omp parallel
    {
      std::vector<double> dk(size(S_)), dv(size(V_));  // of this thread's queries
#pragma omp for schedule(static, 1)
      for (std::int64_t i = 0; i < L_; ++i) run_query(h, i, dk, dv);
#pragma omp critical
      {
        std::transform(dk.begin(), dk.end(), dk_.begin(), dk_.begin(), std::plus<>());
        std::transform(dv.begin(), dv.end(), dv_.begin(), dv_.begin(), std::plus<>());
      }
    }
  }
  void run_query(int h, std::int64_t i, std::vector<double>& dk, std::vector<double>& dv) {
    const float *q = row(a_.qkv, i, h * S_), *d_o = row(a_.d_o, i, h * V_);
    const auto key = [&](std::int64_t j) { return row(a_.qkv, j, b_.q + b_.k - S_); };
    const auto value = [&](std::int64_t j) { return row(a_.qkv, j, b_.q + b_.k + b_.v - V_); };
    const std::int64_t first = b_.s.window > 0 ? std::max<std::int64_t>(0, i - b_.s.window + 1) : 0;
    std::vector<double> p(static_cast<std::size_t>(i) + 1);
    double sum = b_.has_sinks ? std::exp(double{a_.sinks_H[static_cast<std::size_t>(h)]}) : 0;
    for (std::int64_t j = first; j <= i; ++j)
      sum += p[static_cast<std::size_t>(j)] = std::exp(b_.s.scale * dot(S_, q, key(j)));
    for (std::int64_t j = first; j <= i; ++j) add(o_, i, V_, p[static_cast<std::size_t>(j)] /= sum, value(j));
    const double delta = dot(V_, d_o, &o_[static_cast<std::size_t>(i * V_)]);
    for (std::int64_t j = first; j <= i; ++j) {
      const double pj = p[static_cast<std::size_t>(j)], ds = b_.s.scale * pj * (dot(V_, d_o, value(j)) - delta);
      add(dv, j, V_, pj, d_o);
      add(dq_, i, S_, ds, key(j));
      add(dk, j, S_, ds, q);
    }
  }
  // Relative to the largest wanted element, but at least to 0.1: operands lie in [-1, 1], a gradient may be 0 (one key).
  void compare(CMat got, std::int64_t col, std::int64_t width, const std::vector<double>& want,
               WorstDeviation& worst) const {
    double scale = 0.1;
    for (const double w : want) scale = std::fmax(scale, std::fabs(w));
    for (std::size_t i = 0; i < want.size(); ++i) {
      const auto n = static_cast<std::int64_t>(i);
      worst.add(row(got, n / width, col)[n % width], want[i], scale);
    }
  }

  const AttentionBench& b_;
  const AttentionSet& a_;
  std::int64_t L_, S_, V_;
  std::vector<double> o_, dq_, dk_, dv_;
};

// Probabilities are rounded too where matrices are bf16.
BenchCase attention_case(const BenchTarget& t, const AttentionBench& b, bool backward) {
  const auto all = take_sets(t.env.stream, t.dtype, false, [=](Operands& o) { return b.take(o); });
  for (const AttentionSet& a : *all) b.forward(a);  // backward reads o and lse
  return {.work = 2.0 * (backward ? 3.0 * b.s.head_dim + 2.0 * b.s.value_dim : 1.0 * b.s.head_dim + b.s.value_dim) *
                  b.num_pairs(),
          .tolerance = t.dtype == DType::kBF16 ? 0x1p-6 : 2e-5,
          .num_sets = all->size(),
          .run = [=](int call) { backward ? b.backward(all->of(call)) : b.forward(all->of(call)); },
          .error =
              [=] {
                b.forward(all->front());
                if (backward) b.backward(all->front());
                HeadReference reference(b, all->pulled());
                return backward ? reference.backward_error() : reference.forward_error();
              }};
}

}  // namespace

std::vector<BenchEntry> attention_entries(const BenchTarget& t) {
  const ModelConfig& c = t.config;
  const AttentionShape s{.num_seqs = t.shape.num_seqs,
                         .seq_len = t.shape.seq_len,
                         .num_heads = c.num_heads,
                         .num_kv_heads = c.is_mla() ? c.num_heads : c.num_kv_heads,
                         .head_dim = c.qk_dim(),
                         .value_dim = c.value_dim(),
                         .scale = c.attention_scale()};
  const AttentionBench bench{t.env, s};
  AttentionBench window{t.env, s, true};
  window.s.window = 128;
  std::string shape = dims({s.num_seqs, s.seq_len, s.num_heads, s.head_dim});
  if (s.value_dim != s.head_dim) shape += "/" + std::to_string(s.value_dim);
  return {{"attention/forward", shape, [=] { return attention_case(t, bench, false); }},
          {"attention/backward", shape, [=] { return attention_case(t, bench, true); }},
          {"attention_window/forward", shape, [=] { return attention_case(t, window, false); }},
          {"attention_window/backward", shape, [=] { return attention_case(t, window, true); }}};
}

}  // namespace moe
