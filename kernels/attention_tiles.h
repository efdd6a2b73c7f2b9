// The parts of tiled attention that both directions share: pairs of blocks, the spans of keys that queries see, the three
// products of a pair, and exp as a softmax needs it. Included by attention.cpp only.
// Not here: the softmax itself, tasks and threads (attention.cpp).
#pragma once

#include <algorithm>
#include <limits>

#include "kernels/gemm_pack.h"
#include "kernels/kernels.h"

namespace moe::MOE_ISA {

using Int = std::int64_t;

constexpr Int kBlock = 128;               // queries or keys of a block
constexpr Int kScorePitch = kBlock + 16;  // row stride of a block of scores
constexpr Int kBlocksPerTask = 4;         // blocks of queries (of all heads of a group) that share packed keys
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

static inline Int round_up(Int n, Int step) { return (n + step - 1) / step * step; }

// Hands out a thread's scratch piece by piece.
class Scratch {
 public:
  explicit Scratch(std::byte* memory) : next_(reinterpret_cast<float*>(memory)), end_(next_ + Stream::kScratchBytes / 4) {}
  bool has(Int n) const { return end_ - next_ >= round_up(n, 16); }
  float* take(Int n) {
    float* p = next_;
    next_ += round_up(n, 16);
    return p;
  }

