// Attention backward on Hopper: P = 2^(scale2 q k - lse) again, dS = P (dP - delta), both rounded to bf16 for the products
// that follow, straight from the registers they are made in. Two kernels, so that every sum stays in the registers of one
// warpgroup and no order is left to chance:
//   dq      blocks of 128 queries, over tiles of keys:                   dq = scale dS k
//   dk, dv  blocks of 128 keys, over heads and tiles of queries, all transposed:   dv = P^T d_o, dk = scale dS^T q
// Seven products for the five of one pass. For dq, as in the forward, a warpgroup asks for the scores of tile n together with
// the sums of tile n - 1, so a tile that sums read lives two turns. For dk, dv there are no registers for that: what is made
// of a tile is multiplied at once, and the other warpgroup has the matrix units meanwhile.
// Not here: other widths (attention_backward.cu), delta (attention.cu).
#include "kernels/cuda_attention_hopper.h"

namespace moe::cuda {
namespace {

// ---- dq

template <int kD, int kV, int kKeys>
struct DqShared {
  static constexpr int kKStages = 3, kVStages = 2;
  alignas(1024) HeadTile<kBlockRows, kD> q;
  HeadTile<kBlockRows, kV> d_o;
  HeadTile<kKeys, kD> k[kKStages];
  HeadTile<kKeys, kV> v[kVStages];
  OwnTiles own;
  Ring<kKStages> k_ring;
  Ring<kVStages> v_ring;
};

template <int kKeys>
struct DqPlace {
  int s, h, kv, i0, begin, tiles;  // tiles of keys, from key `begin` on

  __device__ DqPlace(const AttentionProblem& p, unsigned number) {
    const Task task = p.task(number);
    s = task.seq, h = task.head, kv = h / p.group, i0 = (p.num_tiles - 1 - task.tile) * kBlockRows;
    begin = p.first_key(s, i0) / kKeys * kKeys;
    tiles = (min(i0 + kBlockRows, p.seq_len) - begin + kKeys - 1) / kKeys;
  }
};

template <int kD, int kV, int kKeys>
__device__ void produce_keys(DqShared<kD, kV, kKeys>& shared, const AttentionProblem& p, unsigned* next_task,
                             const TensorMap& q, const TensorMap& k, const TensorMap& v, const TensorMap& d_o) {
  int first = 0;  // tile of the task
  const unsigned own_bytes = shared.q.kBytes + shared.d_o.kBytes;
  for_tasks(shared.own, p.num_tasks(), next_task, own_bytes, [&](unsigned task, Barrier* own_full) {
    const DqPlace<kKeys> at(p, task);
    load(shared.q, q, own_full, at.h, at.i0, at.s);
    load(shared.d_o, d_o, own_full, at.h, at.i0, at.s);
    for (int j0 = at.begin, n = first; n < first + at.tiles; j0 += kKeys, ++n) {
      HeadTile<kKeys, kD>& k_tile = shared.k[n % shared.kKStages];
      load(k_tile, k, shared.k_ring.expect(n, k_tile.kBytes), at.kv, j0, at.s);
      HeadTile<kKeys, kV>& v_tile = shared.v[n % shared.kVStages];
      load(v_tile, v, shared.v_ring.expect(n, v_tile.kBytes), at.kv, j0, at.s);
    }
    first += at.tiles;
  });
}

// The task at `at`, whose tiles are numbered from `first` on.
template <int kD, int kV, int kKeys>
__device__ void sum_dq(DqShared<kD, kV, kKeys>& shared, const AttentionProblem& p, const BackwardOperands& a,
                       const DqPlace<kKeys>& at, const Consumer& me, int first) {
  const int group_begin = at.i0 + 64 * me.group, query = at.i0 + me.row, last_first = p.first_key(at.s, group_begin + 63);
  const SeenKeys seen(p, at.s, query);
  float lse[2], delta[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const i64 n = a.number_of(at.s, at.h, p.num_heads, min(query + 8 * r, p.seq_len - 1));
    lse[r] = a.lse[n], delta[r] = a.delta[n];
  }
  float scores[kKeys / 2], dp[kKeys / 2], dq[kD / 2];
  unsigned ds[kKeys / 16][4];
  const auto ask_scores = [&](int n) {
    shared.k_ring.wait(first + n);
    ask_a_bt(scores, shared.q, 64 * me.group, shared.k[(first + n) % shared.kKStages]);
    shared.v_ring.wait(first + n);
    ask_a_bt(dp, shared.d_o, 64 * me.group, shared.v[(first + n) % shared.kVStages]);
  };
  const auto ask_sums = [&](int n) { ask_w_b(dq, ds, shared.k[(first + n) % shared.kKStages]); };
  const auto weigh = [&](int n) {
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) scores[i] = exp2_fast(__fmaf_rn(scores[i], p.scale * kLog2E, -lse[i / 2 % 2]));
    const int j0 = at.begin + n * kKeys;
    if (j0 + kKeys - 1 > group_begin || j0 < last_first) hide(seen, j0 + me.lane % 4 * 2, 0.0f, scores);
  };
  const auto differentiate = [&](int n) {
    shared.v_ring.give_back(first + n);
    if (n == at.tiles - 1) me.give_back(shared.own);
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) scores[i] *= dp[i] - delta[i / 2 % 2];
  };

