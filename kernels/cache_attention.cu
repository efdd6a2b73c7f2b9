// Attention of a few new tokens to a cache on CUDA (kernels.h), as Flash-Decoding (Dao et al. 2023): the keys of a row are
// cut into tiles of 32, the tiles into at most kParts parts by the row's own number of keys, so that its bits depend on
// nothing else. A block has one part of one row and up to kHeads heads of a kv head, read once for all of them; its four
// warps take its tiles in turns, each with a running softmax. A second kernel joins warps' and parts' sums in order. Bound
// by memory: keys and values are read once per kHeads heads, 16 and 8 bytes a lane. Plain products: many heads a kv head
// (latent attention: 128) would want matrix units.
// Not here: who fills the cache (lib/model/kv_cache.h).
#include <algorithm>

#include "kernels/cuda.h"

namespace moe::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp, kTile = kWarp, kParts = 16, kChunk = 512;
constexpr i64 kPartialBytes = i64{64} << 20;  // scratch for rows that are done at once

struct Problem {
  const void *q, *k, *v;
  i64 q_stride, k_stride, v_stride, o_stride;
  void* o;
  const i64* first_row_T;
  const std::int32_t* num_keys_T;
  const float* sinks_H;
  bool q_is_bf16, o_is_bf16, wide;  // wide: loads of 16 bytes fit keys and values
  int S, V, num_heads, group, heads_per_block, blocks_per_group, window;
  float scale;
  i64 t0;             // the first row of this launch
  float *sums, *out;  // [row of this launch][head][kParts] of {largest, sum}, and of V sums of values

  __device__ __host__ int q_pitch() const { return (S + 7) / 8 * 8; }  // of a query in shared memory, zeros behind it
  // Tiles [begin, end) of a row, and how many of them a part has.
  struct Tiles {
    int begin, end, per_part;
    __device__ int num_parts() const { return (end - begin + per_part - 1) / per_part; }
  };
  __device__ int first_key(i64 t) const { return window > 0 ? max(num_keys_T[t] - window, 0) : 0; }
  __device__ Tiles tiles(i64 t) const {
    const int begin = first_key(t) / kTile, end = (num_keys_T[t] + kTile - 1) / kTile;
    return {begin, end, max(kWarps, (end - begin + kParts - 1) / kParts)};
  }
  __device__ i64 partial(i64 row, int head, int part) const { return (row * num_heads + head) * kParts + part; }
};

__device__ float minus_infinity() { return __uint_as_float(0xff800000u); }
// The factor on sums whose largest score was `largest` where it is `most` now; none came with minus infinity.
__device__ float rescale(float largest, float most) { return largest == minus_infinity() ? 0.0f : expf(largest - most); }

__device__ float read(const void* p, bool is_bf16, i64 n) {
  return is_bf16 ? to_f32(static_cast<const BF16*>(p)[n]) : static_cast<const float*>(p)[n];
}

// kN elements from p on; at the end fewer, then zeros.
template <int kN, class X>
__device__ void read_some(const X* p, int left, bool wide, float (&x)[kN]) {
  if (wide && left >= kN) {
    const auto pack = *reinterpret_cast<const Pack<kN, X>*>(p);
    for (int i = 0; i < kN; ++i) x[i] = to_f32(pack.v[i]);
  } else {
    for (int i = 0; i < kN; ++i) x[i] = i < left ? to_f32(p[i]) : 0.0f;
  }
}

// scores[h][key] (=) q k of the tile's keys, eight lanes a key. q [kHeads][q_pitch] in shared memory.
template <int kHeads, class X>
__device__ void score_tile(const Problem& p, const X* k, int num_keys, const float* q, float (*scores)[kTile]) {
  constexpr int kN = 16 / sizeof(X), kLanes = 8;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, sub = lane % kLanes;
#pragma unroll 2
  for (int first = 0; first < kTile; first += kWarp / kLanes) {
    const int key = first + lane / kLanes;
    float sum[kHeads] = {};
    for (int d = sub * kN; key < num_keys && d < p.S; d += kLanes * kN) {
      float x[kN];
      read_some(k + key * p.k_stride + d, p.S - d, p.wide, x);
#pragma unroll
      for (int i = 0; i < kN; ++i)
#pragma unroll
        for (int h = 0; h < kHeads; ++h) sum[h] += x[i] * q[h * p.q_pitch() + d + i];
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      for (int step = 1; step < kLanes; step *= 2) sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], step);
      if (sub == 0) scores[h][key] = sum[h];
    }
  }
}

