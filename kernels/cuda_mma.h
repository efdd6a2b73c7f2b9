// Matrix units and asynchronous copies that every GPU since Ampere has, as thin functions over PTX. Fragments are those of
// the PTX ISA for mma.m16n8k16 in bf16; with g = lane / 4 and t = lane % 4 a lane holds
//   A [16 x 16]  a[0]: row g, columns 2t, 2t+1;  a[1]: row g+8;  a[2], a[3]: the same rows, columns 2t+8, 2t+9
//   B [16 x 8]   b[0]: rows 2t, 2t+1 of column g;  b[1]: rows 2t+8, 2t+9
//   C [16 x 8]   c[0], c[1]: row g, columns 2t, 2t+1;  c[2], c[3]: row g+8
// so two neighbouring C tiles, packed, are one A. On the host: tests/cuda_on_host/mma.h.
// Not here: warpgroups and the bulk copy engine (cuda_hopper.h).
#pragma once

#ifdef MOE_CUDA_ON_HOST
#include <mma.h>
#else

#include <cstdint>

namespace moe::cuda {

__device__ inline unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// c[0 .. 3] += A B
__device__ inline void mma_bf16(float* c, const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices of 16-bit elements; lane 8m + r names row r of matrix m, 16 bytes in shared memory. Lane l gets of
// each matrix row l / 4, columns 2 (l % 4) and the next; transposed: column l / 4, rows 2 (l % 4) and the next.
__device__ inline void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// kBytes (4 or 16, aligned so) to shared memory, zeros where `real` is false (`from` is not read then); there after a
// wait for its group. A group: what the thread has copied since its commit before.
template <int kBytes>
__device__ inline void copy_async(void* to, const void* from, bool real) {
  const int size = real ? kBytes : 0;
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(size) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(kBytes), "r"(size)
                 : "memory");
}
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Returns when all but the newest kPending groups of this thread are there; other threads see it after a barrier.
template <int kPending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Two floats as bf16, to nearest even; `low` in the lower half.
__device__ inline unsigned pack_bf16(float low, float high) {
  unsigned r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

// 2^x to 2 units in the last place; 0 for minus infinity.
__device__ inline float exp2_fast(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

}  // namespace moe::cuda

#endif