  clear(dq);
  me.take_turn();
  ask_scores(0);
  me.pass_turn();
  products_wait<1>(scores);
  weigh(0);
  products_wait<0>(dp);
  differentiate(0);
  pack<kKeys>(scores, ds);
  for (int n = 1; n < at.tiles; ++n) {
    me.take_turn();
    ask_scores(n);
    ask_sums(n - 1);
    me.pass_turn();
    products_wait<2>(scores);
    weigh(n);
    products_wait<1>(dp);
    differentiate(n);
    products_wait<0>(dq);
    shared.k_ring.give_back(first + n - 1);
    pack<kKeys>(scores, ds);
  }
  ask_sums(at.tiles - 1);
  products_wait<0>(dq);
  shared.k_ring.give_back(first + at.tiles - 1);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    BF16* const to = a.dq.bf16(i64{at.s} * p.seq_len + query + 8 * r, at.h);
    store_row(to, query + 8 * r < p.seq_len, a.dq.width, r, p.scale, dq);
  }
}

template <int kD, int kV, int kKeys>
__global__ void __launch_bounds__(kBlockThreads, 1)
    dq_kernel(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
              const __grid_constant__ TensorMap d_o, AttentionProblem p, BackwardOperands a) {
  auto& shared = *shared_of<DqShared<kD, kV, kKeys>>();
  if (threadIdx.x == 0) {
    shared.own.init(), shared.k_ring.init(), shared.v_ring.init();
    barrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x < kGroupThreads) {
    leave_registers<24>();
    if (threadIdx.x == 0) produce_keys(shared, p, a.next_tasks + 1, q, k, v, d_o);
  } else {
    take_registers<240>();
    Consumer me;
    int first = 0;
    for (unsigned task; (task = me.next_task(shared.own)) < p.num_tasks();) {
      const DqPlace<kKeys> at(p, task);
      sum_dq(shared, p, a, at, me, first);
      first += at.tiles;
    }
  }
}

// ---- dk, dv

template <int kD, int kV, int kQueries>
struct QueryStage {
  HeadTile<kQueries, kD> q;
  HeadTile<kQueries, kV> d_o;
  float lse[kQueries], delta[kQueries];
  static constexpr unsigned kBytes = sizeof(q) + sizeof(d_o) + sizeof(lse) + sizeof(delta);
};

template <int kD, int kV, int kQueries>
struct DkDvShared {
  static constexpr int kStages = 3;
  alignas(1024) HeadTile<kBlockRows, kD> k;
  HeadTile<kBlockRows, kV> v;
  struct {
    alignas(1024) QueryStage<kD, kV, kQueries> of;
  } stages[kStages];
  OwnTiles own;
  Ring<kStages> ring;
};

// The tiles of queries that see keys of a task: those of a head, then those of the next.
struct DkDvPlace {
  int s, kv, j0, end, heads;