 private:
  float *next_, *end_;
};

// What all tasks share. `group` query heads read one kv head.
struct Problem {
  AttentionShape shape;
  CMat q, k, v;
  const std::int32_t* doc_start;
  Int group, seq_len, width, value_width;  // head_dim and value_dim
  Int pitch, value_pitch;                  // the same rounded up to whole panels
  Int window;                              // query i sees key j if i - window < j <= i
};

static inline Problem make_problem(const AttentionShape& s, CMat q, CMat k, CMat v, const std::int32_t* doc_start) {
  return {s,
          q,
          k,
          v,
          doc_start,
          s.num_heads / s.num_kv_heads,
          s.seq_len,
          s.head_dim,
          s.value_dim,
          round_up(s.head_dim, kNR),
          round_up(s.value_dim, kNR),
          s.window > 0 ? s.window : s.seq_len};
}

// Columns of head h and rows of block `begin` of sequence s, as an operand of the micro-kernel.
static inline Operand head_of(const CMat& m, const Problem& p, Int s, Int begin, Int h, Int width, bool transposed) {
  return operand(m.slice_rows(s * p.seq_len + begin, 0).slice_cols(h * width, width), transposed);
}

// rows x width of an operand as contiguous fp32 rows.
static inline void copy_rows(const Operand& from, Int rows, Int width, float* to, Int pitch) {
  from.dtype == DType::kF32 ? pack_rows(from.at<float>(0, 0), from.stride, rows, width, to, pitch)
                            : pack_rows(from.at<BF16>(0, 0), from.stride, rows, width, to, pitch);
}

// to[i] (=) factor[i] * from[i] for `rows` rows (no factors: 1), rounded to the type of `to`.
static inline void store_rows(const float* from, Int pitch, Int rows, Int width, const float* factor, const Mat& to) {
  const auto copy = [&]<class T>(T* dst) {
    for (Int i = 0; i < rows; ++i, from += pitch, dst += to.stride) {
      const vf f = splat(factor != nullptr ? factor[i] : 1.0f);
      Int j = 0;
      for (; j + kWidth <= width; j += kWidth) store(dst + j, load(from + j) * f);
      if (j < width) store_part(dst + j, load(from + j) * f, static_cast<int>(width - j));
    }
  };
  to.dtype == DType::kF32 ? copy(to.f32()) : copy(to.bf16());
}

// A pair of blocks: nq queries from i0, nk keys from j0 of a sequence (indices inside the sequence).
struct Pair {
  Int i0, nq, j0, nk, window;
  // The keys that queries [first, first + rows) may see lie in [first_key(first), keys_seen(first + rows)).
  Int keys_seen(Int rows) const { return std::clamp<Int>(i0 + rows - j0, 0, nk); }
  Int first_key(Int query) const { return std::clamp<Int>(i0 + query - window + 1 - j0, 0, nk); }
  // The queries that may see keys [first, first + n) lie in [first_query(first), queries_seen(first + n)).
  Int first_query(Int key) const { return std::clamp<Int>(j0 + key - i0, 0, nq); }
  Int queries_seen(Int keys) const { return std::clamp<Int>(j0 + keys - 1 + window - i0, 0, nq); }
};

// The keys [begin, end) of the block that query i of the block sees.
struct Span {
  Int begin, end;
};
static inline Span seen_by(const Problem& p, const Pair& b, Int s, Int i) {
  const Int first = p.doc_start == nullptr ? 0 : p.doc_start[s * p.seq_len + b.i0 + i];
  const Int end = b.keys_seen(i + 1);
  return {std::clamp<Int>(std::max(first - b.j0, b.first_key(i)), 0, end), end};
}

// False if no query of the block sees any key of the block.
static inline bool any_seen(const Problem& p, const Pair& b, Int s) {
  for (Int i = 0; i < b.nq; ++i)
    if (const Span keys = seen_by(p, b, s, i); keys.begin < keys.end) return true;
  return false;
}

// Rows [tiles.begin(t), ...) of C (pitch c_pitch) against the panels of B, columns [n0, n) rounded out to panels; rows
// [k0, num_k) of every panel, which has panel_k rows.
struct TileProduct {
  const float* a;
  ALayout layout;
  Int a_stride;
  const float* panels;
  Int panel_k;
  float* c;
  Int c_pitch;
  Store store;
};
static inline void multiply_tile(const TileProduct& t, const EvenCut& tiles, Int tile, Int k0, Int num_k, Int n0, Int n) {
  if (k0 >= num_k) return;
  const Int i = tiles.begin(tile);
  const float* a = t.layout == ALayout::kRows ? t.a + i * t.a_stride + k0 : t.a + k0 * t.a_stride + i;
  for (Int j = n0 / kNR * kNR; j < n; j += kNR) {
    float* c = t.c + i * t.c_pitch + j;
    const MicroArgs args{.a = a,
                         .a_stride = t.a_stride,
                         .b = t.panels + j * t.panel_k + k0 * kNR,
                         .b_stride = kNR,
                         .num_k = num_k - k0,
                         .c = c,
                         .c_stride = t.c_pitch,
                         .store = t.store,
                         .soon = reinterpret_cast<const char*>(c),
                         .soon_stride = 0};
    run_micro_kernel(t.layout, static_cast<int>(tiles.size(tile)), args);
  }
}

// scores[q][key] (=) sum over d of a[q][d] * panels[d][key], between the window's edge and the diagonal.
static inline void multiply_scores(const Pair& b, const float* a, Int a_stride, Int num_d, const float* panels,
                                   float* scores) {
  const TileProduct t{a, ALayout::kRows, a_stride, panels, num_d, scores, kScorePitch, Store::kAssign};
  const EvenCut tiles(b.nq, kMaxMR);
  for (Int i = 0; i < tiles.parts; ++i) {
    const Int first = tiles.begin(i);
    multiply_tile(t, tiles, i, 0, num_d, b.first_key(first), b.keys_seen(first + tiles.size(i)));
  }
}

// c[q][d] (+=) sum over the keys that q may see of weights[q][key] * panels[key][d].
static inline void multiply_rows(const Pair& b, const float* weights, const float* panels, float* c, Int pitch) {
  const TileProduct t{weights, ALayout::kRows, kScorePitch, panels, b.nk, c, pitch, Store::kAdd};
  const EvenCut tiles(b.nq, kMaxMR);
  for (Int i = 0; i < tiles.parts; ++i) {
    const Int first = tiles.begin(i);
    multiply_tile(t, tiles, i, b.first_key(first), b.keys_seen(first + tiles.size(i)), 0, pitch);
  }
}

// c[key][d] (+=) sum over the queries that may see the key of weights[q][key] * panels[q][d].
static inline void multiply_columns(const Pair& b, const float* weights, const float* panels, float* c, Int pitch) {
  const TileProduct t{weights, ALayout::kColumns, kScorePitch, panels, b.nq, c, pitch, Store::kAdd};
  const EvenCut tiles(b.nk, kMaxMR);
  for (Int i = 0; i < tiles.parts; ++i) {
    const Int first = tiles.begin(i);
    multiply_tile(t, tiles, i, b.first_query(first), b.queries_seen(first + tiles.size(i)), 0, pitch);
  }
}

// v at column j, with `hidden` in the lanes outside the span. Most vectors lie inside as a whole.
static inline vf inside(const Span& keys, Int j, vf v, vf hidden) {
  if (keys.begin <= j && j + kWidth <= keys.end) return v;
  vi lane;
  for (int l = 0; l < kWidth; ++l) lane[l] = l;
  const auto begin = static_cast<std::int32_t>(keys.begin - j), end = static_cast<std::int32_t>(keys.end - j);
  return select((lane >= begin) & (lane < end), v, hidden);
}

// exp(x) for x <= 0 or hardly above, as a softmax has it: the polynomial of simd.h without the tests that only large x
// needs, which halves its price. exp(-87.3) stands for everything below; not-a-number stays.
static inline vf exp_of_nonpositive(vf x) {
  const vf low = splat(-87.33654f);
  vf t;
  const vf p = exp_mantissa(low > x ? low : x, t);
  return select(x == x, (vf)((vu)p + ((vu)t << 23)), x);
}

}  // namespace moe::MOE_ISA
