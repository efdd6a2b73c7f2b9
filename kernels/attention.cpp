// Causal attention in tiles (Dao et al. 2022; Milakov & Gimelshein 2018 for the running softmax); formulas: kernels.h.
//
// Blocks of kBlock queries meet blocks of kBlock keys. Scores of a pair of blocks lie in scratch, never more. Inside the
// pair that holds the diagonal, every tile of the micro-kernel stops at its own last useful key or starts at its own first
// useful query, so that hardly more than half of it is computed. Pairs beyond the diagonal or outside all documents are
// skipped; of those at the edge of a window, tiles are cut alike.
// A sink is a key without a value: the running softmax begins with it, and its gradient is -sum of P_sink delta.
//   forward   task = (sequence, kv head, some blocks of queries): keys are packed once for all these queries
//   backward  task = (sequence, kv head), with all its query heads: dq, dk and dv are sums in a fixed order, no atomics
// Not here: positions (rope.cpp), the products of a pair of blocks (attention_tiles.h).
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "kernels/attention_tiles.h"
#include "kernels/cpu.h"

namespace moe::MOE_ISA {

namespace {

// The running softmax of one block of queries of one head.
struct Running {
  float* max;  // [kBlock] largest scaled score so far
  float* sum;  // [kBlock] sum of exp(score - max)
  float* out;  // [kBlock][value_pitch] sum of exp(score - max) * v
};

// The vectors of a row of scores that hold keys of the span; the others are set to zero.
Span whole_vectors(float* row, const Span& keys, Int num_keys) {
  const Span in{keys.begin / kWidth * kWidth, round_up(keys.end, kWidth)};
  for (Int j = 0; j < in.begin; j += kWidth) store(row + j, vf{});
  for (Int j = in.end; j < num_keys; j += kWidth) store(row + j, vf{});
  return in;
}

// One row of scores becomes exp(scale * score - max); the row's maximum, sum and output follow.
void update_row(float* scores, const Span& keys, Int num_keys, float scale, float* row_max, float* row_sum, float* out,
                Int out_width) {
  const Span in = whole_vectors(scores, keys.begin < keys.end ? keys : Span{0, 0}, num_keys);
  if (in.begin >= in.end) return;
  vf largest = splat(kMinusInfinity);
  for (Int j = in.begin; j < in.end; j += kWidth)
    largest = max(inside(keys, j, load(scores + j) * scale, splat(kMinusInfinity)), largest);
  const float new_max = std::max(*row_max, max(largest));
  vf total{};
  for (Int j = in.begin; j < in.end; j += kWidth) {
    const vf e = inside(keys, j, exp_of_nonpositive(load(scores + j) * scale - new_max), vf{});
    store(scores + j, e);
    total += e;
  }
  if (new_max > *row_max) {
    const float shrink = std::exp(*row_max - new_max);
    *row_sum *= shrink;
    for (Int j = 0; j < out_width; j += kWidth) store(out + j, load(out + j) * shrink);
  }
  *row_max = new_max;
  *row_sum += sum(total);
}

void update_block(const Problem& p, const Pair& b, Int s, float* scores, const Running& state) {
  for (Int i = 0; i < b.nq; ++i)
    update_row(scores + i * kScorePitch, seen_by(p, b, s, i), b.nk, p.shape.scale, state.max + i, state.sum + i,
               state.out + i * p.value_pitch, p.value_pitch);
}

// Blocks [first, last) of queries of one sequence and kv head.
struct ForwardTask {
  Int s, kv, first, last;
};

void finish_block(const Problem& p, Int s, Int h, Int i0, Int nq, const Running& state, const Mat& o, float* lse) {
  float factor[kBlock];
  const Int row = s * p.seq_len + i0;
  for (Int i = 0; i < nq; ++i) {
    factor[i] = 1.0f / state.sum[i];
    lse[(row + i) * p.shape.num_heads + h] = state.max[i] + std::log(state.sum[i]);
  }
  store_rows(state.out, p.value_pitch, nq, p.value_width, factor,
             o.slice_rows(row, nq).slice_cols(h * p.value_width, p.value_width));
}

// The first block of keys that query i may see.
Int first_block(const Problem& p, Int i) { return std::max<Int>(0, i - p.window + 1) / kBlock * kBlock; }

void forward_task(const Problem& p, const ForwardTask& task, const Mat& o, float* lse, Scratch scratch) {
  const Int blocks = task.last - task.first, count = blocks * p.group;
  float* keys = scratch.take(p.width * kBlock);
  float* values = scratch.take(kBlock * p.value_pitch);
  float* scores = scratch.take(kBlock * kScorePitch);
  std::vector<Running> states;
  std::vector<float*> queries;
  const auto begin = [&](Int n) { return (task.first + n % blocks) * kBlock; };
  const auto length = [&](Int n) { return std::min(kBlock, p.seq_len - begin(n)); };
  for (Int n = 0; n < count; ++n) {
    states.push_back({scratch.take(kBlock), scratch.take(kBlock), scratch.take(kBlock * p.value_pitch)});
    const Int head = task.kv * p.group + n / blocks;
    std::fill(states[n].max, states[n].max + kBlock, p.shape.sinks_H ? p.shape.sinks_H[head] : kMinusInfinity);
    std::fill(states[n].sum, states[n].sum + kBlock, p.shape.sinks_H ? 1.0f : 0.0f);
    std::fill(states[n].out, states[n].out + kBlock * p.value_pitch, 0.0f);
    queries.push_back(scratch.take(kBlock * p.pitch));
    copy_rows(head_of(p.q, p, task.s, begin(n), head, p.width, false), length(n), p.width, queries[n], p.pitch);
  }
  const Int end = std::min(task.last * kBlock, p.seq_len);
  for (Int j0 = first_block(p, task.first * kBlock); j0 < end; j0 += kBlock) {
    const Int nk = std::min(kBlock, end - j0);
    pack_panels(head_of(p.k, p, task.s, j0, task.kv, p.width, true), 0, p.width, 0, nk, keys);
    pack_panels(head_of(p.v, p, task.s, j0, task.kv, p.value_width, false), 0, nk, 0, p.value_width, values);
    for (Int n = 0; n < count; ++n) {
      const Pair b{begin(n), length(n), j0, nk, p.window};
      if (!any_seen(p, b, task.s)) continue;
      multiply_scores(b, queries[n], p.pitch, p.width, keys, scores);
      update_block(p, b, task.s, scores, states[n]);
      multiply_rows(b, scores, values, states[n].out, p.value_pitch);
    }
  }
  for (Int n = 0; n < count; ++n)
    finish_block(p, task.s, task.kv * p.group + n / blocks, begin(n), length(n), states[n], o, lse);
}

// Latest blocks first: they see the most keys.
std::vector<ForwardTask> forward_tasks(const Problem& p) {
  std::vector<ForwardTask> tasks;
  const Int blocks = (p.seq_len + kBlock - 1) / kBlock, per_task = std::max<Int>(1, kBlocksPerTask / p.group);
  for (Int last = blocks; last > 0; last -= std::min(last, per_task))
    for (Int s = 0; s < p.shape.num_seqs; ++s)
      for (Int kv = 0; kv < p.shape.num_kv_heads; ++kv) tasks.push_back({s, kv, std::max<Int>(0, last - per_task), last});
  return tasks;
}

// ---- backward ----

// A block of keys, packed for the three products that read it, and its gradients.
struct KeyBlock {
  float *keys_by_d, *values_by_d, *keys_by_row;  // [d][key], [d][key], [key][d]
  float *dk, *dv;                                // [kBlock][pitch], [kBlock][value_pitch]
};
// A block of queries of one head: rows for A, panels for B.
struct QueryBlock {
  float *q_rows, *q_panels, *do_rows, *do_panels;
};

struct BackwardArgs {
  CMat o, d_o;
  const float* lse;
  Mat dq, dk, dv;
  double* dsinks;  // [num_seqs][num_heads] (=) or nullptr
};

// scores becomes P = exp(scale * score - lse), dp becomes dS = P * (dp - delta) * scale.
void differentiate_row(float* scores, float* dp, const Span& keys, Int num_keys, float scale, float lse, float delta) {
  const Span in = whole_vectors(scores, keys, num_keys);
  whole_vectors(dp, keys, num_keys);
  for (Int j = in.begin; j < in.end; j += kWidth) {
    const vf prob = inside(keys, j, exp_of_nonpositive(load(scores + j) * scale - lse), vf{});
    store(scores + j, prob);
    store(dp + j, inside(keys, j, prob * (load(dp + j) - delta) * scale, vf{}));
  }
}

template <class A, class B>
float dot(const A* a, const B* b, Int n) {
  vf total{};
  Int j = 0;
  for (; j + kWidth <= n; j += kWidth) total = fma(load(a + j), load(b + j), total);
  if (j < n) total = fma(load_part(a + j, static_cast<int>(n - j)), load_part(b + j, static_cast<int>(n - j)), total);
  return sum(total);
}

// delta[i] (=) sum over d of d_o * o, for every row of head h of sequence s.
void fill_delta(const Problem& p, const BackwardArgs& g, Int s, Int h, float* delta) {
  const Operand a = head_of(g.d_o, p, s, 0, h, p.value_width, false), b = head_of(g.o, p, s, 0, h, p.value_width, false);
  const auto fill = [&]<class A, class B>(const A* x, const B* y) {
    for (Int i = 0; i < p.seq_len; ++i) delta[i] = dot(x + i * a.stride, y + i * b.stride, p.value_width);
  };
  const auto fill_a = [&]<class B>(const B* y) {
    a.dtype == DType::kF32 ? fill(a.at<float>(0, 0), y) : fill(a.at<BF16>(0, 0), y);
  };
  b.dtype == DType::kF32 ? fill_a(b.at<float>(0, 0)) : fill_a(b.at<BF16>(0, 0));
}

// What the sink of head h gets from sequence s: a key whose value is 0 has dp = 0.
double sink_gradient(const Problem& p, const BackwardArgs& g, Int s, Int h, const float* delta) {
  double total = 0;
  const float* lse = g.lse + s * p.seq_len * p.shape.num_heads + h;
  for (Int i = 0; i < p.seq_len; ++i)
    total -= static_cast<double>(std::exp(p.shape.sinks_H[h] - lse[i * p.shape.num_heads])) * static_cast<double>(delta[i]);
  return total;
}

void pack_keys(const Problem& p, Int s, Int kv, Int j0, Int nk, const KeyBlock& k) {
  pack_panels(head_of(p.k, p, s, j0, kv, p.width, true), 0, p.width, 0, nk, k.keys_by_d);
  pack_panels(head_of(p.k, p, s, j0, kv, p.width, false), 0, nk, 0, p.width, k.keys_by_row);
  pack_panels(head_of(p.v, p, s, j0, kv, p.value_width, true), 0, p.value_width, 0, nk, k.values_by_d);
  std::fill(k.dk, k.dk + kBlock * p.pitch, 0.0f);
  std::fill(k.dv, k.dv + kBlock * p.value_pitch, 0.0f);
}

void pack_queries(const Problem& p, const CMat& d_o, Int s, Int h, Int i0, Int nq, const QueryBlock& b) {
  const Operand q = head_of(p.q, p, s, i0, h, p.width, false), g = head_of(d_o, p, s, i0, h, p.value_width, false);
  copy_rows(q, nq, p.width, b.q_rows, p.pitch);
  copy_rows(g, nq, p.value_width, b.do_rows, p.value_pitch);
  pack_panels(q, 0, nq, 0, p.width, b.q_panels);
  pack_panels(g, 0, nq, 0, p.value_width, b.do_panels);
}

// The share of one pair of blocks in dq, dk and dv. lse: of query row i at lse[i * num_heads].
void backward_pair(const Problem& p, const Pair& b, Int s, const QueryBlock& q, const KeyBlock& k, float* scores, float* dp,
                   const float* lse, const float* delta, float* dq) {
  multiply_scores(b, q.q_rows, p.pitch, p.width, k.keys_by_d, scores);
  multiply_scores(b, q.do_rows, p.value_pitch, p.value_width, k.values_by_d, dp);
  for (Int i = 0; i < b.nq; ++i)
    differentiate_row(scores + i * kScorePitch, dp + i * kScorePitch, seen_by(p, b, s, i), b.nk, p.shape.scale,
                      lse[i * p.shape.num_heads], delta[i]);
  multiply_columns(b, scores, q.do_panels, k.dv, p.value_pitch);
  multiply_columns(b, dp, q.q_panels, k.dk, p.pitch);
  multiply_rows(b, dp, k.keys_by_row, dq, p.pitch);
}

// Not std::vector: its functions would be shared with code for other processors (see simd.h).
template <class T>
struct Heap {
  explicit Heap(Int n) : data_(new T[static_cast<std::size_t>(n)]) {}
  ~Heap() { delete[] data_; }
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;
  T* data() const { return data_; }

