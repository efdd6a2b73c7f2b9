// What attention's kernels on Hopper share. A block is three warpgroups: thread 0 of the first brings tiles, the two others
// have 64 rows each of the task's own tile and multiply them with all tiles that come. They take turns at asking for
// products, so that one has the matrix units while the other has the exponentials. There are as many blocks as
// multiprocessors; each takes tasks from a counter until there are no more, and what a task needs first comes while the one
// before is written. Which block has a task changes nothing of its result.
// Not here: the kernels (attention_forward_hopper.cu, attention_backward_hopper.cu), the softmax (cuda_attention_softmax.h).
#pragma once

#include "kernels/cuda_attention_softmax.h"
#include "kernels/cuda_hopper.h"

namespace moe::cuda {

inline constexpr unsigned kConsumers = 2, kConsumerThreads = kConsumers * kGroupThreads;
inline constexpr unsigned kBlockThreads = kConsumerThreads + kGroupThreads, kConsumerWarps = kConsumerThreads / kWarp;
inline constexpr int kBlockRows = 64 * kConsumers;
inline constexpr std::size_t kMostShared = 227 * 1024;

// kRows rows of a head of kWidth columns: boxes of 64 columns, one after the other.
template <int kRows, int kWidth>
struct HeadTile {
  static constexpr unsigned kBytes = kWidth / 64 * box_bytes(kRows);
  unsigned char boxes[kWidth / 64][box_bytes(kRows)];
};

inline unsigned blocks_that_stay(const AttentionProblem& p) {
  return std::min(p.num_tasks(), static_cast<unsigned>(num_multiprocessors()));
}

// Of all heads, kRows rows of a sequence at a time.
template <int kRows>
TensorMap map_of_heads(const AttentionProblem& p, const Heads& m, int num_heads) {
  const CMat whole = {m.data, DType::kBF16, i64{p.num_seqs} * p.seq_len, i64{num_heads} * m.width, m.stride};
  return tensor_map(whole, p.num_seqs, kRows);
}

// From row `row` of sequence s; `full` was told of HeadTile::kBytes.
template <int kRows, int kWidth>
__device__ inline void load(HeadTile<kRows, kWidth>& to, const TensorMap& map, Barrier* full, int head, int row, int s) {
  for (int b = 0; b < kWidth / 64; ++b) load_box(to.boxes[b], map, full, (i64{head} * (kWidth / 64) + b) * kBoxCols, row, s);
}

// The stages of a row of tiles, which goes on from task to task: tile n uses stage(n), for the (n / kStages)th time.
template <int kStages>
struct Ring {
  Barrier full[kStages], empty[kStages];

  __device__ static int stage(int n) { return n % kStages; }
  __device__ static unsigned parity(int n) { return static_cast<unsigned>(n / kStages) & 1u; }
  __device__ void init() {
    for (int i = 0; i < kStages; ++i) barrier_init(&full[i], 1), barrier_init(&empty[i], kConsumerWarps);
  }
  // The producer waits until the stage is free, and says what will come.
  __device__ Barrier* expect(int n, unsigned bytes) {
    if (n >= kStages) barrier_wait(&empty[stage(n)], parity(n - kStages));
    barrier_expect(&full[stage(n)], bytes);
    return &full[stage(n)];
  }
  // The consumers; each warp gives back once.
  __device__ void wait(int n) { barrier_wait(&full[stage(n)], parity(n)); }
  __device__ void give_back(int n) {
    if (threadIdx.x % kWarp == 0) barrier_arrive(&empty[stage(n)]);
  }
};

// What comes once a task: its own tiles, and its number.
struct OwnTiles {
  Barrier full, empty;
  unsigned task;

  __device__ void init() { barrier_init(&full, 1), barrier_init(&empty, kConsumerWarps); }
};

// The producer's tasks. bring(task, full) is told the barrier of the own tiles, which are `bytes`, and brings all that the
// task needs.
template <class F>
__device__ inline void for_tasks(OwnTiles& own, unsigned num_tasks, unsigned* next_task, unsigned bytes, const F& bring) {
  unsigned parity = 1;  // of the own tiles before; none before the first
  const auto announce = [&](unsigned task) {
    barrier_wait(&own.empty, parity);
    parity ^= 1;
    own.task = task;
  };
  for (unsigned task = blockIdx.x; task < num_tasks; task = gridDim.x + atomicAdd(next_task, 1u)) {
    announce(task);
    barrier_expect(&own.full, bytes);
    bring(task, &own.full);
  }
  announce(num_tasks);
  barrier_arrive(&own.full);
}

// A thread among the consumers.
struct Consumer {
  int group, lane, row;  // row: of the task's own tile, the first of the two that this thread has; the other is 8 below
  unsigned own_parity = 0;

  __device__ Consumer()
      : group(static_cast<int>(threadIdx.x / kGroupThreads) - 1),
        lane(static_cast<int>(threadIdx.x) % kWarp),
        row(64 * group + static_cast<int>(threadIdx.x % kGroupThreads / kWarp) * 16 + lane / 4) {
    if (group == 1) pass_turn();  // the first turn is group 0's
  }
  // The next task, whose own tiles are there; num_tasks: no more.
  __device__ unsigned next_task(OwnTiles& own) {
    barrier_wait(&own.full, own_parity);
    own_parity ^= 1;
    return own.task;
  }
  // The own tiles are not read any more, nor is their number.
  __device__ void give_back(OwnTiles& own) const {
    if (lane == 0) barrier_arrive(&own.empty);
  }
  __device__ void take_turn() const { sync_threads_of(1 + static_cast<unsigned>(group), kConsumerThreads); }
  __device__ void pass_turn() const { arrive_threads_of(2 - static_cast<unsigned>(group), kConsumerThreads); }
};

// ---- Products of a warpgroup, as groups that run on (products_wait).

// d (=) A B^T, A: 64 rows of a from row a_row on.
template <int kARows, int kBRows, int kWidth>
__device__ inline void ask_a_bt(float (&d)[kBRows / 2], const HeadTile<kARows, kWidth>& a, int a_row,
                                const HeadTile<kBRows, kWidth>& b) {
  products_begin();
#pragma unroll
  for (int c = 0; c < kWidth; c += 16) {
    const std::uint64_t left = k_major(a.boxes[c / 64] + a_row * static_cast<int>(kBoxRowBytes));
    product<0, 0>(d, operand_at(left, c % 64 * 2), operand_at(k_major(b.boxes[c / 64]), c % 64 * 2), c > 0);
  }
  products_commit();
}

// d += W B, W [64, kRows] in registers.
template <int kRows, int kWidth>
__device__ inline void ask_w_b(float (&d)[kWidth / 2], const unsigned (&w)[kRows / 16][4],
                               const HeadTile<kRows, kWidth>& b) {
  products_begin();
#pragma unroll
  for (int j = 0; j < kRows / 16; ++j)
    product_of_registers<1>(d, w[j], operand_at(mn_major(b.boxes[0], kRows), j * 16 * kBoxRowBytes), 1);
  products_commit();
}

// Accumulators, rounded, as the left operand of a product.
template <int kCols>
__device__ inline void pack(const float (&scores)[kCols / 2], unsigned (&w)[kCols / 16][4]) {
#pragma unroll
  for (int j = 0; j < kCols / 16; ++j) pack_columns(w[j], scores, 16 * j);
}

template <int kCount>
__device__ inline void clear(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) d[i] = 0;
}

}  // namespace moe::cuda
