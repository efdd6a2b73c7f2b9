// Matrix products of bf16 on matrix units (amx.h; formulas: kernels.h; their tasks: gemm_tasks.h). A block of k of both
// operands is copied into tiles: all columns of B of the task, which stay in L2, and two tile rows of A at a time, which
// stay in L1 while they meet them. Few rows read a transposed B where it lies: there memory is the limit. An element has the
// same bits on both ways. Other dtypes go the way of gemm.cpp. Compiled for AVX-512 alone.
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/amx.h"
#include "kernels/gemm_tasks.h"
#include "kernels/peak.h"

namespace moe::MOE_ISA {
namespace {

constexpr Int kBlockK = 512;                 // of k: two tile rows of A are 32 KB in L1
constexpr Int kStrip = 2 * kTileRows;        // rows of A, and columns of B, that the micro-kernel takes
constexpr Int kMostBytesOfRows = 512 << 10;  // 16 rows that are fetched ahead into L2
constexpr Int kMostExactColumns = 4096;      // of fp32 beside bf16
constexpr Int kMostTileColumns = kTaskSize / kTileRows;

Int padded(Int n, Int to) { return (n + to - 1) / to * to; }

// Where the parts of a thread's scratch begin, in bytes.
constexpr Int kCAt = 0;
constexpr Int kBAt = kCAt + kTaskSize * kTaskSize * 4;
constexpr Int kAAt = kBAt + kMostTileColumns * kTileRows * kBlockK * 2;
constexpr Int kEdgeAt = kAAt + kStrip * kBlockK * 2;
constexpr Int kFewAt = kEdgeAt + kTileElements * 2;  // few rows of x
constexpr Int kFewBytes = static_cast<Int>(Stream::kScratchBytes) - kFewAt;
static_assert(kFewBytes > 0);

struct Room {
  char* scratch;
  float* c() const { return reinterpret_cast<float*>(scratch + kCAt); }
  BF16* b() const { return reinterpret_cast<BF16*>(scratch + kBAt); }
  BF16* a() const { return reinterpret_cast<BF16*>(scratch + kAAt); }
  BF16* edge() const { return reinterpret_cast<BF16*>(scratch + kEdgeAt); }
  BF16* few() const { return reinterpret_cast<BF16*>(scratch + kFewAt); }
};

// Lines [begin, begin + n) of an operand, rows of A or columns of B, over k [k0, k0 + num_k): tile column after tile column
// of them, whole tiles of k in each. Every second line of tiles is there, zeros where the operand ends.
template <class T>
void pack_lines_of(const Operand& o, bool is_a, TileOf tile, Int begin, Int n, Int k0, Int num_k, BF16* to) {
  const bool along_k = is_a != o.transposed;
  for (Int i = 0; i < padded(n, kStrip); i += kTileRows)
    for (Int k = 0; k < num_k; k += kTileK, to += kTileElements) {
      const int lines = static_cast<int>(std::clamp<Int>(n - i, 0, kTileRows));
      const Int line = begin + (lines > 0 ? i : 0);
      const T* src = is_a ? o.at<T>(line, k0 + k) : o.at<T>(k0 + k, line);
      pack_tile(src, o.stride, along_k, tile, lines, static_cast<int>(std::min<Int>(kTileK, num_k - k)), to);
    }
}

void pack_lines(const Operand& o, bool is_a, TileOf tile, Int begin, Int n, Int k0, Int num_k, BF16* to) {
  (o.dtype == DType::kF32 ? pack_lines_of<float> : pack_lines_of<BF16>)(o, is_a, tile, begin, n, k0, num_k, to);
}

// A task into fp32 C of `stride` in scratch, all its strips whole.
MOE_AMX void multiply_packed(const Task& task, const Room& room, Int stride) {
  const Product& p = *task.product;
  const EvenCut blocks(padded(p.k, kTileK) / kTileK, kBlockK / kTileK);
  for (Int block = 0; block < blocks.parts; ++block) {
    const Int k0 = blocks.begin(block) * kTileK, tiles = blocks.size(block);
    const Int num_k = std::min(tiles * kTileK, p.k - k0), pitch = tiles * kTileElements;
    pack_lines(p.b, false, TileOf::kB, task.j0, task.n, k0, num_k, room.b());
    for (Int i = 0; i < task.m; i += kStrip) {
      pack_lines(p.a, true, TileOf::kA, task.i0 + i, std::min(kStrip, task.m - i), k0, num_k, room.a());
      for (Int j = 0; j < task.n; j += kStrip)
        multiply_four_tiles(room.a(), pitch, room.b() + j / kTileRows * pitch, pitch, tiles, room.c() + i * stride + j,
                            stride, block > 0);
    }
  }
}

// 16 rows of B^T from `row` on, n of which are there, times all of A: their part of C^T, in c[16 x 16], or [16 x 32] if
// kTwo.
template <bool kTwo>
MOE_AMX void multiply_sixteen(const Product& p, Int row, int n, bool fetch_next, const Room& room, float* c) {
  const Operand& b = p.b;
  const Int tiles = padded(p.k, kTileK) / kTileK, pitch = tiles * kTileElements;
  const Int whole = n == kTileRows ? p.k / kTileK : 0, ahead = fetch_next ? kTileRows * b.stride * 2 : 0;
  multiply_rows_in_memory<kTwo>(b.at<BF16>(0, row), b.stride, room.few(), pitch, whole, ahead, c, false);
  for (Int t = whole; t < tiles; ++t) {
    const int num_k = static_cast<int>(std::min<Int>(kTileK, p.k - t * kTileK));
    pack_tile(b.at<BF16>(t * kTileK, row), b.stride, true, TileOf::kA, n, num_k, room.edge());
    multiply_rows_in_memory<kTwo>(room.edge(), kTileK, room.few() + t * kTileElements, pitch, 1, 0, c, true);
  }
}

// A task of few rows. Fewer than 16 rows of B^T at the end are packed, zeros behind them.
template <bool kTwo>
MOE_AMX void multiply_few_rows(const Task& task, const Room& room, Int stride) {
  constexpr int kColumns = kTwo ? 32 : 16;
  const Product& p = *task.product;
  alignas(64) float part[kTileRows * kColumns];
  pack_lines(p.a, true, TileOf::kB, task.i0, task.m, 0, p.k, room.few());
  for (Int j = 0; j < task.n; j += kTileRows) {
    const Int n = std::min<Int>(kTileRows, task.n - j);
    const bool fetch = j + 2 * kTileRows <= task.n && kTileRows * p.b.stride * 2 <= kMostBytesOfRows;
    multiply_sixteen<kTwo>(p, task.j0 + j, static_cast<int>(n), fetch, room, part);
    for (Int i = 0; i < task.m; ++i)
      for (Int r = 0; r < n; ++r) room.c()[i * stride + j + r] = part[r * kColumns + i];
  }
}

// B^T is read where it lies; the rows of A have to fit into the scratch.
bool reads_rows_of_b(const Product& p) {
  return p.b.transposed && !p.a.transposed && p.a.dtype == DType::kBF16 && p.m <= kFewRows &&
         padded(p.k, kTileK) * kStrip * 2 <= kFewBytes;
}

void multiply_task(const Task& task, const Room& room) {
  const Product& p = *task.product;
  const TilesInUse tiles;
  const Int stride = padded(task.n, kStrip);
  if (!reads_rows_of_b(p))
    multiply_packed(task, room, stride);
  else
    task.m <= kTileRows ? multiply_few_rows<false>(task, room, stride) : multiply_few_rows<true>(task, room, stride);
  const Int at = task.i0 * p.c.stride + task.j0;
  if (p.c.dtype == DType::kF32)
    round_into(room.c(), stride, task.m, task.n, p.c.f32() + at, p.c.stride, p.store);
  else
    round_into(room.c(), stride, task.m, task.n, p.c.bf16() + at, p.c.stride, p.store);
}

struct OnTiles {
  // bf16, and fp32 that kernels.h allows to be rounded.
  static bool takes(const Product& p) {
    const Int columns_of_a = p.a.transposed ? p.m : p.k;
    return p.b.dtype == DType::kBF16 && (p.a.dtype == DType::kBF16 || columns_of_a > kMostExactColumns);
  }
  static void run_task(const Task& task, float* scratch) {
    takes(*task.product) ? multiply_task(task, {reinterpret_cast<char*>(scratch)}) : OnVectors::run_task(task, scratch);
  }
  static bool reads_b_once(const Product& p) { return takes(p) ? reads_rows_of_b(p) : OnVectors::reads_b_once(p); }
};

}  // namespace

const GemmKernels gemm_amx = kGemmOf<OnTiles>;
const GroupedGemmKernels grouped_gemm_amx = kGroupedGemmOf<OnTiles>;

double register_peak_gflops_amx(Stream& stream, DType dtype, double seconds) {
  constexpr int kSteps = 1 << 14;
  if (dtype != DType::kBF16) return register_peak_gflops_cpu(stream, dtype, seconds);
  return measured_gflops(stream, seconds, 4.0 * kSteps * 2 * kTileRows * kTileElements,
                         [] { multiply_in_registers(kSteps); });
}

bool has_amx() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA (Linux 5.16)
  static const bool answer = __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
                             syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return answer;
}

Kernels amx_kernels() {
  Kernels k = all_kernels();
  k.isa = "amx";
  k.gemm = gemm_amx;
  k.grouped_gemm = grouped_gemm_amx;
  k.register_peak_gflops = register_peak_gflops_amx;
  return k;
}

}  // namespace moe::MOE_ISA
