// Attention forward on Hopper, as FlashAttention-3 (Shah et al. 2024): one warpgroup brings boxes of keys and values, two
// others have 64 queries each and a tile of 128 keys at a time. While the products of a tile run, the softmax of the tile
// before is taken: a warpgroup asks for the scores of tile n and for the sums of tile n - 1 in one go, and the two
// warpgroups take turns at asking, so that one has the matrix units while the other has the exponentials. Weights stay in
// registers, rounded to bf16. Values are read as they lie, [key][column].
// Not here: other widths (attention_forward.cu), the backward.
#include "kernels/cuda_attention_softmax.h"
#include "kernels/cuda_hopper.h"

namespace moe::cuda {
namespace {

constexpr int kGroupThreads = 128, kConsumers = 2, kThreads = kGroupThreads * (1 + kConsumers), kRows = 64 * kConsumers;
constexpr int kKeys = 128, kStages = 2;
constexpr unsigned kConsumerWarps = 4 * kConsumers;

template <int kD, int kV>
struct Shared {
  alignas(1024) unsigned char q[kD / 64][kRows * kBoxRowBytes];
  unsigned char k[kStages][kD / 64][kKeys * kBoxRowBytes];
  unsigned char v[kStages][kV / 64][kKeys * kBoxRowBytes];
  Barrier q_full, k_full[kStages], v_full[kStages], k_empty[kStages], v_empty[kStages];
};

// Tile n of a row of tiles uses stage n % kStages for the (n / kStages)th time.
__device__ int stage_of(int n) { return n % kStages; }
__device__ unsigned parity_of(int n) { return static_cast<unsigned>(n / kStages) & 1u; }

// Boxes of all columns of one head, from row `row` of sequence s.
template <int kBoxes, int kBytes>
__device__ void load(unsigned char (&to)[kBoxes][kBytes], const TensorMap& map, Barrier* full, int head, int row, int s) {
  barrier_expect(full, kBoxes * kBytes);
  for (int b = 0; b < kBoxes; ++b) load_box(to[b], map, full, (i64{head} * kBoxes + b) * kBoxCols, row, s);
}

struct Place {
  int s, h, kv, i0, begin, tiles;  // tiles of keys, from key `begin` on
};
__device__ Place place_of(const AttentionProblem& p) {
  const Task task = p.task(blockIdx.x);
  const int i0 = (p.num_tiles - 1 - task.tile) * kRows, begin = p.first_key(task.seq, i0) / kKeys * kKeys;
  const int end = min(i0 + kRows, p.seq_len);
  return {task.seq, task.head, task.head / p.group, i0, begin, (end - begin + kKeys - 1) / kKeys};
}

// The order in which consumers ask: all of q, keys 0, keys 1, values 0, keys 2, values 1, ...
template <int kD, int kV>
__device__ void produce(Shared<kD, kV>& shared, const Place& at, const TensorMap& q, const TensorMap& k,
                        const TensorMap& v) {
  load(shared.q, q, &shared.q_full, at.h, at.i0, at.s);
  for (int n = 0; n <= at.tiles; ++n) {
    if (n < at.tiles) {
      if (n >= kStages) barrier_wait(&shared.k_empty[stage_of(n)], parity_of(n - kStages));
      load(shared.k[stage_of(n)], k, &shared.k_full[stage_of(n)], at.kv, at.begin + n * kKeys, at.s);
    }
    if (n == 0) continue;
    const int m = n - 1;
    if (m >= kStages) barrier_wait(&shared.v_empty[stage_of(m)], parity_of(m - kStages));
    load(shared.v[stage_of(m)], v, &shared.v_full[stage_of(m)], at.kv, at.begin + m * kKeys, at.s);
  }
}

// scores (=) this warpgroup's queries times the tile's keys; runs on.
template <int kD, int kV>
__device__ void ask_scores(Shared<kD, kV>& shared, int group, int n, float (&scores)[kKeys / 2]) {
  barrier_wait(&shared.k_full[stage_of(n)], parity_of(n));
  products_begin();
#pragma unroll
  for (int d = 0; d < kD; d += 16) {
    const std::uint64_t a = k_major(shared.q[d / 64] + group * 64 * kBoxRowBytes);
    const std::uint64_t b = k_major(shared.k[stage_of(n)][d / 64]);
    product<0, 0>(scores, operand_at(a, d % 64 * 2), operand_at(b, d % 64 * 2), d > 0);
  }
  products_commit();
}

// out += weights times the tile's values; runs on.
template <int kD, int kV>
__device__ void ask_sums(Shared<kD, kV>& shared, int n, const unsigned (&weights)[kKeys / 16][4], float (&out)[kV / 2]) {
  barrier_wait(&shared.v_full[stage_of(n)], parity_of(n));
  products_begin();
#pragma unroll
  for (int j = 0; j < kKeys / 16; ++j)
    product_of_registers<1>(out, weights[j], operand_at(mn_major(shared.v[stage_of(n)][0], kKeys), j * 16 * kBoxRowBytes),
                            1);
  products_commit();
}

__device__ void pack(const float (&scores)[kKeys / 2], unsigned (&weights)[kKeys / 16][4]) {
#pragma unroll
  for (int j = 0; j < kKeys / 16; ++j) pack_columns(weights[j], scores, 16 * j);
}
__device__ void leave(Barrier* empty) {
  if (threadIdx.x % kWarp == 0) barrier_arrive(empty);
}

template <int kD, int kV>
__device__ void consume(Shared<kD, kV>& shared, const AttentionProblem& p, const ForwardOperands& a, const Place& at) {
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads - 1, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int group_begin = at.i0 + 64 * group, last_first = p.first_key(at.s, group_begin + 63);
  const int query = group_begin + static_cast<int>(threadIdx.x) % kGroupThreads / kWarp * 16 + lane / 4;
  const unsigned my_turn = 1 + static_cast<unsigned>(group), other_turn = 2 - static_cast<unsigned>(group);
  const auto soften = [&](int n, RunningRows& rows, float(&scores)[kKeys / 2]) {
    const int j0 = at.begin + n * kKeys;
    if (j0 + kKeys - 1 > group_begin || j0 < last_first) hide(p, at.s, query, j0 + lane % 4 * 2, scores);
    update(rows, scores, p.scale * kLog2E);
  };
  if (group == 1) arrive_threads_of(other_turn, kConsumers * kGroupThreads);  // the first turn is group 0's

  RunningRows rows = first_rows(p, at.h);
  float scores[kKeys / 2], out[kV / 2];
  unsigned weights[kKeys / 16][4];
#pragma unroll
  for (int i = 0; i < kV / 2; ++i) out[i] = 0;
  barrier_wait(&shared.q_full, 0);
  sync_threads_of(my_turn, kConsumers * kGroupThreads);
  ask_scores(shared, group, 0, scores);
  arrive_threads_of(other_turn, kConsumers * kGroupThreads);
  products_wait<0>(scores);
  leave(&shared.k_empty[0]);
  soften(0, rows, scores);
  pack(scores, weights);
  for (int n = 1; n < at.tiles; ++n) {
    sync_threads_of(my_turn, kConsumers * kGroupThreads);
    ask_scores(shared, group, n, scores);
    ask_sums(shared, n - 1, weights, out);
    arrive_threads_of(other_turn, kConsumers * kGroupThreads);
    products_wait<1>(scores);
    leave(&shared.k_empty[stage_of(n)]);
    soften(n, rows, scores);
    products_wait<0>(out);
    leave(&shared.v_empty[stage_of(n - 1)]);
    shrink(rows, out);
    pack(scores, weights);
  }
  ask_sums(shared, at.tiles - 1, weights, out);
  products_wait<0>(out);
  store_output(p, a, at.s, at.h, query, rows, out);
}

template <int kD, int kV>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_kernel(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
                  const __grid_constant__ TensorMap v, AttentionProblem p, ForwardOperands a) {
  Shared<kD, kV>& shared = *shared_of<Shared<kD, kV>>();
  if (threadIdx.x == 0) {
    barrier_init(&shared.q_full, 1);
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&shared.k_full[i], 1), barrier_init(&shared.v_full[i], 1);
      barrier_init(&shared.k_empty[i], kConsumerWarps), barrier_init(&shared.v_empty[i], kConsumerWarps);
    }
    barrier_init_done();
  }
  __syncthreads();
  const Place at = place_of(p);
  if (threadIdx.x < kGroupThreads) {
    leave_registers<24>();
    if (threadIdx.x == 0) produce(shared, at, q, k, v);
  } else {
    take_registers<240>();
    consume(shared, p, a, at);
  }
}

template <int kD, int kV>
void run(Queue& queue, const AttentionProblem& problem, const ForwardOperands& a) {
  const AttentionProblem p = problem.tiled(kRows, problem.num_heads, 2 * (kD + kV));
  const auto map = [&](const Heads& m, int num_heads, int rows) {
    const CMat whole = {m.data, DType::kBF16, i64{p.num_seqs} * p.seq_len, i64{num_heads} * m.width, m.stride};
    return tensor_map(whole, p.num_seqs, static_cast<unsigned>(rows));
  };
  static_assert(sizeof(Shared<kD, kV>) <= 227 * 1024);
  launch(queue, hopper_kernel<kD, kV>, dim3(p.num_tasks()), kThreads, sizeof(Shared<kD, kV>), map(a.q, p.num_heads, kRows),
         map(a.k, p.num_kv_heads, kKeys), map(a.v, p.num_kv_heads, kKeys), p, a);
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
