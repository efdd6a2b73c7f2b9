// Attention of a few new tokens to a cache (formulas: kernels.h). Positions come in blocks of kBlockKeys, cut at multiples
// of it whatever the window: each block gives every head its largest score, the sum of exponentials and the sum of values,
// and a row's blocks are merged from the first to the last. Tasks are (row, some heads of one kv head); where that is too
// few for the threads, blocks are tasks too (Flash-Decoding, Dao et al. 2023), with the same arithmetic.
// Not here: who fills the cache (lib/model/kv_cache.h), attention inside a whole sequence (attention.cpp).
#include <cmath>

#include "kernels/cpu.h"
#include "kernels/dispatch.h"
#include "kernels/dots.h"
#include "kernels/softmax.h"

namespace moe::MOE_ISA {
namespace {

constexpr i64 kBlockKeys = 256;
constexpr i64 kHeads = 8;                  // of a task at most
constexpr i64 kPartialsAt = i64{8} << 20;  // in scratch(0), in bytes
constexpr float kMinusInfinity = -__builtin_inff();

struct Problem {
  AttentionShape shape;
  CMat q, k, v;
  std::span<const i64> first_row_T;
  std::span<const std::int32_t> num_keys_T;
  i64 S, V, group, heads_per_task, tasks_per_row;

