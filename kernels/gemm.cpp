// Matrix products on vectors (formulas: kernels.h; their tasks: gemm_tasks.h). A task is the classical blocking (Goto & van
// de Geijn 2008) for a large L2: for each block of k, columns of B are packed into panels that stay in L2; each tile of rows
// of A stays in L1 while it meets all of them, so that A is read once and C along its rows. Sums run over k in blocks of a
// length that depends on K alone, so that neither the cut into tasks nor the number of threads changes a bit. Few rows take
// two other ways: they read a row-major B where it lies, and rows times transposed B become dot products along k, because
// packing B would cost more than the product itself. Not here: the micro-kernel (gemm_core.h), packing (gemm_pack.h), matrix
// units (gemm_amx.cpp).
#include "kernels/dots.h"
#include "kernels/gemm_library.h"
#include "kernels/gemm_tasks.h"

namespace moe::MOE_ISA {

namespace {

constexpr Int kMaxK = 512;  // length of a block of k: a tile of A is 28 KB in L1
#if defined(__AVX512F__)
constexpr Int kPanelFloats = 192 << 10;  // packed B in L2; processors with AVX-512 have 1 MB and more
#else
constexpr Int kPanelFloats = 48 << 10;
#endif
constexpr Int kStripTiles = 8;      // row tiles of A that are packed at a time
constexpr Int kInPlaceTiles = 6;    // up to here a row-major B is read where it lies
constexpr Int kLibraryRows = 48;    // from here on the library is faster
constexpr Int kDotRows = kFewRows;  // up to here dot products beat packing a transposed B

// Where the parts of a thread's scratch begin, in floats.
constexpr Int kPanelsAt = 0;
constexpr Int kBlockAAt = kPanelsAt + kPanelFloats + kMaxK * kNR;
constexpr Int kBlockAFloats = Int{1} << 20;
constexpr Int kBlockCAt = kBlockAAt + kBlockAFloats;
static_assert(kStripTiles * (kMaxK + 16) * kMaxMR + kStripTiles * 2 * kWidth <= kBlockAFloats);
static_assert((kBlockCAt + kTaskSize * kTaskSize) * sizeof(float) <= Stream::kScratchBytes);

// The rows of A that a task multiplies next, where the micro-kernel can read it.
struct BlockA {
  const float* data;
  ALayout layout;
  Int stride;      // of a row; of k inside a tile it is the number of rows of the tile
  Int tile_pitch;  // kColumns only
};

// fp32 rows are read in place, unless their stride sends the rows of a tile to the same few sets of the L1 cache.
BlockA block_of_a(const Operand& a, Int i0, Int m, Int k0, Int num_k, float* scratch) {
  if (a.transposed) {
    a.dtype == DType::kF32 ? pack_tiles(a.at<float>(i0, k0), a.stride, m, num_k, scratch)
                           : pack_tiles(a.at<BF16>(i0, k0), a.stride, m, num_k, scratch);
    return {scratch, ALayout::kColumns, 0, tile_pitch(num_k)};
  }
  const bool conflicts = a.stride % 512 == 0 && m > 1;
  if (a.dtype == DType::kF32 && !conflicts) return {a.at<float>(i0, k0), ALayout::kRows, a.stride, 0};
  const Int pitch = kMaxK + 16;
  a.dtype == DType::kF32 ? pack_rows(a.at<float>(i0, k0), a.stride, m, num_k, scratch, pitch)
                         : pack_rows(a.at<BF16>(i0, k0), a.stride, m, num_k, scratch, pitch);
  return {scratch, ALayout::kRows, pitch, 0};
}

// kNR columns (or fewer, n) of B, packed or in place, and what to prefetch while they are used (nullptr: nothing).
struct PanelB {
  const float* data;
  Int stride;
  int n;
  const char* soon = nullptr;
  Int soon_stride = 0;
};

// Tile t of the rows of A times a panel; c is the first element of the rows of A and the columns of the panel.
void multiply_tile(const BlockA& a, const EvenCut& tiles, Int t, const PanelB& b, Int num_k, float* c, Int c_stride,
                   Store store) {
  const Int i = tiles.begin(t);
  const int rows = static_cast<int>(tiles.size(t));
  const bool in_rows = a.layout == ALayout::kRows;
  const MicroArgs args{.a = in_rows ? a.data + i * a.stride : a.data + t * a.tile_pitch,
                       .a_stride = in_rows ? a.stride : rows,
                       .b = b.data,
                       .b_stride = b.stride,
                       .num_k = num_k,
                       .c = c + i * c_stride,
                       .c_stride = c_stride,
                       .store = store,
                       .soon = b.soon != nullptr ? b.soon : reinterpret_cast<const char*>(c + i * c_stride),
                       .soon_stride = b.soon_stride};
  b.n == kNR ? run_micro_kernel(a.layout, rows, args) : run_micro_kernel_edge(a.layout, rows, b.n, args);
}

// One block of k of a task: where it writes and what it does there.
struct BlockK {
  Int k0, num_k;
  float* c;
  Int c_stride;
  Store store;
};

// Few rows, row-major fp32 B: each panel in place meets all tiles. The rows of a panel lie far from each other, so that no
// hardware prefetcher foresees them: the first two tiles prefetch the next panel, a line of each row.
void multiply_in_place(const Task& task, const BlockK& block, float* scratch) {
  const Operand& b = task.product->b;
  const EvenCut tiles(task.m, kMaxMR);
  const BlockA a = block_of_a(task.product->a, task.i0, task.m, block.k0, block.num_k, scratch + kBlockAAt);
  for (Int j = 0; j < task.n; j += kNR) {
    PanelB panel{b.at<float>(block.k0, task.j0 + j), b.stride, static_cast<int>(std::min<Int>(kNR, task.n - j))};
    const auto* next = reinterpret_cast<const char*>(panel.data + kNR);
    if (panel.n < kNR) {
      pack_panels(b, block.k0, block.num_k, task.j0 + j, panel.n, scratch + kPanelsAt);
      panel.data = scratch + kPanelsAt;
      panel.stride = kNR;
    }
    for (Int t = 0; t < tiles.parts; ++t) {
      const bool prefetch = t < 2 && j + kNR < task.n;
      panel.soon = prefetch ? next + 64 * t : nullptr;
      panel.soon_stride = prefetch ? b.stride * static_cast<Int>(sizeof(float)) : 0;
      multiply_tile(a, tiles, t, panel, block.num_k, block.c + j, block.c_stride, block.store);
    }
  }
}

// The rows of A that come next lie in many short pieces that no hardware prefetcher foresees: while a strip of rows is
// multiplied, its calls of the micro-kernel fetch the next one into L2, each call one column of cache lines.
struct NextStrip {
  const char* data = nullptr;  // nullptr: nothing to fetch
  Int stride = 0, bytes = 0;   // of a row of the memory, of the strip in it

