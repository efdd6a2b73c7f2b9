// kernels/cuda_mma.h on the host. Copies are late: until their group is waited for the target holds not-a-number, so that
// a wait or barrier that is missing shows in the results. Contracts: there.
#pragma once

#include <bit>
#include <vector>

#include "tests/cuda_on_host/cuda_runtime.h"

namespace cuda_on_host {

struct LateCopy {
  void* to;
  const void* from;
  std::size_t bytes;
  bool real;
};
// Groups of one thread that nobody waited for yet, the oldest first; the last one is not committed.
struct LateCopies {
  std::size_t block = 0;  // of block_number()
  std::vector<std::vector<LateCopy>> groups;
};
inline LateCopies& late_copies() {
  static thread_local std::vector<LateCopies> of_thread(1024);
  LateCopies& mine = of_thread[thread_in_block];
  if (mine.block != block_number()) mine = {block_number(), {{}}};
  return mine;
}
inline float bf16_half(unsigned pair, int half) { return std::bit_cast<float>(half == 0 ? pair << 16 : pair & 0xffff0000u); }
inline unsigned round_to_bf16(float f) {
  const unsigned u = std::bit_cast<unsigned>(f);
  return f != f ? (u >> 16 | 0x40u) : (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}

}  // namespace cuda_on_host

namespace moe::cuda {

inline void mma_bf16(float* c, const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct Operands {
    unsigned a[4], b[2];
  };
  const Operands mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const unsigned char* all = cuda_on_host::exchange(0xffffffffu, &mine, sizeof mine);
  const unsigned g = cuda_on_host::thread_in_block % 32 / 4, t = cuda_on_host::thread_in_block % 4;
  const auto of = [&](unsigned lane) {
    return reinterpret_cast<const Operands*>(all + lane * cuda_on_host::kExchangeBytes);
  };
  for (unsigned l = 0; l < 4; ++l) {
    const Operands &row = *of(4 * g + l), &left = *of(8 * t + l), &right = *of(8 * t + 4 + l);
    for (int k = 0; k < 4; ++k)  // two elements each of columns 2l and 2l + 8
      for (int i = 0; i < 4; ++i) {
        const Operands& column = i % 2 == 0 ? left : right;
        c[i] += cuda_on_host::bf16_half(row.a[i / 2 + k / 2 * 2], k % 2) * cuda_on_host::bf16_half(column.b[k / 2], k % 2);
      }
  }
}

inline void load_matrices(unsigned (&r)[4], const void* row, bool transposed) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) std::abort();
  const unsigned char* all = cuda_on_host::exchange(0xffffffffu, &row, sizeof row);
  const unsigned g = cuda_on_host::thread_in_block % 32 / 4, t = cuda_on_host::thread_in_block % 4;
  const auto element = [&](unsigned matrix, unsigned i, unsigned j) {
    const std::uint16_t* p;
    std::memcpy(&p, all + (8 * matrix + i) * cuda_on_host::kExchangeBytes, sizeof p);
    return unsigned{p[j]};
  };
  for (unsigned m = 0; m < 4; ++m)
    r[m] = transposed ? element(m, 2 * t, g) | element(m, 2 * t + 1, g) << 16
                      : element(m, g, 2 * t) | element(m, g, 2 * t + 1) << 16;
}
inline void ldmatrix_x4(unsigned (&r)[4], const void* row) { load_matrices(r, row, false); }
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) { load_matrices(r, row, true); }

template <int kBytes>
void copy_async(void* to, const void* from, bool real) {
  static_assert(kBytes == 4 || kBytes == 16);
  if (reinterpret_cast<std::uintptr_t>(to) % kBytes != 0 || (real && reinterpret_cast<std::uintptr_t>(from) % kBytes != 0))
    std::abort();
  std::memset(to, 0xff, kBytes);
  cuda_on_host::late_copies().groups.back().push_back({to, from, kBytes, real});
}
inline void copy_async_commit() { cuda_on_host::late_copies().groups.emplace_back(); }
template <int kPending>
void copy_async_wait() {
  auto& groups = cuda_on_host::late_copies().groups;
  while (groups.size() > kPending + 1) {
    for (const cuda_on_host::LateCopy& c : groups.front())
      if (c.real)
        std::memcpy(c.to, c.from, c.bytes);
      else
        std::memset(c.to, 0, c.bytes);
    groups.erase(groups.begin());
  }
}

inline unsigned pack_bf16(float low, float high) {
  return cuda_on_host::round_to_bf16(low) | cuda_on_host::round_to_bf16(high) << 16;
}
inline float exp2_fast(float x) { return std::exp2(x); }

}  // namespace moe::cuda