// What a warp knows: lanes hold columns (32 c + lane) * 4 .. + 3 of out, and the sums of the keys they had.
template <int kHeads, int kColumns>
struct Running {
  float largest[kHeads], sum[kHeads], out[kHeads][kColumns];
};

__device__ float max_of_warp(float v) {  // what is not a number does not count
  for (int d = kWarp / 2; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
  return v;
}

template <int kHeads, int kColumns, class X>
__device__ void attend_tile(const Problem& p, const X* k, const X* v, int num_v, int begin, int end, const float* q,
                            float (*scores)[kTile], Running<kHeads, kColumns>& r) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncwarp();
  score_tile<kHeads>(p, k, end, q, scores);
  __syncwarp();
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float score = lane >= begin && lane < end ? scores[h][lane] * p.scale : minus_infinity();
    const float now = fmaxf(r.largest[h], max_of_warp(score));
    const float base = now == minus_infinity() ? 0.0f : now;
    const float shrink = expf(r.largest[h] - base), weight = expf(score - base);
    scores[h][lane] = weight;
    r.largest[h] = now;
    r.sum[h] = r.sum[h] * shrink + weight;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) r.out[h][c] *= shrink;
  }
  __syncwarp();
#pragma unroll 2
  for (int key = begin; key < end; ++key)
#pragma unroll
    for (int c = 0; c < kColumns; c += 4) {
      const int col = (c * kWarp / 4 + lane) * 4;
      if (col >= num_v) continue;
      float x[4];
      read_some(v + key * p.v_stride + col, num_v - col, p.wide, x);
#pragma unroll
      for (int h = 0; h < kHeads; ++h)
#pragma unroll
        for (int i = 0; i < 4; ++i) r.out[h][c + i] += scores[h][key] * x[i];
    }
}

// The warps' sums become the block's: in shared memory, in the order of the warps.
template <int kHeads, int kColumns>
__device__ void join_warps(const Problem& p, Running<kHeads, kColumns>& r, float* shared, i64 row, int head, int heads,
                           int part, int chunk) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  float *const largest = shared, *const sums = largest + kWarps * kHeads, *const out = sums + kWarps * kHeads;
  const int num_v = min(kChunk, p.V - chunk);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float sum = warp_sum(r.sum[h]);
    if (lane == 0) largest[h * kWarps + warp] = r.largest[h], sums[h * kWarps + warp] = sum;
  }
  for (int w = 0; w < kWarps; ++w) {
    __syncthreads();
    if (warp != w) continue;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float most = largest[h * kWarps];
      for (int i = 1; i < kWarps; ++i) most = fmaxf(most, largest[h * kWarps + i]);
      const float factor = rescale(r.largest[h], most);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int col = (c / 4 * kWarp + lane) * 4 + c % 4;
        if (col >= num_v) continue;
        float& to = out[h * num_v + col];
        to = (w == 0 ? 0.0f : to) + r.out[h][c] * factor;
      }
    }
  }
  __syncthreads();
  for (int n = static_cast<int>(threadIdx.x); n < heads * num_v; n += kThreads)
    p.out[p.partial(row, head + n / num_v, part) * p.V + chunk + n % num_v] = out[n];
  if (const int h = static_cast<int>(threadIdx.x); h < heads && chunk == 0) {
    float most = largest[h * kWarps], sum = 0;
    for (int i = 1; i < kWarps; ++i) most = fmaxf(most, largest[h * kWarps + i]);
    for (int i = 0; i < kWarps; ++i) sum += sums[h * kWarps + i] * rescale(largest[h * kWarps + i], most);
    float* const to = p.sums + p.partial(row, head + h, part) * 2;
    to[0] = most, to[1] = sum;
  }
}

