// Hopper's matrix units and asynchronous copies (sm_90a), each as one short function over one instruction of the PTX ISA:
// tensor maps and bulk copies (TMA) of boxes to and from shared memory, barriers there that count arrivals and bytes,
// products of a warpgroup (wgmma), registers that move between warpgroups. Whoever includes this launches with shared memory
// from shared_bytes(), which is 1024-byte aligned; boxes and operands of products must be so too.
//
// A box is `box_rows` rows of 64 columns of bf16 or 32 of fp32: 128 bytes a row in shared memory, one row after the other,
// the 16-byte pieces of a row swapped by the row's number (the 128-byte swizzle: bits 4-6 of an address are xor-ed with bits
// 7-9), so that neither copies nor products meet twice in a bank. A product reads it, in bf16, as
//   k_major():   rows are M (or N), the columns are K; 16 more of K lie 32 bytes further
//   mn_major():  rows are K, the columns are M (or N), 64 to a box; 16 more of K lie 2048 bytes further
// The twin for tests on the host is tests/cuda_on_host/hopper.h; it must be given everything that is added here.
// Not here: clusters and multicast, products of dtypes but bf16.
#pragma once

#include <cuda.h>

#include "kernels/cuda.h"
#include "kernels/cuda_mma.h"

namespace moe::cuda {

using TensorMap = CUtensorMap;  // a kernel takes it as `const __grid_constant__ TensorMap`

inline constexpr unsigned kGroupThreads = 128;  // a warpgroup
inline constexpr unsigned kBoxCols = 64, kBoxRowBytes = 128;
__host__ __device__ constexpr unsigned box_bytes(unsigned rows) { return rows * kBoxRowBytes; }

// Whether boxes of m can be copied to be operands: bf16, all rows on 16 bytes, something there.
inline bool has_boxes(const CMat& m) {
  return m.dtype == DType::kBF16 && m.rows > 0 && m.cols > 0 && aligned16(m.bf16(), m.stride) && m.stride >= m.cols;
}
// Whether boxes can be stored into m: all rows on 16 bytes, and only whole 16 bytes of them m's.
inline bool takes_boxes(const CMat& m) {
  const i64 piece = 16 / static_cast<i64>(size_of(m.dtype));
  return m.rows > 0 && m.cols > 0 && reinterpret_cast<std::uintptr_t>(m.data) % 16 == 0 && m.cols % piece == 0 &&
         m.stride % piece == 0 && m.stride >= m.cols;
}
// The map of a matrix whose rows are `groups` groups of equal size (weights: experts; activations: 1, or sequences): a box
// ends at the end of its group, what lies beyond it, or beyond the columns, is loaded as zeros and never stored.
// box_rows <= 256.
TensorMap tensor_map(const CMat& m, i64 groups, unsigned box_rows);

#ifndef MOE_CUDA_ON_HOST

struct Barrier {
  std::uint64_t bits;
};

// ---- Barriers. A phase ends when `arrivals` threads have arrived and all bytes that were expected have come; phases are
// numbered from 0, wait() is given the parity of the phase to wait for and passes at once if that one is over.
__device__ inline void barrier_init(Barrier* b, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
// After all barrier_init() of a thread, before the __syncthreads() that shows them to the others.
__device__ inline void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void barrier_arrive(Barrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
// Arrives, and says how many bytes of copies the phase waits for. Before those copies.
__device__ inline void barrier_expect(Barrier* b, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
__device__ inline void barrier_wait(Barrier* b, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred over;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
      "@!over bra again;\n"
      "}" ::"r"(shared_address(b)),
      "r"(parity)
      : "memory");
}
// Barrier `id` (1 .. 15) of some warps: `threads` of them meet. __syncthreads() is barrier 0.
__device__ inline void sync_threads_of(unsigned id, unsigned threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// Counts as one who came, without waiting.
__device__ inline void arrive_threads_of(unsigned id, unsigned threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- Copies. One thread asks; the box of the map at (col, row, group) comes to `to` and counts on the barrier.
__device__ inline void prefetch_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
__device__ inline void load_box(void* to, const TensorMap& map, Barrier* b, i64 col, i64 row, i64 group) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
          shared_address(to)),
      "l"(&map), "r"(shared_address(b)), "r"(static_cast<int>(col)), "r"(static_cast<int>(row)), "r"(static_cast<int>(group))
      : "memory");
}
// The way back, in groups of the thread that asks: store_box() or add_box(), ...; stores_commit(); stores_read<how many
// groups may still read> before their shared memory is written again, stores_done() before the kernel ends.
__device__ inline void store_box(const void* from, const TensorMap& map, i64 col, i64 row, i64 group) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(shared_address(from)), "r"(static_cast<int>(col)), "r"(static_cast<int>(row)),
               "r"(static_cast<int>(group))
               : "memory");
}
// global += box, in fp32, one rounding an element, each by itself: an element that gets one addition has the same bits
// whatever the order. Numbers below 2^-126 (denormals) count as zeros, before and after the addition.
__device__ inline void add_box(const void* from, const TensorMap& map, i64 col, i64 row, i64 group) {
  asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(shared_address(from)), "r"(static_cast<int>(col)), "r"(static_cast<int>(row)),
               "r"(static_cast<int>(group))
               : "memory");
}
__device__ inline void stores_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int kStillReading>
__device__ inline void stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kStillReading) : "memory");
}
__device__ inline void stores_done() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
// `bytes` (a multiple of 16, both addresses too) as they lie.
__device__ inline void load_bytes(void* to, const void* from, unsigned bytes, Barrier* b) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(b))
      : "memory");
}
// What this thread wrote to shared memory becomes visible to copies and products. Before the barrier that tells the others.
__device__ inline void fence_shared_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Brings a line of global memory into the second-level cache.
__device__ inline void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// ---- Registers of a warpgroup's threads, a multiple of 8; all its warps call it.
template <unsigned kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <unsigned kRegisters>
__device__ inline void leave_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- Products of a warpgroup: D (64 x N, f32, in registers) (=|+=) A (64 x 16) B (16 x N) in bf16.
// Register i of thread t of the warpgroup is D's row 16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (t % 4)
// + i % 2. Order: products_begin(); product()...; products_commit(); products_wait<how many groups may still run>(d); until
// then the operands must stay and the registers are nobody's.

