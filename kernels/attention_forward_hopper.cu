// Attention forward on Hopper, as FlashAttention-3 (Shah et al. 2024): blocks of 128 queries, tiles of 128 keys and their
// values. While the products of a tile run, the softmax of the tile before is taken: a warpgroup asks for the scores of
// tile n and for the sums of tile n - 1 in one go. Weights stay in registers, rounded to bf16. Values are read as they lie,
// [key][column].
// Not here: other widths (attention_forward.cu), the backward (attention_backward_hopper.cu).
#include "kernels/cuda_attention_hopper.h"

namespace moe::cuda {
namespace {

constexpr int kKeys = 128, kStages = 2;

template <int kD, int kV>
struct Shared {
  alignas(1024) HeadTile<kBlockRows, kD> q;
  HeadTile<kKeys, kD> k[kStages];
  HeadTile<kKeys, kV> v[kStages];
  OwnTiles own;
  Ring<kStages> k_ring, v_ring;
};

struct Place {
  int s, h, kv, i0, begin, tiles;  // tiles of keys, from key `begin` on

  __device__ Place(const AttentionProblem& p, unsigned number) {
    const Task task = p.task(number);
    s = task.seq, h = task.head, kv = h / p.group, i0 = (p.num_tiles - 1 - task.tile) * kBlockRows;
    begin = p.first_key(s, i0) / kKeys * kKeys;
    tiles = (min(i0 + kBlockRows, p.seq_len) - begin + kKeys - 1) / kKeys;
  }
};

// The order in which consumers ask: all of q, keys 0, keys 1, values 0, keys 2, values 1, ...
template <int kD, int kV>
__device__ void produce(Shared<kD, kV>& shared, const AttentionProblem& p, unsigned* next_task, const TensorMap& q,
                        const TensorMap& k, const TensorMap& v) {
  int first = 0;  // tile of the task
  for_tasks(shared.own, p.num_tasks(), next_task, shared.q.kBytes, [&](unsigned task, Barrier* own_full) {
    const Place at(p, task);
    load(shared.q, q, own_full, at.h, at.i0, at.s);
    for (int n = 0; n <= at.tiles; ++n) {
      if (n < at.tiles) {
        HeadTile<kKeys, kD>& to = shared.k[(first + n) % kStages];
        load(to, k, shared.k_ring.expect(first + n, to.kBytes), at.kv, at.begin + n * kKeys, at.s);
      }
      if (n == 0) continue;
      HeadTile<kKeys, kV>& to = shared.v[(first + n - 1) % kStages];
      load(to, v, shared.v_ring.expect(first + n - 1, to.kBytes), at.kv, at.begin + (n - 1) * kKeys, at.s);
    }
    first += at.tiles;
  });
}

// The task at `at`, whose tiles are numbered from `first` on.
template <int kD, int kV>
__device__ void consume(Shared<kD, kV>& shared, const AttentionProblem& p, const ForwardOperands& a, const Place& at,
                        const Consumer& me, int first) {
  const int group_begin = at.i0 + 64 * me.group, query = at.i0 + me.row, last_first = p.first_key(at.s, group_begin + 63);
  const SeenKeys seen(p, at.s, query);
  RunningRows rows = first_rows(p, at.h);
  float scores[kKeys / 2], out[kV / 2];
  unsigned weights[kKeys / 16][4];
  const auto ask_scores = [&](int n) {
    shared.k_ring.wait(first + n);
    ask_a_bt(scores, shared.q, 64 * me.group, shared.k[(first + n) % kStages]);
  };
  const auto ask_sums = [&](int n) { ask_w_b(out, weights, shared.v[(first + n) % kStages]); };
  const auto soften = [&](int n) {
    shared.k_ring.give_back(first + n);
    if (n == at.tiles - 1) me.give_back(shared.own);
    const int j0 = at.begin + n * kKeys;
    if (j0 + kKeys - 1 > group_begin || j0 < last_first) hide(seen, j0 + me.lane % 4 * 2, minus_infinity(), scores);
    update(rows, scores, p.scale * kLog2E);
    shared.v_ring.wait(first + n);  // wanted next turn, but here it keeps ptxas from putting the exponentials off
  };

  clear(out);
  me.take_turn();
  ask_scores(0);
  me.pass_turn();
  products_wait<0>(scores);
  soften(0);
  pack<kKeys>(scores, weights);
  for (int n = 1; n < at.tiles; ++n) {
    me.take_turn();
    ask_scores(n);
    ask_sums(n - 1);
    me.pass_turn();
    products_wait<1>(scores);
    soften(n);
    products_wait<0>(out);
    shared.v_ring.give_back(first + n - 1);
    shrink(rows, out);
    pack<kKeys>(scores, weights);
  }
  ask_sums(at.tiles - 1);
  products_wait<0>(out);
  shared.v_ring.give_back(first + at.tiles - 1);
  store_output(p, a, at.s, at.h, query, rows, out);
}

template <int kD, int kV>
__global__ void __launch_bounds__(kBlockThreads, 1)
    forward_kernel(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
                   const __grid_constant__ TensorMap v, AttentionProblem p, ForwardOperands a, unsigned* next_task) {
  Shared<kD, kV>& shared = *shared_of<Shared<kD, kV>>();
  if (threadIdx.x == 0) {
    shared.own.init(), shared.k_ring.init(), shared.v_ring.init();
    barrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x < kGroupThreads) {
    leave_registers<24>();
    if (threadIdx.x == 0) produce(shared, p, next_task, q, k, v);
  } else {
    take_registers<240>();
    Consumer me;
    int first = 0;
    for (unsigned task; (task = me.next_task(shared.own)) < p.num_tasks();) {
      const Place at(p, task);
      consume(shared, p, a, at, me, first);
      first += at.tiles;
    }
  }
}

template <int kD, int kV>
void run(Queue& queue, const AttentionProblem& problem, const ForwardOperands& a) {
  const AttentionProblem p = problem.tiled(kBlockRows, problem.num_heads, 2 * (kD + kV));
  static_assert(sizeof(Shared<kD, kV>) <= kMostShared);
  auto* const next_task = queue.scratch_of<unsigned>(1);
  check(cudaMemsetAsync(next_task, 0, sizeof *next_task, queue.stream), "attention");
  launch(queue, forward_kernel<kD, kV>, blocks_that_stay(p), kBlockThreads, sizeof(Shared<kD, kV>),
         map_of_heads<kBlockRows>(p, a.q, p.num_heads), map_of_heads<kKeys>(p, a.k, p.num_kv_heads),
         map_of_heads<kKeys>(p, a.v, p.num_kv_heads), p, a, next_task);
}

}  // namespace

bool attention_hopper_takes(int head_dim, int value_dim) {
  return (head_dim == 64 && value_dim == 64) || ((head_dim == 128 || head_dim == 192) && value_dim == 128);
}

void attention_forward_hopper(Queue& q, const AttentionProblem& p, const ForwardOperands& a) {
  if (a.q.width == 64) return run<64, 64>(q, p, a);
  if (a.q.width == 128) return run<128, 128>(q, p, a);
  run<192, 128>(q, p, a);
}

}  // namespace moe::cuda
