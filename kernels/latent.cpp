// Keys and values of multi-head latent attention between their up-projection and attention (kernels.h): rows are copied
// head by head, and the shared key part is handed to all heads. Not here: the projections, the rotary embedding.
#include "kernels/cpu.h"
#include "kernels/dispatch.h"
#include "kernels/dots.h"

namespace moe::MOE_ISA {
namespace {

// Column counts of a row, and the checks of both directions.
struct Widths {
  i64 H, N, R, V;
  Widths(const char* op, const LatentShape& s, const CMat& kv, const CMat& rope_TR, const CMat& k, const CMat& v)
      : H(s.num_heads), N(s.nope_dim), R(s.rope_dim), V(s.value_dim) {
    require(H >= 1 && N >= 1 && R >= 1 && V >= 1, "latent: expected at least one head, and parts of at least one column");
    require(rope_TR.dtype == kv.dtype && k.dtype == kv.dtype && v.dtype == kv.dtype, "latent: expected one dtype");
    expect_shape(op, "kv", kv, kv.rows, H * (N + V));
    expect_shape(op, "rope", rope_TR, kv.rows, R);
    expect_shape(op, "k", k, kv.rows, H * (N + R));
    expect_shape(op, "v", v, kv.rows, H * V);
  }
  i64 bytes(i64 rows) const { return rows * H * (N + R + V) * 8; }
};

void split(Stream& stream, const LatentShape& shape, CMat kv, CMat rope_TR, Mat k, Mat v) {
  const Widths w("latent.split", shape, kv, rope_TR, k, v);
  dispatch(
      [&]<class X>(const X* from) {
        const X* rope = static_cast<const X*>(rope_TR.data);
        X *keys = static_cast<X*>(k.data), *values = static_cast<X*>(v.data);
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, w.bytes(kv.rows)))
        for (i64 t = 0; t < kv.rows; ++t)
          for (i64 h = 0; h < w.H; ++h) {
            const X* head = from + t * kv.stride + h * (w.N + w.V);
            X* key = keys + t * k.stride + h * (w.N + w.R);
            copy_row(head, key, w.N);
            copy_row(rope + t * rope_TR.stride, key + w.N, w.R);
            copy_row(head + w.N, values + t * v.stride + h * w.V, w.V);
          }
      },
      kv);
}

// drope (=) the sum over heads of one row, rounded once.
template <class X>
inline void sum_heads(const X* key, const Widths& w, X* rope) {
  for_columns(w.R, [&](i64 j, auto lanes) {
    vf total{};
    for (i64 h = 0; h < w.H; ++h) total += load(key + h * (w.N + w.R) + w.N + j, lanes);
    store(rope + j, total, lanes);
  });
}

void join(Stream& stream, const LatentShape& shape, CMat dk, CMat dv, Mat dkv, Mat drope_TR) {
  const Widths w("latent.join", shape, dkv, drope_TR, dk, dv);
  dispatch(
      [&]<class X>(const X* keys) {
        const X* values = static_cast<const X*>(dv.data);
        X *to = static_cast<X*>(dkv.data), *rope = static_cast<X*>(drope_TR.data);
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, w.bytes(dkv.rows)))
        for (i64 t = 0; t < dkv.rows; ++t) {
          const X* key = keys + t * dk.stride;
          for (i64 h = 0; h < w.H; ++h) {
            X* head = to + t * dkv.stride + h * (w.N + w.V);
            copy_row(key + h * (w.N + w.R), head, w.N);
            copy_row(values + t * dv.stride + h * w.V, head + w.N, w.V);
          }
          sum_heads(key, w, rope + t * drope_TR.stride);
        }
      },
      dk);
}

// ---- The absorbed up-projection w [H*(N+Sv), C]: thread by thread a head, whose part of w stays in L2 for all tokens.