  i64 first_key(i64 t) const {
    const i64 n = num_keys_T[static_cast<std::size_t>(t)];
    return shape.window > 0 && n > shape.window ? n - shape.window : 0;
  }
  i64 num_keys(i64 t) const { return num_keys_T[static_cast<std::size_t>(t)]; }
};

// Heads [head, head + n) of row t; their kv head.
struct Task {
  i64 t, head, n, kv;
  Task(const Problem& p, i64 index) : t(index / p.tasks_per_row) {
    const i64 per_group = p.tasks_per_row / p.shape.num_kv_heads, part = index % p.tasks_per_row;
    kv = part / per_group;
    const i64 first = part % per_group * p.heads_per_task;
    n = p.group - first < p.heads_per_task ? p.group - first : p.heads_per_task;
    head = kv * p.group + first;
  }
};

// What some heads know of the keys so far: largest scaled score, sum of exp(score - largest), sum of that times v [n, V].
struct Partial {
  float *largest, *sum, *out;
  static i64 floats(i64 V) { return kHeads * (2 + V); }
  Partial(float* memory) : largest(memory), sum(memory + kHeads), out(memory + 2 * kHeads) {}
};

// Memory of a thread.
struct Work {
  float *queries, *scores, *block, *total;
  Work(const Problem& p, std::byte* scratch) : queries(reinterpret_cast<float*>(scratch)) {
    scores = queries + kHeads * p.S;
    block = scores + kHeads * kBlockKeys;
    total = block + Partial::floats(p.V);
  }
  static i64 floats(i64 S, i64 V) { return kHeads * (S + kBlockKeys) + 2 * Partial::floats(V); }
};

void read_queries(const Problem& p, const Task& task, float* queries) {
  dispatch([&](const auto* q) { pack_rows(q + task.t * p.q.stride + task.head * p.S, p.S, task.n, p.S, queries, p.S); },
           p.q);
}

// out [kN, V] (=) weights [kN, n] v, one vector of columns at a time.
template <int kN, class X>
void weigh_values(const float* weights, const X* v, i64 stride, i64 n, i64 V, float* out) {
  for_columns(V, [&](i64 j, auto lanes) {
    vf acc[kN] = {};
    for (i64 key = 0; key < n; ++key) {
      const vf x = load(v + key * stride + j, lanes);
#pragma GCC unroll 8
      for (int h = 0; h < kN; ++h) acc[h] = fma(splat(weights[h * kBlockKeys + key]), x, acc[h]);
    }
#pragma GCC unroll 8
    for (int h = 0; h < kN; ++h) store(out + h * V + j, acc[h], lanes);
  });
}

template <class X>
void weigh_all(const float* weights, const X* v, i64 stride, i64 n, i64 V, i64 heads, float* out) {
  i64 h = 0;
  for (; h + 8 <= heads; h += 8) weigh_values<8>(weights + h * kBlockKeys, v, stride, n, V, out + h * V);
  for (; h + 4 <= heads; h += 4) weigh_values<4>(weights + h * kBlockKeys, v, stride, n, V, out + h * V);
  for (; h + 2 <= heads; h += 2) weigh_values<2>(weights + h * kBlockKeys, v, stride, n, V, out + h * V);
  for (; h < heads; ++h) weigh_values<1>(weights + h * kBlockKeys, v, stride, n, V, out + h * V);
}

// Positions [begin, end) of one block.
void attend_block(const Problem& p, const Task& task, i64 begin, i64 end, const Work& w, const Partial& to) {
  const i64 n = end - begin, row = p.first_row_T[static_cast<std::size_t>(task.t)] + begin;
  dispatch(
      [&]<class X>(const X* k) {
        const X* keys = k + row * p.k.stride + task.kv * p.S;
        multiply_by_dots<X>({w.queries, p.S, keys, p.k.stride, task.n, n, p.S, w.scores, kBlockKeys, Store::kAssign});
      },
      p.k);
  for (i64 h = 0; h < task.n; ++h) {
    float* scores = w.scores + h * kBlockKeys;
    scale_row(scores, n, p.shape.scale);
    to.largest[h] = row_max(scores, n);
    to.sum[h] = row_exp_sum(scores, n, to.largest[h], scores);
  }
  dispatch(
      [&](const auto* v) { weigh_all(w.scores, v + row * p.v.stride + task.kv * p.V, p.v.stride, n, p.V, task.n, to.out); },
      p.v);
}

// The sink of a head is a score without a value.
void begin_total(const Problem& p, const Task& task, const Partial& total) {
  for (i64 h = 0; h < task.n; ++h) {
    const bool sinks = p.shape.sinks_H != nullptr;
    total.largest[h] = sinks ? p.shape.sinks_H[task.head + h] : kMinusInfinity;
    total.sum[h] = sinks ? 1.0f : 0.0f;
  }
  std::memset(total.out, 0, sizeof(float) * static_cast<std::size_t>(task.n * p.V));
}

void merge(const Problem& p, const Task& task, const Partial& block, const Partial& total) {
  for (i64 h = 0; h < task.n; ++h) {
    // Not a number is the larger one.
    const float largest = block.largest[h] <= total.largest[h] ? total.largest[h] : block.largest[h];
    const float a = std::exp(total.largest[h] - largest), b = std::exp(block.largest[h] - largest);
    total.largest[h] = largest;
    total.sum[h] = total.sum[h] * a + block.sum[h] * b;
    float* out = total.out + h * p.V;
    const float* more = block.out + h * p.V;
    for_columns(p.V, [&](i64 j, auto lanes) {
      store(out + j, fma(load(out + j, lanes), splat(a), load(more + j, lanes) * splat(b)), lanes);
    });
  }
}

void finish(const Problem& p, const Task& task, const Partial& total, const Mat& o) {
  for (i64 h = 0; h < task.n; ++h) {
    scale_row(total.out + h * p.V, p.V, 1.0f / total.sum[h]);
    const i64 at = task.t * o.stride + (task.head + h) * p.V;
    dispatch([&](auto* to) { copy_row(total.out + h * p.V, to + at, p.V); }, o);
  }
}

// Calls f(block index among those of the row, begin, end).
template <class F>
void for_blocks(const Problem& p, i64 t, const F& f) {
  const i64 n = p.num_keys(t), first = p.first_key(t) / kBlockKeys;
  for (i64 b = first; b * kBlockKeys < n; ++b) {
    const i64 begin = b == first ? p.first_key(t) : b * kBlockKeys;
    f(b - first, begin, n < (b + 1) * kBlockKeys ? n : (b + 1) * kBlockKeys);
  }
}

void run_task(const Problem& p, const Task& task, const Work& w, const Mat& o) {
  const Partial block(w.block), total(w.total);
  read_queries(p, task, w.queries);
  begin_total(p, task, total);
  for_blocks(p, task.t, [&](i64, i64 begin, i64 end) {
    attend_block(p, task, begin, end, w, block);
    merge(p, task, block, total);
  });
  finish(p, task, total, o);
}

// The blocks of a task by all threads, then their merger.
void run_blocks(Stream& stream, const Problem& p, const Task& task, const Mat& o) {
  float* partials = reinterpret_cast<float*>(stream.scratch(0) + kPartialsAt);
  const i64 n = p.num_keys(task.t), first = p.first_key(task.t), first_block = first / kBlockKeys;
  const i64 num_blocks = (n + kBlockKeys - 1) / kBlockKeys - first_block;
#pragma omp parallel for schedule(dynamic, 1) num_threads(stream.num_threads())
  for (i64 i = 0; i < num_blocks; ++i) {
    const Work w(p, stream.scratch(omp_get_thread_num()));
    read_queries(p, task, w.queries);
    const i64 b = first_block + i, end = (b + 1) * kBlockKeys;
    attend_block(p, task, i == 0 ? first : b * kBlockKeys, n < end ? n : end, w, partials + i * Partial::floats(p.V));
  }
  const Partial total(Work(p, stream.scratch(0)).total);
  begin_total(p, task, total);
  for (i64 i = 0; i < num_blocks; ++i) merge(p, task, partials + i * Partial::floats(p.V), total);
  finish(p, task, total, o);
}

Problem make_problem(const AttentionShape& s, CMat q, CMat k, CMat v, std::span<const i64> first_row_T,
                     std::span<const std::int32_t> num_keys_T, const Mat& o) {
  const i64 S = s.head_dim, V = s.value_dim;
  expect_cache_attention_shapes(s, q, k, v, first_row_T, num_keys_T, o);
  for (std::size_t t = 0; t < first_row_T.size(); ++t)
    require(num_keys_T[t] >= 1 && first_row_T[t] >= 0 && first_row_T[t] + num_keys_T[t] <= k.rows,
            "cache_attention: keys outside the cache");
  require(Work::floats(S, V) * 4 <= kPartialsAt, "cache_attention: a head is too wide for the scratch of a thread");
  const i64 group = s.num_heads / s.num_kv_heads, heads = group < kHeads ? group : kHeads;
  return {s, q, k, v, first_row_T, num_keys_T, S, V, group, heads, (group + heads - 1) / heads * s.num_kv_heads};
}

void forward(Stream& stream, const AttentionShape& shape, CMat q, CMat k, CMat v, std::span<const i64> first_row_T,
             std::span<const std::int32_t> num_keys_T, Mat o) {
  const Problem p = make_problem(shape, q, k, v, first_row_T, num_keys_T, o);
  const i64 tasks = q.rows * p.tasks_per_row;
  i64 keys = 0, longest = 0;
  for (i64 t = 0; t < q.rows; ++t) {
    const i64 n = p.num_keys(t) - p.first_key(t);
    keys += n;
    longest = n > longest ? n : longest;
  }
  const int threads = threads_for(stream, keys * shape.num_heads * (p.S + p.V));
  const bool room =
      (longest / kBlockKeys + 2) * Partial::floats(p.V) * 4 <= static_cast<i64>(Stream::kScratchBytes) - kPartialsAt;
  if (tasks < threads && longest > kBlockKeys && room) {
    for (i64 i = 0; i < tasks; ++i) run_blocks(stream, p, Task(p, i), o);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (i64 i = 0; i < tasks; ++i) run_task(p, Task(p, i), Work(p, stream.scratch(omp_get_thread_num())), o);
}

}  // namespace

const CacheAttentionKernels cache_attention_cpu{forward};

}  // namespace moe::MOE_ISA