  __device__ DkDvPlace(const AttentionProblem& p, unsigned number) : heads(p.group) {
    const Task task = p.task(number);
    s = task.seq, kv = task.head, j0 = task.tile * kBlockRows;
    end = p.end_of_queries(s, min(j0 + kBlockRows, p.seq_len) - 1);
  }
};
template <int kQueries>
struct QueryTile {
  int h, i0;
  __device__ explicit QueryTile(const DkDvPlace& at) : h(at.kv * at.heads), i0(at.j0) {}
  __device__ bool is_there(const DkDvPlace& at) const { return h < (at.kv + 1) * at.heads; }
  __device__ void advance(const DkDvPlace& at) {
    i0 += kQueries;
    if (i0 >= at.end) i0 = at.j0, ++h;
  }
};

template <int kD, int kV, int kQueries>
__device__ void produce_queries(DkDvShared<kD, kV, kQueries>& shared, const AttentionProblem& p, const BackwardOperands& a,
                                const TensorMap& q, const TensorMap& k, const TensorMap& v, const TensorMap& d_o) {
  int n = 0;
  const unsigned own_bytes = shared.k.kBytes + shared.v.kBytes;
  for_tasks(shared.own, p.num_tasks(), a.next_tasks, own_bytes, [&](unsigned task, Barrier* own_full) {
    const DkDvPlace at(p, task);
    load(shared.k, k, own_full, at.kv, at.j0, at.s);
    load(shared.v, v, own_full, at.kv, at.j0, at.s);
    for (QueryTile<kQueries> tile(at); tile.is_there(at); tile.advance(at), ++n) {
      auto& stage = shared.stages[n % shared.kStages].of;
      Barrier* const full = shared.ring.expect(n, stage.kBytes);
      load(stage.q, q, full, tile.h, tile.i0, at.s);
      load(stage.d_o, d_o, full, tile.h, tile.i0, at.s);
      const i64 number = a.number_of(at.s, tile.h, p.num_heads, tile.i0);
      load_bytes(stage.lse, a.lse + number, sizeof stage.lse, full);
      load_bytes(stage.delta, a.delta + number, sizeof stage.delta, full);
    }
  });
}

// The task at `at`, whose tiles are numbered from n on; n becomes the next task's.
template <int kD, int kV, int kQueries>
__device__ void sum_dk_dv(DkDvShared<kD, kV, kQueries>& shared, const AttentionProblem& p, const BackwardOperands& a,
                          const DkDvPlace& at, const Consumer& me, int& n) {
  const int group_begin = at.j0 + 64 * me.group, key = at.j0 + me.row, col = me.lane % 4 * 2;
  const std::int32_t* const opens_S = p.doc_start_T != nullptr ? p.doc_start_T + i64{at.s} * p.seq_len : nullptr;
  float scores[kQueries / 2], dp[kQueries / 2], dk[kD / 2], dv[kV / 2];
  unsigned weights[kQueries / 16][4], ds[kQueries / 16][4];
  const auto stage_of = [&](int n) -> auto& { return shared.stages[n % shared.kStages].of; };
  const auto ask_scores = [&](int n) {
    shared.ring.wait(n);
    ask_a_bt(scores, shared.k, 64 * me.group, stage_of(n).q);
    ask_a_bt(dp, shared.v, 64 * me.group, stage_of(n).d_o);
  };
  // f(element, query of the tile, row) of all scores of this thread.
  const auto for_scores = [&](const auto& f) {
#pragma unroll
    for (int n = 0; n < kQueries; n += 8)
#pragma unroll
      for (int i = 0; i < 4; ++i) f(n / 2 + i, n + col + i % 2, i / 2);
  };
  // Queries behind the sequence are rows of zeros: they add nothing.
  const auto weigh = [&](int n, int i0) {
    const float* const lse = stage_of(n).lse;
    for_scores([&](int e, int i, int) { scores[e] = exp2_fast(__fmaf_rn(scores[e], p.scale * kLog2E, -lse[i])); });
    const bool opens = opens_S != nullptr && opens_S[min(i0 + kQueries, p.seq_len) - 1] > group_begin;
    if (i0 >= group_begin + 63 && i0 + kQueries - 1 < group_begin + p.window && !opens) return;
    for_scores([&](int e, int i, int r) {
      const int query = i0 + i, j = key + 8 * r;
      if (query < j || j < p.first_key(at.s, query)) scores[e] = 0;
    });
  };
  const auto differentiate = [&](int n) {
    const float* const delta = stage_of(n).delta;
    for_scores([&](int e, int i, int) { dp[e] = scores[e] * (dp[e] - delta[i]); });
  };

  clear(dk), clear(dv);
  for (QueryTile<kQueries> tile(at); tile.is_there(at); tile.advance(at), ++n) {
    me.take_turn();
    ask_scores(n);
    me.pass_turn();
    products_wait<1>(scores);
    weigh(n, tile.i0);
    pack<kQueries>(scores, weights);
    ask_w_b(dv, weights, stage_of(n).d_o);
    products_wait<1>(dp);
    differentiate(n);
    pack<kQueries>(dp, ds);
    ask_w_b(dk, ds, stage_of(n).q);
    products_wait<0>(dv);
    products_wait<0>(dk);
    shared.ring.give_back(n);
  }
  me.give_back(shared.own);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const i64 row = i64{at.s} * p.seq_len + key + 8 * r;
    const bool real = key + 8 * r < p.seq_len;
    store_row(a.dk.bf16(row, at.kv), real, a.dk.width, r, p.scale, dk);
    store_row(a.dv.bf16(row, at.kv), real, a.dv.width, r, 1.0f, dv);
  }
}

