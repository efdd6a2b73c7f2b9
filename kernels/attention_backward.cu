// Attention backward on CUDA with bf16 matrix units: P = 2^(scale2 q k - lse) again, dS = P (dP - delta), both rounded to
// bf16 for the products that follow. Two kernels, so that every sum stays in the registers of one warp:
//   dq      eight warps of 16 queries, over tiles of keys:      dq = scale dS k
//   dk, dv  eight warps of 16 keys, over heads and tiles of queries, all transposed:   dv = P^T d_o, dk = scale dS^T q
// Seven products for the five of one pass, and no sum of many blocks. Tiles come by late copies, the next while one is in
// use. Not here: delta (attention.cu), the forward.
#include "kernels/cuda_attention_mma.h"

namespace moe::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp, kRows = 16 * kWarps;

// A block's own rows (a, b) stay; stages of kN rows of c and d come, with three numbers a row.
template <int kD, int kV, int kN>
struct Layout {
  static constexpr int kOwnA = kTileElements<kRows, kD>, kOwnB = kTileElements<kRows, kV>;
  static constexpr int kA = kTileElements<kN, kD>, kB = kTileElements<kN, kV>, kNumbers = 2 * 3 * kN;  // as bf16
  static constexpr int kStage = kA + kB + kNumbers;
  static constexpr std::size_t kBytes = sizeof(BF16) * (kOwnA + kOwnB + 2 * kStage);
};

template <int kD, int kV, int kN>
__global__ void __launch_bounds__(kThreads, 1) dq_kernel(AttentionProblem p, BackwardOperands a) {
  using L = Layout<kD, kV, kN>;
  BF16 *const q_tile = shared_of<BF16>(), *const do_tile = q_tile + L::kOwnA, *const stages = do_tile + L::kOwnB;
  const Task task = p.task(blockIdx.x);
  const int s = task.seq, h = task.head, kv = h / p.group, i0 = (p.num_tiles - 1 - task.tile) * kRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp_row = static_cast<int>(threadIdx.x) / kWarp * 16;
  const i64 sequence = i64{s} * p.seq_len;
  const int end = min(i0 + kRows, p.seq_len), begin = p.first_key(s, i0) / kN * kN;
  const auto load_stage = [&](int j0, int stage) {
    BF16* const to = stages + stage * L::kStage;
    if (j0 < end) {
      load_tile<kN, kD, kThreads>(to, a.k.bf16(sequence + j0, kv), a.k.stride, p.seq_len - j0, a.k.width);
      load_tile<kN, kV, kThreads>(to + L::kA, a.v.bf16(sequence + j0, kv), a.v.stride, p.seq_len - j0, a.v.width);
    }
    copy_async_commit();
  };
  load_tile<kRows, kD, kThreads>(q_tile, a.q.bf16(sequence + i0, h), a.q.stride, p.seq_len - i0, a.q.width);
  load_tile<kRows, kV, kThreads>(do_tile, a.d_o.bf16(sequence + i0, h), a.d_o.stride, p.seq_len - i0, a.d_o.width);
  load_stage(begin, 0);

  const int warp_begin = i0 + warp_row, query = warp_begin + lane / 4;  // and 8 below
  const int warp_first = p.first_key(s, warp_begin), warp_last_first = p.first_key(s, warp_begin + 15);
  float lse[2], delta[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const i64 at = a.number_of(s, h, p.num_heads, min(query + 8 * r, p.seq_len - 1));
    lse[r] = a.lse[at], delta[r] = a.delta[at];
  }
  Accumulators<1, kD> dq = {};
  for (int j0 = begin, stage = 0; j0 < end; j0 += kN, stage ^= 1) {
    load_stage(j0 + kN, stage ^ 1);
    copy_async_wait<1>();
    __syncthreads();
    if (j0 < warp_begin + 16 && j0 + kN > warp_first) {
      const BF16* const keys = stages + stage * L::kStage;
      Accumulators<1, kN> scores = {}, dp = {};
      add_a_bt<1, kN, kD>(scores, q_tile + warp_row * kPitch<kD>, keys);
      add_a_bt<1, kN, kV>(dp, do_tile + warp_row * kPitch<kV>, keys + L::kA);
      const bool hides = j0 + kN - 1 > warp_begin || j0 < warp_last_first;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int last = query + 8 * r - j0 - lane % 4 * 2,
                  first = hides ? p.first_key(s, query + 8 * r) - query - 8 * r : 0;
#pragma unroll
        for (int n = 0; n < kN; n += 8)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float& v = dp[0][n / 2 + 2 * r + c];
            v = exp2_fast(__fmaf_rn(scores[0][n / 2 + 2 * r + c], p.scale * kLog2E, -lse[r])) * (v - delta[r]);
            if (hides && (n + c > last || n + c < last + first)) v = 0;
          }
      }
      add_w_b<1, kD, kN>(dq, dp, keys);
    }
    __syncthreads();  // the stage is free
  }
#pragma unroll
  for (int r = 0; r < 2; ++r)
    store_row(a.dq.bf16(sequence + query + 8 * r, h), query + 8 * r < p.seq_len, a.dq.width, r, p.scale, dq[0]);
}

// lse, delta and where the document opens, of kN queries.
template <int kN>
struct Numbers {
  float lse[kN], delta[kN];
  std::int32_t opens[kN];
};