// Start address, leading and stride byte offset in units of 16 bytes, 128-byte swizzle (PTX ISA, matrix descriptor).
__device__ inline std::uint64_t operand_bits(const void* at, unsigned leading, unsigned stride) {
  return (shared_address(at) & 0x3ffffu) >> 4 | std::uint64_t{leading >> 4} << 16 | std::uint64_t{stride >> 4} << 32 |
         std::uint64_t{1} << 62;
}
// Groups of 8 rows follow each other; the leading offset is not used.
__device__ inline std::uint64_t k_major(const void* at) { return operand_bits(at, 16, 8 * kBoxRowBytes); }
// Boxes of 64 columns and `rows` rows follow each other; groups of 8 of K inside a box.
__device__ inline std::uint64_t mn_major(const void* at, unsigned rows) {
  return operand_bits(at, box_bytes(rows), 8 * kBoxRowBytes);
}
// The operand `bytes` further on.
__device__ inline std::uint64_t operand_at(std::uint64_t operand, unsigned bytes) { return operand + (bytes >> 4); }

__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kStillRunning, int kCount>
__device__ inline void products_wait(float (&d)[kCount]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kStillRunning) : "memory");
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");  // no reading before the wait
}

// clang-format off
#define MOE_D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define MOE_D32(i) MOE_D8(i), MOE_D8(i + 8), MOE_D8(i + 16), MOE_D8(i + 24)
#define MOE_D16(i) MOE_D8(i), MOE_D8(i + 8)
#define MOE_N16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define MOE_N32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define MOE_N48 MOE_N32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define MOE_N64 MOE_N32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MOE_N96 MOE_N64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define MOE_N128 MOE_N96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define MOE_LIST(...) __VA_ARGS__
#define MOE_D64 MOE_D32(0), MOE_D32(32)
#define MOE_D96 MOE_D64, MOE_D32(64)
#define MOE_D128 MOE_D96, MOE_D32(96)
// A from shared memory: a, b, whether D counts, which operands are MN-major. %a .. %e number them behind D.
#define MOE_PRODUCT(n, names, outs, A, B, S, TA, TB)                                                                  \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #S ", 0;\n"                                                       \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" names "}, %" #A ", %" #B                  \
               ", p, 1, 1, %" #TA ", %" #TB ";\n}" : outs : "l"(a), "l"(b), "r"(adds), "n"(kAMn), "n"(kBMn) : "memory")
