// Keys and values of multi-head latent attention between their up-projection and attention (kernels.h): rows are copied
// head by head, and the shared key part is handed to all heads. Not here: the projections, the rotary embedding.
#include "kernels/cpu.h"
#include "kernels/dispatch.h"

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

}  // namespace

const LatentKernels latent_cpu = {split, join};

}  // namespace moe::MOE_ISA
