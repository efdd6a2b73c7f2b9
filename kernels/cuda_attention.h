// What the ways to compute attention on CUDA share: the problem, which keys a query sees, the order of the tasks, and the
// functions of each way. attention.cu chooses: matrix units for bf16 whose rows allow copies of 16 bytes and whose heads
// are not too wide, else plain products in fp32, for any dtype, stride and width. Every way has one task per tile of queries
// (forward, dq) or of keys (dk, dv), a block of its own or one that takes task after task, and sums in the order of the
// tiles: no sum is atomic, the same bits each time.
// Not here: tile products (cuda_attention_mma.h, cuda_attention_hopper.h), a cache (cache_attention.cu).
#pragma once

#include <algorithm>

#include "kernels/cuda.h"

namespace moe::cuda {

inline constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

__device__ inline float minus_infinity() { return __uint_as_float(0xff800000u); }

// A matrix whose columns are heads of `width`.
struct Heads {
  const void* data;
  i64 stride;
  int width;
  bool is_bf16;

  __device__ float at(i64 row, int head, int col) const {
    const i64 n = row * stride + i64{head} * width + col;
    return is_bf16 ? to_f32(static_cast<const BF16*>(data)[n]) : static_cast<const float*>(data)[n];
  }
  __device__ void put_at(i64 row, int head, int col, float v) const {
    const i64 n = row * stride + i64{head} * width + col;
    void* const to = const_cast<void*>(data);
    is_bf16 ? put(static_cast<BF16*>(to) + n, v) : put(static_cast<float*>(to) + n, v);
  }
  __device__ BF16* bf16(i64 row, int head) const {
    return static_cast<BF16*>(const_cast<void*>(data)) + row * stride + i64{head} * width;
  }
};
inline Heads heads(const CMat& m, int width) { return {m.data, m.stride, width, m.dtype == DType::kBF16}; }

struct Task {
  int tile, head, seq;
};

struct AttentionProblem {
  int num_seqs, seq_len, num_heads, num_kv_heads, group;
  float scale;
  int window;  // query i sees key j if i - window < j <= i; at most seq_len
  const float* sinks_H;
  const std::int32_t* doc_start_T;

  // The first key that query i of sequence s sees; it never falls with i. Queries behind the end see what the last one does.
  __device__ int first_key(int s, int i) const {
    i = min(i, seq_len - 1);
    const int opens = doc_start_T != nullptr ? doc_start_T[i64{s} * seq_len + i] : 0;
    return max(max(opens, i - window + 1), 0);
  }
  // One behind the last query that sees a key of [.., last].
  __device__ int end_of_queries(int s, int last) const {
    int end = min(seq_len, last + window);
    if (doc_start_T == nullptr) return end;
    for (int begin = min(last + 1, end); begin < end;) {  // the first whose document opens behind `last`
      const int middle = (begin + end) / 2;
      if (doc_start_T[i64{s} * seq_len + middle] > last)
        end = middle;
      else
        begin = middle + 1;
    }
    return end;
  }

  // Task n of num_tiles tiles of each (head, sequence), of `num` heads. Sections of some heads, whose keys and values stay
  // in the L2 cache, one after the other; in a section tile 0 of all its heads first: callers make it the dearest.
  int num_tiles, heads_of_task, per_section;
  __device__ Task task(unsigned n) const {
    const int all = heads_of_task * num_seqs, section = static_cast<int>(n / static_cast<unsigned>(num_tiles * per_section));
    const int first = section * per_section, size = min(per_section, all - first);
    const int in_section = static_cast<int>(n - static_cast<unsigned>(first) * static_cast<unsigned>(num_tiles));
    const int pair = first + in_section % size;
    return {in_section / size, pair % heads_of_task, pair / heads_of_task};
  }
  __host__ __device__ unsigned num_tasks() const { return static_cast<unsigned>(num_tiles * heads_of_task * num_seqs); }
  // The same problem with tasks of tiles of `rows` rows for `num` heads.
  AttentionProblem tiled(int rows, int num, int kv_bytes_per_head) const {
    AttentionProblem p = *this;
    p.num_tiles = (seq_len + rows - 1) / rows;
    p.heads_of_task = num;
    const i64 fit = (i64{24} << 20) / std::max<i64>(1, i64{seq_len} * kv_bytes_per_head) * (num / num_kv_heads);
    p.per_section = static_cast<int>(std::clamp<i64>(fit, num / num_kv_heads, i64{num} * num_seqs));
    return p;
  }
};

struct ForwardOperands {
  Heads q, k, v, o;
  float* lse_TH;
};
// lse and delta = sum of d_o o over a head's values, where number_of() says; zeros between the last query and the pitch.
struct BackwardOperands {
  Heads q, k, v, d_o, dq, dk, dv;
  const float *lse, *delta;
  int pitch;             // floats of one head of one sequence
  unsigned* next_tasks;  // room for two counters

  __device__ i64 number_of(int seq, int head, int num_heads, int query) const {
    return (i64{seq} * num_heads + head) * pitch + query;
  }
};

// Plain products in fp32.
void attention_forward_plain(Queue&, const AttentionProblem&, const ForwardOperands&);
void attention_backward_plain(Queue&, const AttentionProblem&, const BackwardOperands&);
// Matrix units; all bf16, rows aligned to 16 bytes, widths multiples of 8 that attention_mma_takes(). lse here is in units
// of ln 2.
bool attention_mma_takes(int head_dim, int value_dim);
void attention_forward_mma(Queue&, const AttentionProblem&, const ForwardOperands&);
void attention_backward_mma(Queue&, const AttentionProblem&, const BackwardOperands&);
// Hopper's matrix units and copies; what matrix units take, of the usual widths.
bool attention_hopper_takes(int head_dim, int value_dim);
void attention_forward_hopper(Queue&, const AttentionProblem&, const ForwardOperands&);
void attention_backward_hopper(Queue&, const AttentionProblem&, const BackwardOperands&);

}  // namespace moe::cuda
