// Keys and values of multi-head latent attention between their up-projection and attention on CUDA (kernels.h), and the
// absorbed up-projection of generation, whose few tokens read each weight once per kTokens of them.
// Not here: the projections, the rotary embedding; many tokens are not absorbed.
#include "kernels/cuda_rows.h"

namespace moe::cuda {
namespace {

constexpr int kKept = 2;  // packs of a row that a thread has

struct Heads {
  unsigned H, N, R, V;
};
Heads heads_of(const LatentShape& s) {
  require(s.num_heads >= 1 && s.nope_dim >= 1 && s.rope_dim >= 1 && s.value_dim >= 1,
          "latent: expected at least one head, and parts of at least one column");
  return {static_cast<unsigned>(s.num_heads), static_cast<unsigned>(s.nope_dim), static_cast<unsigned>(s.rope_dim),
          static_cast<unsigned>(s.value_dim)};
}
Heads check(const char* op, const LatentShape& s, const CMat& kv, const CMat& rope_TR, const CMat& k, const CMat& v) {
  const Heads h = heads_of(s);
  require(rope_TR.dtype == kv.dtype && k.dtype == kv.dtype && v.dtype == kv.dtype, "latent: expected one dtype");
  expect_shape(op, "kv", kv, kv.rows, i64{h.H} * (h.N + h.V));
  expect_shape(op, "rope", rope_TR, kv.rows, h.R);
  expect_shape(op, "k", k, kv.rows, i64{h.H} * (h.N + h.R));
  expect_shape(op, "v", v, kv.rows, i64{h.H} * h.V);
  return h;
}
template <class X>
X* of(const Mat& m) {
  return static_cast<X*>(m.data);
}
template <class X>
const X* of(const CMat& m) {
  return static_cast<const X*>(m.data);
}

// f(head, c) for each pack of [N | R | V] of each head: c is its first column there.
template <int kN, class F>
__device__ inline void walk_heads(const Heads& h, const Member& me, F f) {
  const unsigned per_head = (h.N + h.R + h.V) / kN;
  walk<kKept>(h.H * per_head, me, [&](int, unsigned j) { f(j / per_head, j % per_head * kN); });
}

template <int kN, class X>
__global__ void __launch_bounds__(kMostThreads, 1)
    split_kernel(Heads h, const X* __restrict__ kv, i64 kv_stride, const X* __restrict__ rope, i64 rope_stride,
                 X* __restrict__ k, i64 k_stride, X* __restrict__ v, i64 v_stride, unsigned rows, unsigned team) {
  const Member me(team);
  if (me.row >= rows) return;
  walk_heads<kN>(h, me, [&](unsigned head, unsigned c) {
    const X* from = kv + me.row * kv_stride + head * (h.N + h.V) + c;
    X* to = k + me.row * k_stride + head * (h.N + h.R) + c;
    if (c >= h.N + h.R)
      from -= h.R, to = v + me.row * v_stride + head * h.V + (c - h.N - h.R);
    else if (c >= h.N)
      from = rope + me.row * rope_stride + (c - h.N);
    copy_pack<kN>(from, to);
  });
}

void split(Stream& stream, const LatentShape& shape, CMat kv, CMat rope_TR, Mat k, Mat v) {
  const Heads h = check("latent.split", shape, kv, rope_TR, k, v);
  dispatch(
      [&]<class X>(const X* from) {
        with_packs<X>({kv, rope_TR, k, v}, {h.N, h.R, h.V}, [&](auto n) {
          const Teams teams = teams_for(kv.rows, i64{h.H} * (h.N + h.R + h.V) / n(), kKept);
          launch(queue_of(stream), split_kernel<n(), X>, dim3(teams.blocks), teams.threads, 0, h, from, kv.stride,
                 of<X>(rope_TR), rope_TR.stride, of<X>(k), k.stride, of<X>(v), v.stride, static_cast<unsigned>(kv.rows),
                 teams.size);
        });
      },
      kv);
}

template <int kN, class X>
__global__ void __launch_bounds__(kMostThreads, 1)
    join_kernel(Heads h, const X* __restrict__ dk, i64 k_stride, const X* __restrict__ dv, i64 v_stride, X* __restrict__ dkv,
                i64 kv_stride, unsigned rows, unsigned team) {
  const Member me(team);
  if (me.row >= rows) return;
  const unsigned per_head = (h.N + h.V) / kN;
  walk<kKept>(h.H * per_head, me, [&](int, unsigned j) {
    const unsigned head = j / per_head, c = j % per_head * kN;
    const X* const from =
        c < h.N ? dk + me.row * k_stride + head * (h.N + h.R) + c : dv + me.row * v_stride + head * h.V + (c - h.N);
    copy_pack<kN>(from, dkv + me.row * kv_stride + head * (h.N + h.V) + c);
  });
}

// drope (=) the sum over the heads, in their order, rounded once.
template <int kN, class X>
__global__ void __launch_bounds__(kMostThreads, 1)
    sum_heads_kernel(Heads h, const X* __restrict__ dk, i64 k_stride, X* __restrict__ drope, i64 rope_stride, unsigned rows,
                     unsigned team) {
  const Member me(team);
  if (me.row >= rows) return;
  for (unsigned j = me.lane; j < h.R / kN; j += me.size) {
    const X* const from = dk + me.row * k_stride + h.N + j * kN;
    float sum[kN] = {}, v[kN];
#pragma unroll 8
    for (unsigned head = 0; head < h.H; ++head) {
      load_floats(from + head * (h.N + h.R), v);
#pragma unroll
      for (int c = 0; c < kN; ++c) sum[c] += v[c];
    }
    store_floats(drope + me.row * rope_stride + j * kN, sum);
  }
}

void join(Stream& stream, const LatentShape& shape, CMat dk, CMat dv, Mat dkv, Mat drope_TR) {
  const Heads h = check("latent.join", shape, dkv, drope_TR, dk, dv);
  dispatch(
      [&]<class X>(const X* keys) {
        with_packs<X>({dkv, drope_TR, dk, dv}, {h.N, h.R, h.V}, [&](auto n) {
          const unsigned rows = static_cast<unsigned>(dkv.rows);
          const Teams copies = teams_for(dkv.rows, i64{h.H} * (h.N + h.V) / n(), kKept);
          launch(queue_of(stream), join_kernel<n(), X>, dim3(copies.blocks), copies.threads, 0, h, keys, dk.stride,
                 of<X>(dv), dv.stride, of<X>(dkv), dkv.stride, rows, copies.size);
          const Teams sums = teams_for(dkv.rows, h.R / n(), 1);
          launch(queue_of(stream), sum_heads_kernel<n(), X>, dim3(sums.blocks), sums.threads, 0, h, keys, dk.stride,
                 of<X>(drope_TR), drope_TR.stride, rows, sums.size);
        });
      },
      dk);
}

// ---- The absorbed up-projection w [H*(N+V), C].

constexpr unsigned kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kTokens = 8;

// A block: kTokens tokens of a head, kWarp packs of columns; each of its warps sums an eighth of the N rows of w, and those
// sums are added in order.
template <int kN, class X>
__global__ void __launch_bounds__(kThreads, 1)
    absorb_kernel(Heads h, unsigned C, const X* __restrict__ q, i64 q_stride, const X* __restrict__ w, i64 w_stride,
                  X* __restrict__ qa, i64 qa_stride, i64 T, unsigned tiles) {
  __shared__ float of_warp[kWarps][kWarp * kN];
  const unsigned tile = blockIdx.x % tiles, head = blockIdx.x / tiles % h.H, warp = threadIdx.x / kWarp;
  const i64 t0 = i64{blockIdx.x / tiles / h.H} * kTokens;
  const int m = static_cast<int>(min(T - t0, i64{kTokens}));
  const unsigned first = tile * kWarp * kN, column = first + threadIdx.x % kWarp * kN;
  q += t0 * q_stride + head * (h.N + h.R), qa += t0 * qa_stride + i64{head} * (C + h.R);
  float sum[kTokens][kN] = {};
  if (column < C) {
#pragma unroll 2
    for (unsigned row = warp; row < h.N; row += kWarps) {
      float v[kN];
      load_floats(w + (i64{head} * (h.N + h.V) + row) * w_stride + column, v);
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float factor = t < m ? to_f32(q[t * q_stride + row]) : 0.0f;
#pragma unroll
        for (int c = 0; c < kN; ++c) sum[t][c] += factor * v[c];
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (t >= m) break;
    __syncthreads();  // of the token before
#pragma unroll
    for (int c = 0; c < kN; ++c) of_warp[warp][threadIdx.x % kWarp * kN + c] = sum[t][c];
    __syncthreads();
    for (unsigned c = threadIdx.x; c < kWarp * kN && first + c < C; c += kThreads) {
      float total = 0;
      for (unsigned i = 0; i < kWarps; ++i) total += of_warp[i][c];
      put(qa + t * qa_stride + first + c, total);
    }
    for (unsigned c = threadIdx.x; tile == 0 && c < h.R; c += kThreads)
      qa[t * qa_stride + C + c] = q[t * q_stride + h.N + c];
  }
}

void absorb(Stream& stream, const LatentShape& shape, CMat q, CMat w, Mat qa) {
  const Heads h = heads_of(shape);
  const i64 C = w.cols;
  expect_shape("latent", "w", w, i64{h.H} * (h.N + h.V), C);
  expect_shape("latent.absorb", "q", q, q.rows, i64{h.H} * (h.N + h.R));
  expect_shape("latent.absorb", "qa", qa, q.rows, h.H * (C + h.R));
  require(q.dtype == w.dtype && qa.dtype == w.dtype, "latent.absorb: expected one dtype");
  dispatch(
      [&]<class X>(const X* weights) {
        with_packs<X>({w}, {C}, [&](auto n) {
          const unsigned tiles = blocks_for(C, kWarp * n());
          launch(queue_of(stream), absorb_kernel<n(), X>, dim3(tiles * h.H * blocks_for(q.rows, kTokens)), kThreads, 0, h,
                 static_cast<unsigned>(C), of<X>(q), q.stride, weights, w.stride, of<X>(qa), qa.stride, q.rows, tiles);
        });
      },
      w);
}

// A warp: kTokens tokens of a head, one row of w.
template <int kN, class X>
__global__ void __launch_bounds__(kThreads, 1)
    expand_kernel(Heads h, unsigned C, const X* __restrict__ a, i64 a_stride, const X* __restrict__ w, i64 w_stride,
                  X* __restrict__ o, i64 o_stride, i64 T, unsigned tiles) {
  const unsigned row = blockIdx.x % tiles * kWarps + threadIdx.x / kWarp, head = blockIdx.x / tiles % h.H;
  const unsigned lane = threadIdx.x % kWarp;
  const i64 t0 = i64{blockIdx.x / tiles / h.H} * kTokens;
  const int m = static_cast<int>(min(T - t0, i64{kTokens}));
  if (row >= h.V) return;
  a += t0 * a_stride + i64{head} * C, w += (i64{head} * (h.N + h.V) + h.N + row) * w_stride;
  float sum[kTokens] = {};
  for (unsigned c = lane * kN; c < C; c += kWarp * kN) {
    float v[kN], x[kN];
    load_floats(w + c, v);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= m) break;
      load_floats(a + t * a_stride + c, x);
#pragma unroll
      for (int i = 0; i < kN; ++i) sum[t] += x[i] * v[i];
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const float total = warp_sum(sum[t]);
    if (t < m && lane == static_cast<unsigned>(t)) put(o + (t0 + t) * o_stride + i64{head} * h.V + row, total);
  }
}

void expand(Stream& stream, const LatentShape& shape, CMat a, CMat w, Mat o) {
  const Heads h = heads_of(shape);
  const i64 C = w.cols;
  expect_shape("latent", "w", w, i64{h.H} * (h.N + h.V), C);
  expect_shape("latent.expand", "a", a, a.rows, h.H * C);
  expect_shape("latent.expand", "o", o, a.rows, i64{h.H} * h.V);
  require(a.dtype == w.dtype && o.dtype == w.dtype, "latent.expand: expected one dtype");
  dispatch(
      [&]<class X>(const X* weights) {
        with_packs<X>({w, a}, {C}, [&](auto n) {
          const unsigned tiles = blocks_for(h.V, kWarps);
          launch(queue_of(stream), expand_kernel<n(), X>, dim3(tiles * h.H * blocks_for(a.rows, kTokens)), kThreads, 0, h,
                 static_cast<unsigned>(C), of<X>(a), a.stride, weights, w.stride, of<X>(o), o.stride, a.rows, tiles);
        });
      },
      w);
}

}  // namespace

const LatentKernels latent_cuda = {split, join, absorb, expand};

}  // namespace moe::cuda