// A from registers.
#define MOE_PRODUCT_R(n, names, outs, A0, A1, A2, A3, B, S, TB)                                                       \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #S ", 0;\n"                                                       \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" names "}, {%" #A0 ", %" #A1 ", %" #A2     \
               ", %" #A3 "}, %" #B ", p, 1, 1, %" #TB ";\n}"                                                          \
               : outs : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(kBMn) : "memory")
// clang-format on

// adds = 0: D = A B. kAMn, kBMn: 1 where that operand is mn_major().
template <int kAMn, int kBMn>
__device__ inline void product(float (&d)[16], std::uint64_t a, std::uint64_t b, int adds) {
  MOE_PRODUCT(32, MOE_N16, MOE_LIST(MOE_D16(0)), 16, 17, 18, 19, 20);
}
template <int kAMn, int kBMn>
__device__ inline void product(float (&d)[32], std::uint64_t a, std::uint64_t b, int adds) {
  MOE_PRODUCT(64, MOE_N32, MOE_LIST(MOE_D32(0)), 32, 33, 34, 35, 36);
}
template <int kAMn, int kBMn>
__device__ inline void product(float (&d)[48], std::uint64_t a, std::uint64_t b, int adds) {
  MOE_PRODUCT(96, MOE_N48, MOE_LIST(MOE_D32(0), MOE_D16(32)), 48, 49, 50, 51, 52);
}
template <int kAMn, int kBMn>
__device__ inline void product(float (&d)[64], std::uint64_t a, std::uint64_t b, int adds) {
  MOE_PRODUCT(128, MOE_N64, MOE_LIST(MOE_D64), 64, 65, 66, 67, 68);
}
template <int kAMn, int kBMn>
__device__ inline void product(float (&d)[96], std::uint64_t a, std::uint64_t b, int adds) {
  MOE_PRODUCT(192, MOE_N96, MOE_LIST(MOE_D96), 96, 97, 98, 99, 100);
}
template <int kAMn, int kBMn>
__device__ inline void product(float (&d)[128], std::uint64_t a, std::uint64_t b, int adds) {
  MOE_PRODUCT(256, MOE_N128, MOE_LIST(MOE_D128), 128, 129, 130, 131, 132);
}
// The same with A in registers, two bf16 each, the lower column in the lower half: a[0] row t % 32 / 4, columns 2 (t % 4)
// and the next; a[1] eight rows below; a[2], a[3] the same eight columns further. So are 16 columns of D, rounded and
// paired.
template <int kBMn>
__device__ inline void product_of_registers(float (&d)[32], const unsigned (&a)[4], std::uint64_t b, int adds) {
  MOE_PRODUCT_R(64, MOE_N32, MOE_LIST(MOE_D32(0)), 32, 33, 34, 35, 36, 37, 38);
}
template <int kBMn>
__device__ inline void product_of_registers(float (&d)[64], const unsigned (&a)[4], std::uint64_t b, int adds) {
  MOE_PRODUCT_R(128, MOE_N64, MOE_LIST(MOE_D64), 64, 65, 66, 67, 68, 69, 70);
}
template <int kBMn>
__device__ inline void product_of_registers(float (&d)[96], const unsigned (&a)[4], std::uint64_t b, int adds) {
  MOE_PRODUCT_R(192, MOE_N96, MOE_LIST(MOE_D96), 96, 97, 98, 99, 100, 101, 102);
}
template <int kBMn>
__device__ inline void product_of_registers(float (&d)[128], const unsigned (&a)[4], std::uint64_t b, int adds) {
  MOE_PRODUCT_R(256, MOE_N128, MOE_LIST(MOE_D128), 128, 129, 130, 131, 132, 133, 134);
}
#undef MOE_PRODUCT_R
#undef MOE_PRODUCT
#undef MOE_LIST
#undef MOE_D128
#undef MOE_D96
#undef MOE_D64
#undef MOE_D32
#undef MOE_D16
#undef MOE_D8
#undef MOE_N128
#undef MOE_N96
#undef MOE_N64
#undef MOE_N48
#undef MOE_N32
#undef MOE_N16

#endif

}  // namespace moe::cuda

#ifdef MOE_CUDA_ON_HOST
#include <hopper.h>
#endif