struct Absorbed {
  i64 H, N, R, V, C;
  Absorbed(const LatentShape& s, const CMat& w) : H(s.num_heads), N(s.nope_dim), R(s.rope_dim), V(s.value_dim), C(w.cols) {
    require(H >= 1 && N >= 1 && R >= 1 && V >= 1, "latent: expected at least one head, and parts of at least one column");
    expect_shape("latent", "w", w, H * (N + V), C);
  }
};

// to (=) sum over n of q[n] * w[n], to [C]; four rows of w at a time.
template <class X>
void add_rows(const X* q, const X* w, i64 stride, i64 num_rows, i64 num_cols, X* to) {
  for_columns(num_cols, [&](i64 j, auto lanes) {
    vf sums[4] = {};
    i64 n = 0;
    for (; n + 4 <= num_rows; n += 4)
      for (int u = 0; u < 4; ++u) sums[u] = fma(splat(load_one(q + n + u)), load(w + (n + u) * stride + j, lanes), sums[u]);
    for (; n < num_rows; ++n) sums[0] = fma(splat(load_one(q + n)), load(w + n * stride + j, lanes), sums[0]);
    store(to + j, (sums[0] + sums[1]) + (sums[2] + sums[3]), lanes);
  });
}

void absorb(Stream& stream, const LatentShape& shape, CMat q, CMat w, Mat qa) {
  const Absorbed a(shape, w);
  expect_shape("latent.absorb", "q", q, q.rows, a.H * (a.N + a.R));
  expect_shape("latent.absorb", "qa", qa, q.rows, a.H * (a.C + a.R));
  require(q.dtype == w.dtype && qa.dtype == w.dtype, "latent.absorb: expected one dtype");
  dispatch(
      [&]<class X>(const X* weights) {
        const X* from = static_cast<const X*>(q.data);
        X* to = static_cast<X*>(qa.data);
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, a.H* a.N* a.C* q.rows))
        for (i64 h = 0; h < a.H; ++h)
          for (i64 t = 0; t < q.rows; ++t) {
            const X* head = from + t * q.stride + h * (a.N + a.R);
            X* out = to + t * qa.stride + h * (a.C + a.R);
            add_rows(head, weights + h * (a.N + a.V) * w.stride, w.stride, a.N, a.C, out);
            copy_row(head + a.N, out + a.C, a.R);
          }
      },
      w);
}

constexpr i64 kRowsAtATime = 16;

void expand(Stream& stream, const LatentShape& shape, CMat x, CMat w, Mat o) {
  const Absorbed a(shape, w);
  expect_shape("latent.expand", "a", x, x.rows, a.H * a.C);
  expect_shape("latent.expand", "o", o, x.rows, a.H * a.V);
  require(x.dtype == w.dtype && o.dtype == w.dtype, "latent.expand: expected one dtype");
  require((a.C + a.V) * kRowsAtATime * 4 <= static_cast<i64>(Stream::kScratchBytes), "latent.expand: a head is too wide");
  dispatch(
      [&]<class X>(const X* weights) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, a.H* a.V* a.C* x.rows))
        for (i64 h = 0; h < a.H; ++h) {
          float* rows = reinterpret_cast<float*>(stream.scratch(omp_get_thread_num()));
          float* sums = rows + kRowsAtATime * a.C;
          for (i64 t = 0; t < x.rows; t += kRowsAtATime) {
            const i64 m = x.rows - t < kRowsAtATime ? x.rows - t : kRowsAtATime;
            const CMat part = x.slice_rows(t, m).slice_cols(h * a.C, a.C);
            pack_rows(static_cast<const X*>(part.data), part.stride, m, a.C, rows, a.C);
            multiply_by_dots<X>(
                {rows, a.C, weights + (h * (a.N + a.V) + a.N) * w.stride, w.stride, m, a.V, a.C, sums, a.V, Store::kAssign});
            for (i64 i = 0; i < m; ++i) copy_row(sums + i * a.V, static_cast<X*>(o.row(t + i)) + h * a.V, a.V);
          }
        }
      },
      w);
}

}  // namespace

const LatentKernels latent_cpu = {split, join, absorb, expand};

}  // namespace moe::MOE_ISA
