// Rows of a table by token id, and their gradient, on CUDA (kernels.h). The gradient adds the rows of a token id in token
// order: tokens are counted by id, each id that occurs claims a piece of a list, tokens take places in it and are then
// ranked inside their piece. Which piece an id gets, and the places before the ranking, depend on timing; the ranked list
// of an id does not, so the sums do not. A foreign id gives rows of not-a-number and no gradient.
// Not here: the tied output map (gemm).
#include <cmath>

#include "kernels/cuda_rows.h"

namespace moe::cuda {
namespace {

constexpr int kKept = 4;  // packs of a row that a thread has
constexpr unsigned kThreads = 256, kClaimThreads = 1024;

template <int kN, class W, class X>
__global__ void __launch_bounds__(kMostThreads, 1)
    forward_kernel(const std::int32_t* __restrict__ ids, const W* __restrict__ w, i64 w_stride, i64 vocabulary,
                   X* __restrict__ x, i64 x_stride, unsigned rows, unsigned width, unsigned team) {
  const Member me(team);
  if (me.row >= rows) return;
  const unsigned n = width / kN;
  const i64 id = ids[me.row];
  const bool known = id >= 0 && id < vocabulary;
  const Kept<kKept, kN, W> row(w + (known ? id : 0) * w_stride, n, me);
  X* const to = x + me.row * x_stride;
  walk<kKept>(n, me, [&](int i, unsigned j) {
    float v[kN];
    row.get(i, j, v);
#pragma unroll
    for (int c = 0; c < kN; ++c) v[c] = known ? v[c] : NAN;
    store_floats(to + i64{j} * kN, v);
  });
}

void forward(Stream& stream, std::span<const std::int32_t> id_T, CMat w_VD, Mat x_TD) {
  const i64 T = static_cast<i64>(id_T.size()), D = w_VD.cols;
  expect_shape("embedding.forward", "x", x_TD, T, D);
  dispatch(
      [&]<class W, class X>(const W* w, X* x) {
        with_packs<W, X>({w_VD, x_TD}, {D}, [&](auto n) {
          const Teams teams = teams_for(T, D / n(), kKept);
          launch(queue_of(stream), forward_kernel<n(), W, X>, dim3(teams.blocks), teams.threads, 0, id_T.data(), w,
                 w_VD.stride, w_VD.rows, x, x_TD.stride, static_cast<unsigned>(T), static_cast<unsigned>(D), teams.size);
        });
      },
      w_VD, x_TD);
}

// ---- Which tokens have which id. All of it lies in the scratch memory.

struct Piece {  // of the list: the tokens of one id
  int id, begin, count;
};
struct TokensById {
  int* totals;        // places and pieces that are claimed
  int* id2count;      // [V]
  int* id2begin;      // [V]
  int* id2taken;      // [V]
  Piece* pieces;      // [min(T, V)]
  int* place2token;   // [T] in any order inside a piece
  int* sorted2token;  // [T] in token order inside a piece
};

__device__ inline bool is_known(int id, int V) { return id >= 0 && id < V; }

__global__ void __launch_bounds__(kThreads, 1) count_kernel(const std::int32_t* ids, int T, int V, TokensById by) {
  const int t = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (t < T && is_known(ids[t], V)) atomicAdd(&by.id2count[ids[t]], 1);
}

// The sum over the threads before this one, of a block of kClaimThreads; *total (=) over all. Every thread calls.
__device__ inline int sum_before(int v, int* total) {
  __shared__ int warp2sum[kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  int sum = v;
  for (int d = 1; d < kWarp; d *= 2) {
    const int below = __shfl_up_sync(0xffffffffu, sum, static_cast<unsigned>(d));
    if (lane >= d) sum += below;
  }
  __syncthreads();  // of the call before
  if (lane == kWarp - 1) warp2sum[warp] = sum;
  __syncthreads();
  int before = 0;
  *total = 0;
  for (int w = 0; w < static_cast<int>(kClaimThreads) / kWarp; ++w) {
    before += w < warp ? warp2sum[w] : 0;
    *total += warp2sum[w];
  }
  return before + sum - v;
}

// One id a thread; a block claims for all of its ids at once.
__global__ void __launch_bounds__(kClaimThreads, 1) claim_kernel(int V, TokensById by) {
  __shared__ int first[2];
  const int id = static_cast<int>(blockIdx.x * kClaimThreads + threadIdx.x);
  const int count = id < V ? by.id2count[id] : 0;
  int places, pieces;
  const int place = sum_before(count, &places), piece = sum_before(count > 0 ? 1 : 0, &pieces);
  if (threadIdx.x == 0) {
    first[0] = places > 0 ? atomicAdd(&by.totals[0], places) : 0;
    first[1] = places > 0 ? atomicAdd(&by.totals[1], pieces) : 0;
  }
  __syncthreads();
  if (count == 0) return;
  by.id2begin[id] = first[0] + place;
  by.pieces[first[1] + piece] = {id, first[0] + place, count};
}

__global__ void __launch_bounds__(kThreads, 1) place_kernel(const std::int32_t* ids, int T, int V, TokensById by) {
  const int t = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (t < T && is_known(ids[t], V)) by.place2token[by.id2begin[ids[t]] + atomicAdd(&by.id2taken[ids[t]], 1)] = t;
}

// A token's rank in its piece is the number of lower tokens there.
__global__ void __launch_bounds__(kThreads, 1) rank_kernel(const std::int32_t* ids, TokensById by) {
  const int place = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (place >= by.totals[0]) return;
  const int t = by.place2token[place], begin = by.id2begin[ids[t]], count = by.id2count[ids[t]];
  int rank = 0;
#pragma unroll 8
  for (int i = 0; i < count; ++i) rank += by.place2token[begin + i] < t ? 1 : 0;
  by.sorted2token[begin + rank] = t;
}

TokensById tokens_by_id(Queue& q, std::span<const std::int32_t> id_T, i64 V) {
  const i64 T = static_cast<i64>(id_T.size());
  require(T < (i64{1} << 30) && V < (i64{1} << 30), "embedding.backward_weight: expected fewer tokens and ids");
  const i64 zeros = 2 + 3 * V, pieces = 3 * std::min(T, V);
  int* const at = q.scratch_of<int>(zeros + pieces + 2 * T);
  check(cudaMemsetAsync(at, 0, static_cast<std::size_t>(zeros) * sizeof(int), q.stream), "embedding.backward_weight");
  const TokensById by{at,
                      at + 2,
                      at + 2 + V,
                      at + 2 + 2 * V,
                      reinterpret_cast<Piece*>(at + zeros),
                      at + zeros + pieces,
                      at + zeros + pieces + T};
  const int tokens = static_cast<int>(T), ids = static_cast<int>(V);
  const unsigned blocks = blocks_for(T, kThreads);
  launch(q, count_kernel, dim3(blocks), kThreads, 0, id_T.data(), tokens, ids, by);
  launch(q, claim_kernel, dim3(blocks_for(V, kClaimThreads)), kClaimThreads, 0, ids, by);
  launch(q, place_kernel, dim3(blocks), kThreads, 0, id_T.data(), tokens, ids, by);
  launch(q, rank_kernel, dim3(blocks), kThreads, 0, id_T.data(), by);
  return by;
}

// ---- dw += dx: a block takes kThreads packs of columns of a piece.

template <int kN, class DX>
__global__ void __launch_bounds__(kThreads, 1) add_kernel(TokensById by, const DX* __restrict__ dx, i64 dx_stride, float* dw,
                                                          i64 dw_stride, i64 width, unsigned tiles, unsigned threads) {
  const i64 column = (i64{blockIdx.x % tiles} * threads + threadIdx.x) * kN;
  if (column >= width) return;
  for (unsigned p = blockIdx.x / tiles; p < static_cast<unsigned>(by.totals[1]); p += gridDim.x / tiles) {
    const Piece piece = by.pieces[p];
    float* const to = dw + piece.id * dw_stride + column;
    float sum[kN], v[kN];
    load_floats(to, sum);
#pragma unroll 4
    for (int i = piece.begin; i < piece.begin + piece.count; ++i) {
      load_floats(dx + by.sorted2token[i] * dx_stride + column, v);
#pragma unroll
      for (int c = 0; c < kN; ++c) sum[c] += v[c];
    }
    store_floats(to, sum);
  }
}

void backward_weight(Stream& stream, std::span<const std::int32_t> id_T, CMat dx_TD, Mat dw_VD) {
  const i64 T = static_cast<i64>(id_T.size()), D = dw_VD.cols, V = dw_VD.rows;
  expect_shape("embedding.backward_weight", "dx", dx_TD, T, D);
  expect_f32("embedding.backward_weight", "dw", dw_VD);
  if (T == 0 || D == 0) return;
  Queue& q = queue_of(stream);
  const TokensById by = tokens_by_id(q, id_T, V);
  dispatch(
      [&]<class DX>(const DX* dx) {
        with_packs<DX, float>({dx_TD, dw_VD}, {D}, [&](auto n) {
          const i64 packs = D / n(), threads = std::min<i64>(kThreads, (packs + kWarp - 1) / kWarp * kWarp);
          const unsigned tiles = blocks_for(packs, threads);
          constexpr i64 kMostPieces = 1 << 14;  // at once
          launch(q, add_kernel<n(), DX>, dim3(tiles * static_cast<unsigned>(std::min({T, V, kMostPieces}))),
                 static_cast<unsigned>(threads), 0, by, dx, dx_TD.stride, dw_VD.f32(), dw_VD.stride, D, tiles,
                 static_cast<unsigned>(threads));
        });
      },
      dx_TD);
}

}  // namespace

const EmbeddingKernels embedding_cuda = {forward, backward_weight};

}  // namespace moe::cuda