template <int kD, int kV, int kN>
__global__ void __launch_bounds__(kThreads, 1) dkdv_kernel(AttentionProblem p, BackwardOperands a) {
  using L = Layout<kD, kV, kN>;
  BF16 *const k_tile = shared_of<BF16>(), *const v_tile = k_tile + L::kOwnA, *const stages = v_tile + L::kOwnB;
  const Task task = p.task(blockIdx.x);
  const int s = task.seq, kv = task.head, j0 = task.tile * kRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp_row = static_cast<int>(threadIdx.x) / kWarp * 16;
  const i64 sequence = i64{s} * p.seq_len;
  const int end = p.end_of_queries(s, min(j0 + kRows, p.seq_len) - 1), begin = j0 / kN * kN;
  const int tiles = (end - begin + kN - 1) / kN, steps = tiles * p.group;  // tiles of a head, then of the next
  const auto numbers_of = [](BF16* stage) { return reinterpret_cast<Numbers<kN>*>(stage + L::kA + L::kB); };
  const auto load_stage = [&](int step, int stage) {
    BF16* const to = stages + stage * L::kStage;
    if (step < steps) {
      const int h = kv * p.group + step / tiles, i0 = begin + step % tiles * kN;
      load_tile<kN, kD, kThreads>(to, a.q.bf16(sequence + i0, h), a.q.stride, p.seq_len - i0, a.q.width);
      load_tile<kN, kV, kThreads>(to + L::kA, a.d_o.bf16(sequence + i0, h), a.d_o.stride, p.seq_len - i0, a.d_o.width);
      if (const int t = static_cast<int>(threadIdx.x); t < kN) {
        const bool real = i0 + t < p.seq_len;
        const i64 at = a.number_of(s, h, p.num_heads, i0 + (real ? t : 0));
        copy_async<4>(numbers_of(to)->lse + t, a.lse + at, real);
        copy_async<4>(numbers_of(to)->delta + t, a.delta + at, real);
        if (p.doc_start_T != nullptr)
          copy_async<4>(numbers_of(to)->opens + t, p.doc_start_T + sequence + i0 + (real ? t : 0), real);
      }
    }
    copy_async_commit();
  };
  load_tile<kRows, kD, kThreads>(k_tile, a.k.bf16(sequence + j0, kv), a.k.stride, p.seq_len - j0, a.k.width);
  load_tile<kRows, kV, kThreads>(v_tile, a.v.bf16(sequence + j0, kv), a.v.stride, p.seq_len - j0, a.v.width);
  load_stage(0, 0);

  const int warp_begin = j0 + warp_row, key = warp_begin + lane / 4;  // and 8 below
  Accumulators<1, kD> dk = {};
  Accumulators<1, kV> dv = {};
  for (int step = 0, stage = 0; step < steps; ++step, stage ^= 1) {
    load_stage(step + 1, stage ^ 1);
    copy_async_wait<1>();
    __syncthreads();
    const int i0 = begin + step % tiles * kN;
    if (i0 + kN > warp_begin && i0 < warp_begin + 15 + p.window) {
      BF16* const queries = stages + stage * L::kStage;
      const Numbers<kN>& numbers = *numbers_of(queries);
      Accumulators<1, kN> scores = {}, dp = {};
      add_a_bt<1, kN, kD>(scores, k_tile + warp_row * kPitch<kD>, queries);
      add_a_bt<1, kN, kV>(dp, v_tile + warp_row * kPitch<kV>, queries + L::kA);
      const bool hides =
          i0 < warp_begin + 15 || i0 + kN > p.seq_len || i0 + kN - 1 >= warp_begin + p.window || p.doc_start_T != nullptr;
#pragma unroll
      for (int n = 0; n < kN; n += 8)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int at = n + lane % 4 * 2 + c, i = i0 + at;
          const float lse = numbers.lse[at], delta = numbers.delta[at];
          const int opens = p.doc_start_T != nullptr && hides ? numbers.opens[at] : 0;
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            float &score = scores[0][n / 2 + 2 * r + c], &d = dp[0][n / 2 + 2 * r + c];
            score = exp2_fast(__fmaf_rn(score, p.scale * kLog2E, -lse));
            const int j = key + 8 * r;
            if (hides && (i < j || i >= j + p.window || i >= p.seq_len || j < opens)) score = 0;
            d = score * (d - delta);
          }
        }
      add_w_b<1, kV, kN>(dv, scores, queries + L::kA);
      add_w_b<1, kD, kN>(dk, dp, queries);
    }
    __syncthreads();  // the stage is free
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool real = key + 8 * r < p.seq_len;
    store_row(a.dk.bf16(sequence + key + 8 * r, kv), real, a.dk.width, r, p.scale, dk[0]);
    store_row(a.dv.bf16(sequence + key + 8 * r, kv), real, a.dv.width, r, 1.0f, dv[0]);
  }
}

template <int kD, int kV, int kN>
void run(Queue& q, const AttentionProblem& problem, const BackwardOperands& a) {
  const AttentionProblem of_q = problem.tiled(kRows, problem.num_heads, 2 * (a.k.width + a.v.width));
  const AttentionProblem of_kv = problem.tiled(kRows, problem.num_kv_heads, 2 * problem.group * (a.q.width + a.d_o.width));
  constexpr std::size_t kBytes = Layout<kD, kV, kN>::kBytes;
  launch(q, dkdv_kernel<kD, kV, kN>, dim3(of_kv.num_tasks()), kThreads, kBytes, of_kv, a);
  launch(q, dq_kernel<kD, kV, kN>, dim3(of_q.num_tasks()), kThreads, kBytes, of_q, a);
}

}  // namespace

void attention_backward_mma(Queue& q, const AttentionProblem& p, const BackwardOperands& a) {
  const int widest = std::max(a.q.width, a.v.width);
  if (widest <= 32) return run<32, 32, 64>(q, p, a);
  if (widest <= 64) return run<64, 64, 64>(q, p, a);
  if (widest <= 128) return run<128, 128, 64>(q, p, a);
  run<192, 128, 16>(q, p, a);
}

}  // namespace moe::cuda