  NextStrip(const Operand& a, Int i0, Int rows, Int k0, Int num_k) {
    if (rows == 0) return;
    const auto size = static_cast<Int>(size_of(a.dtype));
    data = static_cast<const char*>(a.data) + (a.transposed ? k0 * a.stride + i0 : i0 * a.stride + k0) * size;
    stride = a.stride * size;
    bytes = (a.transposed ? rows : num_k) * size;
  }
  void prefetch_with(Int call, PanelB& panel) const {
    if (data == nullptr || call * 64 >= bytes) return;
    panel.soon = data + call * 64;
    panel.soon_stride = stride;
  }
};

// Columns [j0, j0 + n) of the task: pack B, then strip by strip of rows each tile of A meets all panels.
void multiply_packed(const Task& task, const BlockK& block, Int j0, Int n, float* scratch) {
  const Product& p = *task.product;
  pack_panels(p.b, block.k0, block.num_k, task.j0 + j0, n, scratch + kPanelsAt);
  const EvenCut strips(task.m, kStripTiles * kMaxMR);
  for (Int s = 0; s < strips.parts; ++s) {
    const Int i0 = strips.begin(s), m = strips.size(s);
    const EvenCut tiles(m, kMaxMR);
    const BlockA a = block_of_a(p.a, task.i0 + i0, m, block.k0, block.num_k, scratch + kBlockAAt);
    const NextStrip next(p.a, task.i0 + i0 + m, s + 1 < strips.parts ? strips.size(s + 1) : 0, block.k0, block.num_k);
    Int call = 0;
    for (Int t = 0; t < tiles.parts; ++t)
      for (Int j = 0; j < n; j += kNR) {
        PanelB panel{scratch + kPanelsAt + j * block.num_k, kNR, static_cast<int>(std::min<Int>(kNR, n - j))};
        next.prefetch_with(call++, panel);
        multiply_tile(a, tiles, t, panel, block.num_k, block.c + i0 * block.c_stride + j0 + j, block.c_stride, block.store);
      }
  }
}

// A task, one block of k after the other, into fp32 C.
void multiply_by_panels(const Task& task, float* c, Int c_stride, Store store, float* scratch) {
  const Product& p = *task.product;
  const EvenCut blocks(p.k, kMaxK);
  const bool in_place = p.m <= kInPlaceTiles * kMaxMR && !p.b.transposed && p.b.dtype == DType::kF32;
  for (Int i = 0; i < blocks.parts; ++i) {
    const BlockK block{blocks.begin(i), blocks.size(i), c, c_stride, i == 0 ? store : Store::kAdd};
    const Int width = std::max<Int>(1, kPanelFloats / block.num_k / kNR) * kNR;
    if (in_place) multiply_in_place(task, block, scratch);
    for (Int j = 0; j < task.n && !in_place; j += width)
      multiply_packed(task, block, j, std::min(width, task.n - j), scratch);
  }
}

// Few rows times a transposed B, without packing it.
template <class T>
void multiply_few_rows(const Task& task, float* c, Int c_stride, Store store, float* scratch) {
  const Product& p = *task.product;
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, BF16>)
    if (p.a.dtype == DType::kBF16 && multiplies_bf16())
      return multiply_by_dots<BF16, BF16>({p.a.at<BF16>(task.i0, 0), p.a.stride, p.b.at<BF16>(0, task.j0), p.b.stride,
                                           task.m, task.n, p.k, c, c_stride, store});
#endif
  const float* a = p.a.at<float>(task.i0, 0);
  Int a_stride = p.a.stride;
  if (p.a.dtype == DType::kBF16) {
    a_stride = p.k;
    pack_rows(p.a.at<BF16>(task.i0, 0), p.a.stride, task.m, p.k, scratch, a_stride);
    a = scratch;
  }
  multiply_by_dots<T>({a, a_stride, p.b.at<T>(0, task.j0), p.b.stride, task.m, task.n, p.k, c, c_stride, store});
}

// A bf16 A has to fit into the scratch as a whole.
bool prefers_dots(const Product& p) {
  return p.b.transposed && !p.a.transposed && p.m <= kDotRows && (p.a.dtype == DType::kF32 || p.m * p.k <= kBlockCAt);
}

void multiply(const Task& task, float* c, Int c_stride, Store store, float* scratch) {
  if (!prefers_dots(*task.product))
    multiply_by_panels(task, c, c_stride, store, scratch);
  else if (task.product->b.dtype == DType::kF32)
    multiply_few_rows<float>(task, c, c_stride, store, scratch);
  else
    multiply_few_rows<BF16>(task, c, c_stride, store, scratch);
}

// True if the library has done it: fp32 with enough rows, on processors for which it beats the code here.
bool run_in_library(const Task& task) {
  const Product& p = *task.product;
  const bool fp32 = p.a.dtype == DType::kF32 && p.b.dtype == DType::kF32 && p.c.dtype == DType::kF32;
  if (kWidth < 16 || !fp32 || task.m < kLibraryRows) return false;
  return library_sgemm({.transposed_a = p.a.transposed,
                        .transposed_b = p.b.transposed,
                        .m = task.m,
                        .n = task.n,
                        .k = p.k,
                        .a = p.a.at<float>(task.i0, 0),
                        .a_stride = p.a.stride,
                        .b = p.b.at<float>(0, task.j0),
                        .b_stride = p.b.stride,
                        .c = p.c.f32() + task.i0 * p.c.stride + task.j0,
                        .c_stride = p.c.stride,
                        .store = p.store});
}

}  // namespace

void OnVectors::run_task(const Task& task, float* scratch) {
  if (run_in_library(task)) return;
  const Mat& c = task.product->c;
  const Int at = task.i0 * c.stride + task.j0;
  if (c.dtype == DType::kF32) return multiply(task, c.f32() + at, c.stride, task.product->store, scratch);
  const Int stride = (task.n + 15) / 16 * 16;
  multiply(task, scratch + kBlockCAt, stride, Store::kAssign, scratch);
  round_into(scratch + kBlockCAt, stride, task.m, task.n, c.bf16() + at, c.stride, task.product->store);
}

bool OnVectors::reads_b_once(const Product& p) { return prefers_dots(p); }

const GemmKernels gemm_cpu = kGemmOf<OnVectors>;
const GroupedGemmKernels grouped_gemm_cpu = kGroupedGemmOf<OnVectors>;

}  // namespace moe::MOE_ISA
