// Attention on CUDA by plain fp32 products (cuda_attention.h): any dtype, stride and width. A block of 16 x 16 threads holds
// a tile of 64 x 64 scores, 4 x 4 a thread, and sums of 64 rows x up to kChunk columns, 4 x kColumns a thread; wider heads
// are cut into chunks, each by blocks of its own, which compute the scores again. Two products do all the work:
//   scores += A B^T    over the head's width, by pieces of both in shared memory
//   sums   += W B      W a tile of weights in shared memory, B by pieces of 32 rows
// Not here: matrix units (attention_forward.cu, attention_backward.cu).
#include "kernels/cuda_attention.h"

namespace moe::cuda {
namespace {

constexpr int kTile = 64, kThreads = 256, kChunk = 128, kPiece = 32, kScores = 4;

// A tile's rows of one head.
struct TileRows {
  Heads m;
  i64 row;  // of its first row
  int head, num_rows;
  __device__ float at(int i, int col) const { return i < num_rows && col < m.width ? m.at(row + i, head, col) : 0.0f; }
};

struct Shared {
  float pieces[2 * kTile * (kPiece + 1)];  // of A and B, or kPiece rows of kChunk columns
  float weights[kTile][kTile + 1];
};

// scores[i][j] += row 4 ty + i of a times row tx + 16 j of b.
__device__ void add_scores(Shared& shared, const TileRows& a, const TileRows& b, float (&scores)[kScores][kScores]) {
  const int t = static_cast<int>(threadIdx.x), tx = t % 16, ty = t / 16;
  float *const pa = shared.pieces, *const pb = pa + kTile * (kPiece + 1);
  for (int k0 = 0; k0 < a.m.width; k0 += kPiece) {
    __syncthreads();
    for (int n = t; n < kTile * kPiece; n += kThreads) {
      const int i = n / kPiece, k = n % kPiece;
      pa[i * (kPiece + 1) + k] = a.at(i, k0 + k);
      pb[i * (kPiece + 1) + k] = b.at(i, k0 + k);
    }
    __syncthreads();
    for (int k = 0; k < min(kPiece, a.m.width - k0); ++k) {
      float x[kScores], y[kScores];
      for (int i = 0; i < kScores; ++i) x[i] = pa[(4 * ty + i) * (kPiece + 1) + k];
      for (int j = 0; j < kScores; ++j) y[j] = pb[(tx + 16 * j) * (kPiece + 1) + k];
      for (int i = 0; i < kScores; ++i)
        for (int j = 0; j < kScores; ++j) scores[i][j] += x[i] * y[j];
    }
  }
}

// sums[i][c] += sum over the tile's rows j of weights[4 ty + i][j] b[j][first + tx + 16 c]; the weights came before.
template <int kColumns>
__device__ void add_weighted(Shared& shared, const float (&w)[kScores][kScores], const TileRows& b, int first,
                             float (&sums)[kScores][kColumns]) {
  constexpr int kWide = 16 * kColumns;
  if (first >= b.m.width) return;
  const int t = static_cast<int>(threadIdx.x), tx = t % 16, ty = t / 16;
  __syncthreads();  // nobody reads the weights before
  for (int i = 0; i < kScores; ++i)
    for (int j = 0; j < kScores; ++j) shared.weights[4 * ty + i][tx + 16 * j] = w[i][j];
  for (int j0 = 0; j0 < b.num_rows; j0 += kPiece) {
    __syncthreads();
    for (int n = t; n < kPiece * kWide; n += kThreads) shared.pieces[n] = b.at(j0 + n / kWide, first + n % kWide);
    __syncthreads();
    for (int j = 0; j < kPiece; ++j) {
      float x[kScores];
      for (int i = 0; i < kScores; ++i) x[i] = shared.weights[4 * ty + i][j0 + j];
      for (int c = 0; c < kColumns; ++c) {
        const float y = shared.pieces[j * kWide + tx + 16 * c];
        for (int i = 0; i < kScores; ++i) sums[i][c] += x[i] * y;
      }
    }
  }
}

// to[row 4 ty + i][first + tx + 16 c] (=) factor[i] sums[i][c]
template <int kColumns>
__device__ void store_sums(const TileRows& to, int first, const float (&factor)[kScores],
                           const float (&sums)[kScores][kColumns]) {
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  for (int i = 0; i < kScores; ++i)
    for (int c = 0; c < kColumns; ++c)
      if (const int row = 4 * ty + i, col = first + tx + 16 * c; row < to.num_rows && col < to.m.width)
        to.m.put_at(to.row + row, to.head, col, sums[i][c] * factor[i]);
}

__device__ TileRows tile_rows(const AttentionProblem& p, const Heads& m, int head, int seq, int first) {
  return {m, i64{seq} * p.seq_len + first, head, min(kTile, p.seq_len - first)};
}

// Over the 16 threads of a row.
__device__ float row_max(float v) {
  for (int d = 8; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
  return v;
}
__device__ float row_sum(float v) {
  for (int d = 8; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}

// Scores become exp(scale score - max); a row's max, sum and output follow. Hidden ones are 0.
template <int kColumns>
__device__ void update(const AttentionProblem& p, int s, int i0, int j0, float (&scores)[kScores][kScores],
                       float (&largest)[kScores], float (&sum)[kScores], float (&out)[kScores][kColumns]) {
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  for (int i = 0; i < kScores; ++i) {
    const int query = i0 + 4 * ty + i, first = p.first_key(s, query);
    float most = minus_infinity();
    for (int j = 0; j < kScores; ++j) {
      const int key = j0 + tx + 16 * j;
      scores[i][j] = key >= first && key <= query ? scores[i][j] * p.scale : minus_infinity();
      most = fmaxf(most, scores[i][j]);
    }
    const float now = fmaxf(largest[i], row_max(most)), base = now == minus_infinity() ? 0.0f : now;
    const float shrink = expf(largest[i] - base);
    float total = 0;
    for (int j = 0; j < kScores; ++j) total += scores[i][j] = expf(scores[i][j] - base);
    largest[i] = now;
    sum[i] = sum[i] * shrink + row_sum(total);
    for (int c = 0; c < kColumns; ++c) out[i][c] *= shrink;
  }
}

template <int kColumns>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(AttentionProblem p, ForwardOperands a) {
  __shared__ Shared shared;
  const Task task = p.task(blockIdx.x);
  const int s = task.seq, h = task.head, kv = h / p.group, i0 = (p.num_tiles - 1 - task.tile) * kTile;
  const int chunk = static_cast<int>(blockIdx.y) * kChunk, ty = static_cast<int>(threadIdx.x) / 16;
  const TileRows q = tile_rows(p, a.q, h, s, i0);
  float largest[kScores], sum[kScores], out[kScores][kColumns] = {};
  for (int i = 0; i < kScores; ++i) {
    largest[i] = p.sinks_H != nullptr ? p.sinks_H[h] : minus_infinity();
    sum[i] = p.sinks_H != nullptr ? 1.0f : 0.0f;
  }
  for (int j0 = p.first_key(s, i0) / kTile * kTile; j0 <= i0; j0 += kTile) {
    float scores[kScores][kScores] = {};
    add_scores(shared, q, tile_rows(p, a.k, kv, s, j0), scores);
    update(p, s, i0, j0, scores, largest, sum, out);
    add_weighted(shared, scores, tile_rows(p, a.v, kv, s, j0), chunk, out);
  }
  float factor[kScores];
  for (int i = 0; i < kScores; ++i) {
    factor[i] = 1.0f / sum[i];
    if (threadIdx.x % 16 == 0 && blockIdx.y == 0 && 4 * ty + i < q.num_rows)
      a.lse_TH[(q.row + 4 * ty + i) * p.num_heads + h] = largest[i] + logf(sum[i]);
  }
  store_sums(tile_rows(p, a.o, h, s, i0), chunk, factor, out);
}

// P = exp(scale score - lse) into scores, dS / scale = P (dP - delta) into dp, 0 where hidden.
__device__ void differentiate(const AttentionProblem& p, const BackwardOperands& a, int s, int h, int query, int key,
                              int first, float& score, float& dp) {
  const i64 at = a.number_of(s, h, p.num_heads, query);
  const bool seen = query < p.seq_len && key >= first && key <= query;
  score = seen ? expf(score * p.scale - a.lse[at]) : 0.0f;
  dp = seen ? score * (dp - a.delta[at]) : 0.0f;
}

template <int kColumns>
__global__ void __launch_bounds__(kThreads, 1) dq_kernel(AttentionProblem p, BackwardOperands a) {
  __shared__ Shared shared;
  const Task task = p.task(blockIdx.x);
  const int s = task.seq, h = task.head, kv = h / p.group, i0 = (p.num_tiles - 1 - task.tile) * kTile;
  const int chunk = static_cast<int>(blockIdx.y) * kChunk;
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  float dq[kScores][kColumns] = {};
  for (int j0 = p.first_key(s, i0) / kTile * kTile; j0 <= i0; j0 += kTile) {
    float scores[kScores][kScores] = {}, dp[kScores][kScores] = {};
    const TileRows k = tile_rows(p, a.k, kv, s, j0);
    add_scores(shared, tile_rows(p, a.q, h, s, i0), k, scores);
    add_scores(shared, tile_rows(p, a.d_o, h, s, i0), tile_rows(p, a.v, kv, s, j0), dp);
    for (int i = 0; i < kScores; ++i) {
      const int query = i0 + 4 * ty + i, first = p.first_key(s, query);
      for (int j = 0; j < kScores; ++j) differentiate(p, a, s, h, query, j0 + tx + 16 * j, first, scores[i][j], dp[i][j]);
    }
    add_weighted(shared, dp, k, chunk, dq);
  }
  const float factor[kScores] = {p.scale, p.scale, p.scale, p.scale};
  store_sums(tile_rows(p, a.dq, h, s, i0), chunk, factor, dq);
}

template <int kColumns>
__global__ void __launch_bounds__(kThreads, 1) dkdv_kernel(AttentionProblem p, BackwardOperands a) {
  __shared__ Shared shared;
  const Task task = p.task(blockIdx.x);
  const int s = task.seq, kv = task.head, j0 = task.tile * kTile, end = p.end_of_queries(s, min(j0 + kTile, p.seq_len) - 1);
  const int chunk = static_cast<int>(blockIdx.y) * kChunk;
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  float dk[kScores][kColumns] = {}, dv[kScores][kColumns] = {};
  for (int h = kv * p.group; h < (kv + 1) * p.group; ++h)
    for (int i0 = j0; i0 < end; i0 += kTile) {
      float scores[kScores][kScores] = {}, dp[kScores][kScores] = {};
      const TileRows q = tile_rows(p, a.q, h, s, i0), d_o = tile_rows(p, a.d_o, h, s, i0);
      add_scores(shared, tile_rows(p, a.k, kv, s, j0), q, scores);
      add_scores(shared, tile_rows(p, a.v, kv, s, j0), d_o, dp);
      for (int j = 0; j < kScores; ++j) {
        const int query = i0 + tx + 16 * j, first = p.first_key(s, query);
        for (int i = 0; i < kScores; ++i) differentiate(p, a, s, h, query, j0 + 4 * ty + i, first, scores[i][j], dp[i][j]);
      }
      add_weighted(shared, scores, d_o, chunk, dv);
      add_weighted(shared, dp, q, chunk, dk);
    }
  const float scales[kScores] = {p.scale, p.scale, p.scale, p.scale}, ones[kScores] = {1, 1, 1, 1};
  store_sums(tile_rows(p, a.dk, kv, s, j0), chunk, scales, dk);
  store_sums(tile_rows(p, a.dv, kv, s, j0), chunk, ones, dv);
}

int bytes_per_head(const Heads& k, const Heads& v) { return (k.width + v.width) * (k.is_bf16 ? 2 : 4); }

// Calls run<kColumns>() with as many columns as a chunk of heads of this width needs.
template <class F>
void with_columns(int width, const F& run) {
  if (width <= 16)
    run.template operator()<1>();
  else if (width <= 64)
    run.template operator()<4>();
  else
    run.template operator()<kChunk / 16>();
}

}  // namespace

void attention_forward_plain(Queue& q, const AttentionProblem& problem, const ForwardOperands& a) {
  const AttentionProblem p = problem.tiled(kTile, problem.num_heads, bytes_per_head(a.k, a.v));
  with_columns(a.o.width, [&]<int kColumns>() {
    launch(q, forward_kernel<kColumns>, dim3(p.num_tasks(), blocks_for(a.o.width, kChunk)), kThreads, 0, p, a);
  });
}

void attention_backward_plain(Queue& q, const AttentionProblem& problem, const BackwardOperands& a) {
  const AttentionProblem of_q = problem.tiled(kTile, problem.num_heads, bytes_per_head(a.k, a.v));
  const AttentionProblem of_kv = problem.tiled(kTile, problem.num_kv_heads, bytes_per_head(a.q, a.d_o));
  with_columns(a.dq.width, [&]<int kColumns>() {
    launch(q, dq_kernel<kColumns>, dim3(of_q.num_tasks(), blocks_for(a.dq.width, kChunk)), kThreads, 0, of_q, a);
  });
  const int widest = std::max(a.dk.width, a.dv.width);
  with_columns(widest, [&]<int kColumns>() {
    launch(q, dkdv_kernel<kColumns>, dim3(of_kv.num_tasks(), blocks_for(widest, kChunk)), kThreads, 0, of_kv, a);
  });
}

}  // namespace moe::cuda