// Block (part, heads of a kv head, row); of wide values kChunk columns, whose blocks follow the heads'.
template <int kHeads, int kColumns, class X>
__global__ void __launch_bounds__(kThreads, 1) part_kernel(Problem p) {
  const i64 row = blockIdx.z, t = p.t0 + row;
  const int part = static_cast<int>(blockIdx.x), num_blocks = p.num_heads / p.group * p.blocks_per_group;
  const int n = static_cast<int>(blockIdx.y) % num_blocks, chunk = static_cast<int>(blockIdx.y) / num_blocks * kChunk;
  const int kv = n / p.blocks_per_group, in_group = n % p.blocks_per_group * p.heads_per_block;
  const int head = kv * p.group + in_group, heads = min(p.heads_per_block, p.group - in_group);
  const Problem::Tiles tiles = p.tiles(t);
  if (part >= tiles.num_parts()) return;
  float *const q = shared_of<float>(), *const scores = q + kHeads * p.q_pitch(),
               *const joined = scores + kWarps * kHeads * kTile;
  for (int i = static_cast<int>(threadIdx.x); i < kHeads * p.q_pitch(); i += kThreads) {
    const int h = i / p.q_pitch(), d = i % p.q_pitch();
    q[i] = h < heads && d < p.S ? read(p.q, p.q_is_bf16, t * p.q_stride + i64{head + h} * p.S + d) : 0.0f;
  }
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / kWarp, num_v = min(kChunk, p.V - chunk);
  const int first_key = p.first_key(t), num_keys = p.num_keys_T[t];
  Running<kHeads, kColumns> r = {};
  for (int h = 0; h < kHeads; ++h) r.largest[h] = minus_infinity();
  const int begin = tiles.begin + part * tiles.per_part, end = min(begin + tiles.per_part, tiles.end);
  for (int tile = begin + warp; tile < end; tile += kWarps) {
    const int first = tile * kTile;
    const i64 at = p.first_row_T[t] + first;
    const X* const k = static_cast<const X*>(p.k) + at * p.k_stride + i64{kv} * p.S;
    const X* const v = static_cast<const X*>(p.v) + at * p.v_stride + i64{kv} * p.V + chunk;
    attend_tile<kHeads, kColumns>(p, k, v, num_v, max(first_key - first, 0), min(num_keys - first, kTile), q,
                                  reinterpret_cast<float(*)[kTile]>(scores + warp * kHeads * kTile), r);
  }
  join_warps(p, r, joined, row, head, heads, part, chunk);
}

// Block (head, row): the parts in their order. The sink is a score without a value.
__global__ void join_kernel(Problem p) {
  const i64 row = blockIdx.y, t = p.t0 + row;
  const int h = static_cast<int>(blockIdx.x), parts = p.tiles(t).num_parts();
  const float* const sums = p.sums + p.partial(row, h, 0) * 2;
  const float sink = p.sinks_H != nullptr ? p.sinks_H[h] : minus_infinity();
  float most = sink;
  for (int i = 0; i < parts; ++i) most = fmaxf(most, sums[2 * i]);
  float sum = rescale(sink, most);
  for (int i = 0; i < parts; ++i) sum += sums[2 * i + 1] * rescale(sums[2 * i], most);
  for (int v = static_cast<int>(threadIdx.x); v < p.V; v += kThreads) {
    float out = 0;
    for (int i = 0; i < parts; ++i) out += p.out[p.partial(row, h, i) * p.V + v] * rescale(sums[2 * i], most);
    const i64 to = t * p.o_stride + i64{h} * p.V + v;
    if (p.o_is_bf16)
      put(static_cast<BF16*>(p.o) + to, out / sum);
    else
      put(static_cast<float*>(p.o) + to, out / sum);
  }
}

