// Matrix units of x86 processors (Intel AMX, "Architecture Instruction Set Extensions", chapter 3): a tile register holds 16
// rows of 64 bytes, one instruction adds the product of two tiles of bf16 to a tile of fp32.
//   tile of A   [16 rows][32 of k]            as in a matrix whose rows run along k
//   tile of B   [16 pairs of k][16 columns][2 of the pair]
//   tile of C   [16 rows][16 columns] fp32
// An element of C adds its products in the order of k, so that its bits depend on its own row, column and the length of the
// sum alone; zeros behind the sum change nothing. Numbers below 2^-126 count as 0. Included by gemm_amx.cpp only, which is
// compiled for AVX-512. Not here: blocking, edges of matrices in memory (gemm_amx.cpp).
#pragma once

#include <immintrin.h>

#include "kernels/gemm_pack.h"

#define MOE_AMX __attribute__((target("amx-tile,amx-bf16")))

namespace moe::MOE_ISA {

inline constexpr int kTileRows = 16, kTileK = 32;
inline constexpr int kTileElements = kTileRows * kTileK;  // of A and B, 1 KB

// All eight tile registers have 16 rows of 64 bytes: palette 1, then at 16 the bytes of a row, at 48 the rows.
struct TileConfig {
  std::uint8_t palette[16] = {1};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
alignas(64) inline constexpr TileConfig kTileConfig;

// The tile registers of this thread, while it lives.
class TilesInUse {
 public:
  MOE_AMX TilesInUse() { _tile_loadconfig(&kTileConfig); }
  MOE_AMX ~TilesInUse() { _tile_release(); }
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;
};

// g++ 12 does not know that instructions on tiles read memory: what was written before is in it.
static inline void memory_is_written() { asm volatile("" ::: "memory"); }

// 4 * steps products of tiles that stay in registers.
MOE_AMX static inline void multiply_in_registers(int steps) {
  const TilesInUse tiles;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int i = 0; i < steps; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// c[32 x 32] (= or +=) two tile rows of A times two tile columns of B, over `tiles` tiles of k. Tile t of the first row of A
// is at a + t * kTileElements, of the second `a_pitch` elements behind it; B alike.
MOE_AMX static inline void multiply_four_tiles(const BF16* a, std::int64_t a_pitch, const BF16* b, std::int64_t b_pitch,
                                               std::int64_t tiles, float* c, std::int64_t c_stride, bool add) {
  const std::int64_t bytes = c_stride * 4;
  memory_is_written();
  if (add) {
    _tile_loadd(0, c, bytes);
    _tile_loadd(1, c + 16, bytes);
    _tile_loadd(2, c + 16 * c_stride, bytes);
    _tile_loadd(3, c + 16 * c_stride + 16, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::int64_t t = 0; t < tiles; ++t, a += kTileElements, b += kTileElements) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + b_pitch, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a + a_pitch, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + 16, bytes);
  _tile_stored(2, c + 16 * c_stride, bytes);
  _tile_stored(3, c + 16 * c_stride + 16, bytes);
}

// c[16 x 16], or [16 x 32] if kTwo, (= or +=) 16 rows of A that lie a_stride elements apart in memory times packed columns
// of B, over `tiles` tiles of k. What lies `ahead` bytes behind the rows is fetched into L2 meanwhile (0: nothing is).
template <bool kTwo>
MOE_AMX static inline void multiply_rows_in_memory(const BF16* a, std::int64_t a_stride, const BF16* b, std::int64_t b_pitch,
                                                   std::int64_t tiles, std::int64_t ahead, float* c, bool add) {
  constexpr int kBytes = kTwo ? 128 : 64;
  memory_is_written();
  _tile_zero(0);
  _tile_zero(1);
  if (add) _tile_loadd(0, c, kBytes);
  if (add && kTwo) _tile_loadd(1, c + 16, kBytes);
  for (std::int64_t t = 0; t < tiles; ++t, a += kTileK, b += kTileElements) {
    for (int i = 0; i < kTileRows && ahead > 0; ++i)
      __builtin_prefetch(reinterpret_cast<const char*>(a + i * a_stride) + ahead, 0, 2);
    _tile_loadd(4, a, a_stride * 2);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (!kTwo) continue;
    _tile_loadd(7, b + b_pitch, 64);
    _tile_dpbf16ps(1, 4, 7);
  }
  _tile_stored(0, c, kBytes);
  if (kTwo) _tile_stored(1, c + 16, kBytes);
}

// ---- Tiles from matrices, rounded to bf16; what lies outside of them is 0. Pairs of bf16 travel as one float.

// The first n of 32 elements, as 16 pairs.
static inline vf pairs_at(const BF16* p, int n) {
  const __mmask32 there = n >= kTileK ? ~__mmask32{0} : (__mmask32{1} << n) - 1;
  return (vf)_mm512_maskz_loadu_epi16(there, p);
}
static inline vf pairs_at(const float* p, int n) {
  const auto half = [&](int at) { return n - at >= kWidth ? load(p + at) : n > at ? load_part(p + at, n - at) : vf{}; };
  alignas(64) BF16 rounded[kTileK];
  store(rounded, half(0));
  store(rounded + kWidth, half(kWidth));
  return pairs_at(rounded, kTileK);
}

// The first n of 16 elements, as the lower half of each lane.
static inline vu halves_at(const BF16* p, int n) {
  const auto there = static_cast<__mmask16>(n >= kTileRows ? 0xffff : (1 << n) - 1);
  return __builtin_convertvector((vh)_mm256_maskz_loadu_epi16(there, p), vu);
}
static inline vu halves_at(const float* p, int n) {
  alignas(32) BF16 rounded[kTileRows];
  store(rounded, n >= kWidth ? load(p) : load_part(p, n));
  return halves_at(rounded, kTileRows);
}

enum class TileOf : std::uint8_t { kA, kB };

// A tile of 16 lines, which are rows of A or columns of B, and 32 of k, from src on; n lines and num_k are there. along_k: a
// line runs along k in memory.
template <class T>
static inline void pack_tile(const T* src, std::int64_t stride, bool along_k, TileOf tile, int n, int num_k, BF16* to) {
  vf rows[kWidth];
  if (along_k) {
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) rows[r] = r < n ? pairs_at(src + r * stride, num_k) : vf{};
  } else {
    const auto halves = [&](int k) { return k < num_k ? halves_at(src + k * stride, n) : vu{}; };
#pragma GCC unroll 16
    for (int p = 0; p < kTileRows; ++p) rows[p] = (vf)(halves(2 * p) | halves(2 * p + 1) << 16);
  }
  if (along_k != (tile == TileOf::kA)) transpose(rows);
  for (int r = 0; r < kTileRows; ++r) std::memcpy(to + r * kTileK, &rows[r], sizeof rows[r]);
}

}  // namespace moe::MOE_ISA