 private:
  T* data_;
};

void backward_task(const Problem& p, const BackwardArgs& g, Int s, Int kv, Scratch scratch) {
  const Int rows = kBlock * p.pitch, value_rows = kBlock * p.value_pitch, sequence = p.seq_len * p.pitch;
  const KeyBlock k{scratch.take(rows), scratch.take(value_rows), scratch.take(rows), scratch.take(rows),
                   scratch.take(value_rows)};
  const QueryBlock q{scratch.take(rows), scratch.take(rows), scratch.take(value_rows), scratch.take(value_rows)};
  float* scores = scratch.take(kBlock * kScorePitch);
  float* dp = scratch.take(kBlock * kScorePitch);
  const Heap<float> delta(p.group * p.seq_len);
  const bool fits = scratch.has(p.group * sequence);  // else a sequence too long for scratch
  const Heap<float> heap(fits ? 0 : p.group * sequence);
  float* dq = fits ? scratch.take(p.group * sequence) : heap.data();
  std::fill(dq, dq + p.group * sequence, 0.0f);
  const Int first_head = kv * p.group, first_row = s * p.seq_len;
  for (Int h = 0; h < p.group; ++h) {
    float* of_head = delta.data() + h * p.seq_len;
    fill_delta(p, g, s, first_head + h, of_head);
    if (g.dsinks) g.dsinks[s * p.shape.num_heads + first_head + h] = sink_gradient(p, g, s, first_head + h, of_head);
  }
  for (Int j0 = 0; j0 < p.seq_len; j0 += kBlock) {
    const Int nk = std::min(kBlock, p.seq_len - j0);
    const Int end = std::min(p.seq_len, j0 + nk - 1 + p.window);  // of the queries that see any of these keys
    pack_keys(p, s, kv, j0, nk, k);
    for (Int h = 0; h < p.group; ++h)
      for (Int i0 = j0; i0 < end; i0 += kBlock) {
        const Pair b{i0, std::min(kBlock, p.seq_len - i0), j0, nk, p.window};
        if (!any_seen(p, b, s)) continue;
        pack_queries(p, g.d_o, s, first_head + h, i0, b.nq, q);
        backward_pair(p, b, s, q, k, scores, dp, g.lse + (first_row + i0) * p.shape.num_heads + first_head + h,
                      delta.data() + h * p.seq_len + i0, dq + h * sequence + i0 * p.pitch);
      }
    store_rows(k.dk, p.pitch, nk, p.width, nullptr, g.dk.slice_rows(first_row + j0, nk).slice_cols(kv * p.width, p.width));
    store_rows(k.dv, p.value_pitch, nk, p.value_width, nullptr,
               g.dv.slice_rows(first_row + j0, nk).slice_cols(kv * p.value_width, p.value_width));
  }
  for (Int h = 0; h < p.group; ++h)
    store_rows(dq + h * sequence, p.pitch, p.seq_len, p.width, nullptr,
               g.dq.slice_rows(first_row, p.seq_len).slice_cols((first_head + h) * p.width, p.width));
}

// ---- entries ----

void require(bool fits, const char* what) {
  if (!fits) throw std::invalid_argument(what);
}

void check(const AttentionShape& s, const CMat& q, const CMat& k, const CMat& v, const CMat& o) {
  const Int tokens = Int{s.num_seqs} * s.seq_len;
  require(s.window >= 0, "attention: window is negative");
  require(s.num_kv_heads > 0 && s.num_heads % s.num_kv_heads == 0, "attention: num_heads is not a multiple of num_kv_heads");
  require(q.rows == tokens && k.rows == tokens && v.rows == tokens && o.rows == tokens,
          "attention: rows are not num_seqs * seq_len");
  require(q.cols == Int{s.num_heads} * s.head_dim && k.cols == Int{s.num_kv_heads} * s.head_dim,
          "attention: columns of q or k");
  require(v.cols == Int{s.num_kv_heads} * s.value_dim && o.cols == Int{s.num_heads} * s.value_dim,
          "attention: columns of v or o");
  const Int widest = round_up(std::max(s.head_dim, s.value_dim), kNR);
  const Int blocks = std::max<Int>(kBlocksPerTask, s.num_heads / s.num_kv_heads) * 2 + 9;
  require(blocks * kBlock * (widest + 2) * 4 + 8 * kBlock * kScorePitch <= static_cast<Int>(Stream::kScratchBytes),
          "attention: a head or a group of heads is too wide for the scratch of a thread");
}

// In the order of the sequences.
void add_sink_gradients(const AttentionShape& s, const double* of_seq, float* dsinks_H) {
  for (Int h = 0; h < s.num_heads; ++h) {
    double total = 0;
    for (Int n = 0; n < s.num_seqs; ++n) total += of_seq[n * s.num_heads + h];
    dsinks_H[h] += static_cast<float>(total);
  }
}

void forward(Stream& stream, const AttentionShape& s, CMat q, CMat k, CMat v, const std::int32_t* doc_start, Mat o,
             float* lse) {
  check(s, q, k, v, o);
  const Problem p = make_problem(s, q, k, v, doc_start);
  const std::vector<ForwardTask> tasks = forward_tasks(p);
#pragma omp parallel for schedule(dynamic, 1) num_threads(stream.num_threads())
  for (std::size_t i = 0; i < tasks.size(); ++i)
    forward_task(p, tasks[i], o, lse, Scratch(stream.scratch(omp_get_thread_num())));
}

void backward(Stream& stream, const AttentionShape& s, CMat q, CMat k, CMat v, CMat o, const float* lse,
              const std::int32_t* doc_start, CMat d_o, Mat dq, Mat dk, Mat dv, float* dsinks_H) {
  check(s, q, k, v, o);
  check(s, dq, dk, dv, d_o);
  require(!dsinks_H || s.sinks_H, "attention: a gradient of sinks, but no sinks");
  const Problem p = make_problem(s, q, k, v, doc_start);
  const Heap<double> dsinks(dsinks_H ? Int{s.num_seqs} * s.num_heads : 0);
  const BackwardArgs g{o, d_o, lse, dq, dk, dv, dsinks_H ? dsinks.data() : nullptr};
  const Int tasks = Int{s.num_seqs} * s.num_kv_heads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(stream.num_threads())
  for (Int i = 0; i < tasks; ++i)
    backward_task(p, g, i / s.num_kv_heads, i % s.num_kv_heads, Scratch(stream.scratch(omp_get_thread_num())));
  if (dsinks_H) add_sink_gradients(s, dsinks.data(), dsinks_H);
}

}  // namespace

const AttentionKernels attention_cpu{forward, backward};

}  // namespace moe::MOE_ISA