template <int kD, int kV, int kQueries>
__global__ void __launch_bounds__(kBlockThreads, 1)
    dkdv_kernel(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
                const __grid_constant__ TensorMap v, const __grid_constant__ TensorMap d_o, AttentionProblem p,
                BackwardOperands a) {
  auto& shared = *shared_of<DkDvShared<kD, kV, kQueries>>();
  if (threadIdx.x == 0) {
    shared.own.init(), shared.ring.init();
    barrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x < kGroupThreads) {
    leave_registers<24>();
    if (threadIdx.x == 0) produce_queries(shared, p, a, q, k, v, d_o);
  } else {
    take_registers<240>();
    Consumer me;
    int n = 0;
    for (unsigned task; (task = me.next_task(shared.own)) < p.num_tasks();)
      sum_dk_dv(shared, p, a, DkDvPlace(p, task), me, n);
  }
}

template <int kD, int kV, int kKeys, int kQueries>
void run(Queue& queue, const AttentionProblem& problem, const BackwardOperands& a) {
  const AttentionProblem of_q = problem.tiled(kBlockRows, problem.num_heads, 2 * (kD + kV));
  const AttentionProblem of_kv = problem.tiled(kBlockRows, problem.num_kv_heads, 2 * problem.group * (kD + kV));
  const int H = problem.num_heads, kv_heads = problem.num_kv_heads;
  static_assert(sizeof(DqShared<kD, kV, kKeys>) <= kMostShared && sizeof(DkDvShared<kD, kV, kQueries>) <= kMostShared);
  check(cudaMemsetAsync(a.next_tasks, 0, 2 * sizeof *a.next_tasks, queue.stream), "attention");
  launch(queue, dkdv_kernel<kD, kV, kQueries>, blocks_that_stay(of_kv), kBlockThreads, sizeof(DkDvShared<kD, kV, kQueries>),
         map_of_heads<kQueries>(problem, a.q, H), map_of_heads<kBlockRows>(problem, a.k, kv_heads),
         map_of_heads<kBlockRows>(problem, a.v, kv_heads), map_of_heads<kQueries>(problem, a.d_o, H), of_kv, a);
  launch(queue, dq_kernel<kD, kV, kKeys>, blocks_that_stay(of_q), kBlockThreads, sizeof(DqShared<kD, kV, kKeys>),
         map_of_heads<kBlockRows>(problem, a.q, H), map_of_heads<kKeys>(problem, a.k, kv_heads),
         map_of_heads<kKeys>(problem, a.v, kv_heads), map_of_heads<kBlockRows>(problem, a.d_o, H), of_q, a);
}

}  // namespace

void attention_backward_hopper(Queue& q, const AttentionProblem& p, const BackwardOperands& a) {
  if (a.q.width == 64) return run<64, 64, 128, 64>(q, p, a);
  if (a.q.width == 128) return run<128, 128, 96, 64>(q, p, a);
  run<192, 128, 64, 32>(q, p, a);
}

}  // namespace moe::cuda