template <int kHeads, int kColumns, class X>
void launch_parts(Queue& queue, const Problem& p, i64 rows) {
  const std::size_t floats = static_cast<std::size_t>(kHeads) *
                             static_cast<std::size_t>(p.q_pitch() + kWarps * kTile + 2 * kWarps + std::min(p.V, kChunk));
  require(floats * sizeof(float) <= 227 * 1024, "cache_attention: a head is too wide for shared memory");
  const int blocks = p.num_heads / p.group * p.blocks_per_group * ((p.V + kChunk - 1) / kChunk);
  launch(queue, part_kernel<kHeads, kColumns, X>, dim3(kParts, static_cast<unsigned>(blocks), static_cast<unsigned>(rows)),
         kThreads, floats * sizeof(float), p);
}
template <int kHeads, int kColumns>
void launch_parts(Queue& queue, const Problem& p, i64 rows, const CMat& k) {
  dispatch([&]<class X>(const X*) { launch_parts<kHeads, kColumns, X>(queue, p, rows); }, k);
}
// As few columns a lane as the values need.
template <int kHeads>
void launch_parts(Queue& queue, const Problem& p, i64 rows, const CMat& k) {
  p.V <= 4 * kWarp ? launch_parts<kHeads, 4>(queue, p, rows, k) : launch_parts<kHeads, kChunk / kWarp>(queue, p, rows, k);
}

void forward(Stream& stream, const AttentionShape& s, CMat q, CMat k, CMat v, std::span<const i64> first_row_T,
             std::span<const std::int32_t> num_keys_T, Mat o) {
  const i64 T = q.rows, S = s.head_dim, V = s.value_dim;
  expect_cache_attention_shapes(s, q, k, v, first_row_T, num_keys_T, o);
  require(k.dtype == v.dtype, "cache_attention: keys and values of different dtypes");
  const int group = s.num_heads / s.num_kv_heads, heads = group >= 8 ? 8 : group >= 3 ? 4 : group;
  Problem p = {.q = q.data,
               .k = k.data,
               .v = v.data,
               .q_stride = q.stride,
               .k_stride = k.stride,
               .v_stride = v.stride,
               .o_stride = o.stride,
               .o = o.data,
               .first_row_T = first_row_T.data(),
               .num_keys_T = num_keys_T.data(),
               .sinks_H = s.sinks_H,
               .q_is_bf16 = q.dtype == DType::kBF16,
               .o_is_bf16 = o.dtype == DType::kBF16,
               .wide = false,
               .S = s.head_dim,
               .V = s.value_dim,
               .num_heads = s.num_heads,
               .group = group,
               .heads_per_block = heads,
               .blocks_per_group = (group + heads - 1) / heads,
               .window = s.window,
               .scale = s.scale,
               .t0 = 0,
               .sums = nullptr,
               .out = nullptr};
  p.wide = S % 8 == 0 && V % 8 == 0;
  dispatch([&](const auto* a, const auto* b) { p.wide = p.wide && aligned16(a, k.stride) && aligned16(b, v.stride); }, k, v);
  Queue& queue = queue_of(stream);
  const i64 floats_per_row = i64{s.num_heads} * kParts * (V + 2);
  const i64 most = std::clamp<i64>(kPartialBytes / 4 / floats_per_row, 1, 65535), rows_at_once = std::min(most, T);
  p.sums = queue.scratch_of<float>(rows_at_once * floats_per_row);
  p.out = p.sums + rows_at_once * s.num_heads * kParts * 2;
  for (; p.t0 < T; p.t0 += rows_at_once) {
    const i64 rows = std::min(rows_at_once, T - p.t0);
    const auto run = heads == 1   ? launch_parts<1>
                     : heads == 2 ? launch_parts<2>
                     : heads == 4 ? launch_parts<4>
                                  : launch_parts<8>;
    run(queue, p, rows, k);
    launch(queue, join_kernel, dim3(static_cast<unsigned>(s.num_heads), static_cast<unsigned>(rows)), kThreads, 0, p);
  }
}

}  // namespace

const CacheAttentionKernels cache_attention_cuda = {forward};

}  // namespace moe::cuda
