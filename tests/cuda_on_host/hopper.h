// The twin of kernels/cuda_hopper.h on the host, function by function; what they do and mean is said there. Everything is
// done as late as the device may: a copy comes when somebody waits for its barrier, a store reads shared memory when
// stores_read() waits for its group and writes global memory when stores_done() does, a product reads its operands and
// writes its registers when its group is waited for. For what is overwritten, or asked for, too early some blocks have
// copies and stores at once, and others by chance (comes_at_once()). Not here: registers of warpgroups and prefetching,
// which have nothing to do.
#pragma once

#include "tests/cuda_on_host/cuda.h"

namespace cuda_on_host {

unsigned shared_address(const void* p);
void barrier_init(void* b, unsigned arrivals);
void barrier_arrive(void* b, unsigned bytes);
void barrier_wait(void* b, unsigned parity);
void load_bytes(void* to, const void* from, unsigned bytes, void* b);
void load_box(void* to, const CUtensorMap& map, void* b, std::int64_t col, std::int64_t row, std::int64_t group);
void store_box(const void* from, const CUtensorMap& map, std::int64_t col, std::int64_t row, std::int64_t group, bool adds);
void stores_commit();
void stores_read(int still_reading);
void stores_done();

// One product of a warpgroup; registers: A's four of this thread, or nullptr and `a` is its descriptor.
struct Product {
  std::uint64_t a, b;
  int n, a_mn, b_mn, adds;
};
void product(const Product& p, float* d, const unsigned* registers);
void products_commit();
void products_wait(int still_running);

}  // namespace cuda_on_host

namespace moe::cuda {

struct Barrier {
  std::uint64_t bits;
};

inline unsigned shared_address(const void* p) { return cuda_on_host::shared_address(p); }
inline void barrier_init(Barrier* b, unsigned arrivals) { cuda_on_host::barrier_init(b, arrivals); }
inline void barrier_init_done() {}
inline void barrier_arrive(Barrier* b) { cuda_on_host::barrier_arrive(b, 0); }
inline void barrier_expect(Barrier* b, unsigned bytes) { cuda_on_host::barrier_arrive(b, bytes); }
inline void barrier_wait(Barrier* b, unsigned parity) { cuda_on_host::barrier_wait(b, parity); }
inline void sync_threads_of(unsigned id, unsigned threads) { cuda_on_host::barrier(id, threads, "a named barrier"); }
inline void arrive_threads_of(unsigned id, unsigned threads) { cuda_on_host::barrier_without_waiting(id, threads); }

inline void prefetch_map(const TensorMap&) {}
inline void load_box(void* to, const TensorMap& map, Barrier* b, i64 col, i64 row, i64 group) {
  cuda_on_host::load_box(to, map, b, col, row, group);
}
inline void store_box(const void* from, const TensorMap& map, i64 col, i64 row, i64 group) {
  cuda_on_host::store_box(from, map, col, row, group, false);
}
inline void add_box(const void* from, const TensorMap& map, i64 col, i64 row, i64 group) {
  cuda_on_host::store_box(from, map, col, row, group, true);
}
inline void stores_commit() { cuda_on_host::stores_commit(); }
template <int kStillReading>
void stores_read() {
  cuda_on_host::stores_read(kStillReading);
}
inline void stores_done() { cuda_on_host::stores_done(); }
inline void load_bytes(void* to, const void* from, unsigned bytes, Barrier* b) {
  cuda_on_host::load_bytes(to, from, bytes, b);
}
inline void fence_shared_writes() {}
inline void prefetch_l2(const void*) {}

template <unsigned kRegisters>
void take_registers() {}
template <unsigned kRegisters>
void leave_registers() {}

inline std::uint64_t operand_bits(const void* at, unsigned leading, unsigned stride) {
  return (shared_address(at) & 0x3ffffu) >> 4 | std::uint64_t{leading >> 4} << 16 | std::uint64_t{stride >> 4} << 32 |
         std::uint64_t{1} << 62;
}
inline std::uint64_t k_major(const void* at) { return operand_bits(at, 16, 8 * kBoxRowBytes); }
inline std::uint64_t mn_major(const void* at, unsigned rows) { return operand_bits(at, box_bytes(rows), 8 * kBoxRowBytes); }
inline std::uint64_t operand_at(std::uint64_t operand, unsigned bytes) { return operand + (bytes >> 4); }

inline void products_begin() {}
inline void products_commit() { cuda_on_host::products_commit(); }
template <int kStillRunning, int kCount>
void products_wait(float (&)[kCount]) {
  cuda_on_host::products_wait(kStillRunning);
}
template <int kAMn, int kBMn, int kCount>
void product(float (&d)[kCount], std::uint64_t a, std::uint64_t b, int adds) {
  cuda_on_host::product({a, b, 2 * kCount, kAMn, kBMn, adds}, d, nullptr);
}
template <int kBMn, int kCount>
void product_of_registers(float (&d)[kCount], const unsigned (&a)[4], std::uint64_t b, int adds) {
  cuda_on_host::product({0, b, 2 * kCount, 0, kBMn, adds}, d, a);
}

}  // namespace moe::cuda
