// Barriers, boxes and products of kernels/cuda_hopper.h (see hopper.h). Descriptors are read as the PTX ISA defines them:
// nothing here knows how a kernel lays out its shared memory.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda_hopper.h"
#include "tests/cuda_on_host/cuda.h"
#include "tests/cuda_on_host/fibers.h"

namespace cuda_on_host {
namespace {

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "CUDA on the host: %s: block (%u, %u, %u), thread %u\n", what, blockIdx.x, blockIdx.y, blockIdx.z,
               thread_in_block);
  std::abort();
}

// Of a box, or of bytes as they lie.
struct Copy {
  void* to;
  CUtensorMap map;
  std::int64_t col, row, group;
  const void* from = nullptr;
  unsigned bytes = 0;
};
// A box on its way back. `bytes`: what was read of it, row by row; empty until then.
struct Stored {
  const void* from;
  CUtensorMap map;
  std::int64_t col, row, group;
  bool adds;
  std::vector<unsigned char> bytes;
};

// What a product reads, once its operands are taken from shared memory, which the first thread that waits does.
struct Running {
  Product p;
  bool taken = false;
  unsigned threads_left = 128;
  std::vector<float> a = std::vector<float>(64 * 16), b;  // a[m][k]; b[n / 2 % 4][k][n / 8 * 2 + n % 2]: as threads hold D
};
struct Pending {
  Running* product;
  float* d;
  std::size_t group;
};
struct Thread {
  std::vector<Pending> pending;
  std::size_t issued = 0, groups = 0;
  std::vector<std::vector<Stored>> stores = {{}};  // in groups, the oldest first; the last one is not committed
};

// Of one block.
struct State {
  std::size_t block = 0;
  std::map<const void*, std::vector<Copy>> copies;              // by their barrier
  std::map<std::pair<unsigned, std::size_t>, Running> running;  // by warpgroup and order
  std::vector<Thread> threads = std::vector<Thread>(1024);
};
State& state() {
  static thread_local State s;
  if (s.block != block_number()) s = State{.block = block_number()};
  return s;
}

// ---- Barriers

struct Bits {
  std::uint64_t magic : 7, phase : 1, arrivals : 12, left : 12;
  std::int64_t bytes : 32;
};
static_assert(sizeof(Bits) == 8);
constexpr unsigned kMagic = 0x2a;

Bits& bits_of(void* b) {
  Bits& bits = *static_cast<Bits*>(b);
  if (bits.magic != kMagic) fail("a barrier in shared memory that was not initialised");
  return bits;
}
void end_phase_if_complete(Bits& b) {
  progressed();
  if (b.left != 0 || b.bytes != 0) return;
  b.phase ^= 1;
  b.left = b.arrivals;
}

// ---- Boxes

// The 128-byte swizzle of an address in shared memory.
unsigned swizzled(unsigned address) { return address ^ (address >> 7 & 7u) << 4; }

std::int64_t bytes_of(const Copy& c) {
  return c.from ? c.bytes : std::int64_t{c.map.box[0]} * c.map.box[1] * c.map.element_bytes;
}

// f(address in shared memory, byte of the matrix or nullptr outside, byte of the box) for every element of a box.
template <class F>
void for_elements(const CUtensorMap& m, const void* box, std::int64_t col, std::int64_t row, std::int64_t group,
                  const F& f) {
  const auto inside = [](std::int64_t at, std::uint64_t size) { return at >= 0 && static_cast<std::uint64_t>(at) < size; };
  const unsigned begin = shared_address(box), size = m.element_bytes;
  for (std::uint32_t i = 0; i < m.box[1]; ++i)
    for (std::uint32_t j = 0; j < m.box[0]; ++j) {
      const std::int64_t r = row + i, c = col + j;
      const bool is_there = inside(c, m.sizes[0]) && inside(r, m.sizes[1]) && inside(group, m.sizes[2]);
      const unsigned in_box = (i * m.box[0] + j) * size;
      f(swizzled(begin + in_box),
        is_there ? m.data + static_cast<std::uint64_t>(group) * m.strides[1] + static_cast<std::uint64_t>(r) * m.strides[0] +
                       static_cast<std::uint64_t>(c) * size
                 : nullptr,
        in_box);
    }
}

void do_copy(const Copy& c) {
  if (c.from) return void(std::memcpy(c.to, c.from, c.bytes));
  for_elements(c.map, c.to, c.col, c.row, c.group, [&](unsigned shared, const unsigned char* global, unsigned) {
    if (global)
      std::memcpy(shared_bytes() + shared, global, c.map.element_bytes);
    else
      std::memset(shared_bytes() + shared, 0, c.map.element_bytes);
  });
}

void land(void* b) {
  auto& all = state().copies;
  const auto found = all.find(b);
  if (found == all.end()) return;
  Bits& bits = bits_of(b);
  for (const Copy& c : found->second) {
    do_copy(c);
    bits.bytes -= bytes_of(c);
  }
  all.erase(found);
  end_phase_if_complete(bits);
}

void read_stored(Stored& s) {
  if (!s.bytes.empty()) return;
  s.bytes.resize(std::size_t{s.map.box[0]} * s.map.box[1] * s.map.element_bytes);
  for_elements(s.map, s.from, s.col, s.row, s.group, [&](unsigned shared, const unsigned char*, unsigned in_box) {
    std::memcpy(&s.bytes[in_box], shared_bytes() + shared, s.map.element_bytes);
  });
}

// Reductions in fp32 flush denormals.
float flushed(float f) { return std::fpclassify(f) == FP_SUBNORMAL ? std::copysign(0.0f, f) : f; }

void write_stored(const Stored& s) {
  for_elements(s.map, s.from, s.col, s.row, s.group, [&](unsigned, const unsigned char* global, unsigned in_box) {
    if (!global) return;
    auto* const to = const_cast<unsigned char*>(global);
    if (!s.adds) return void(std::memcpy(to, &s.bytes[in_box], s.map.element_bytes));
    float old, v;
    std::memcpy(&old, to, 4);
    std::memcpy(&v, &s.bytes[in_box], 4);
    v = flushed(flushed(old) + flushed(v));
    std::memcpy(to, &v, 4);
  });
}

std::vector<std::vector<Stored>>& stores_of_thread() { return state().threads[thread_in_block].stores; }

// ---- Products

float read_bf16(unsigned address) {
  std::uint16_t v;
  std::memcpy(&v, shared_bytes() + swizzled(address), 2);
  return moe::to_float(moe::BF16{v});
}

// Element (mn, k) of the operand that a descriptor describes (canonical layouts of the 128-byte swizzle).
float element(std::uint64_t descriptor, bool is_mn_major, unsigned mn, unsigned k) {
  const auto field = [&](unsigned from) { return static_cast<unsigned>(descriptor >> from & 0x3fff) * 16; };
  const unsigned start = field(0), leading = field(16), stride = field(32);
  if (is_mn_major) return read_bf16(start + mn % 64 * 2 + mn / 64 * leading + k % 8 * 128 + k / 8 * stride);
  return read_bf16(start + mn % 8 * 128 + mn / 8 * stride + k * 2);
}

void check_descriptor(std::uint64_t d) {
  if (d >> 62 != 1 || (d >> 49 & 7) != 0)
    fail("a product whose operand is not of the 128-byte swizzle, or has a base offset");
}

void take_operands(Running& r) {
  if (r.taken) return;
  r.taken = true;
  const auto n = static_cast<unsigned>(r.p.n);
  r.b.resize(n * 16);
  check_descriptor(r.p.b);
  for (unsigned col = 0; col < n; ++col)
    for (unsigned k = 0; k < 16; ++k)
      r.b[(col / 2 % 4 * 16 + k) * (n / 4) + col / 8 * 2 + col % 2] = element(r.p.b, r.p.b_mn != 0, col, k);
  if (r.p.a == 0) return;  // from registers
  check_descriptor(r.p.a);
  for (unsigned row = 0; row < 64; ++row)
    for (unsigned k = 0; k < 16; ++k) r.a[row * 16 + k] = element(r.p.a, r.p.a_mn != 0, row, k);
}

// This thread's part of D.
void multiply(const Running& r, float* d) {
  const unsigned t = thread_in_block % 128, width = static_cast<unsigned>(r.p.n) / 4;
  const float* const b = r.b.data() + t % 4 * 16 * width;
  for (unsigned half = 0; half < 2; ++half) {
    const float* const a = r.a.data() + (t / 32 * 16 + t % 32 / 4 + 8 * half) * 16;
    float sum[64] = {};
    for (unsigned k = 0; k < 16; ++k)
      for (unsigned i = 0; i < width; ++i) sum[i] += a[k] * b[k * width + i];
    for (unsigned i = 0; i < width; ++i) {
      float& to = d[i / 2 * 4 + half * 2 + i % 2];
      to = r.p.adds ? to + sum[i] : sum[i];
    }
  }
}

// A from the registers of all threads of the warpgroup.
void take_registers_of(Running& r, const unsigned char* all) {
  for (unsigned t = 0; t < 128; ++t)
    for (unsigned i = 0; i < 8; ++i) {
      std::uint16_t v;
      std::memcpy(&v, all + t * kExchangeBytes + sizeof(Product) + i * 2, 2);
      r.a[(t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2)) * 16 + t % 4 * 2 + i % 2 + 8 * (i / 4)] = moe::to_float(moe::BF16{v});
    }
}

}  // namespace

unsigned shared_address(const void* p) {
  return static_cast<unsigned>(static_cast<const unsigned char*>(p) - shared_bytes());
}

void barrier_init(void* b, unsigned arrivals) {
  Bits& bits = *static_cast<Bits*>(b);
  if (shared_address(b) % 8 != 0 || arrivals == 0 || arrivals > 1024) fail("barrier_init");
  bits.magic = kMagic, bits.phase = 0, bits.arrivals = bits.left = arrivals & 0xfffu, bits.bytes = 0;
}

void barrier_arrive(void* b, unsigned bytes) {
  Bits& bits = bits_of(b);
  if (bits.left == 0) fail("more arrivals at a barrier than it was initialised with");
  bits.bytes += static_cast<std::int32_t>(bytes);
  --bits.left;
  end_phase_if_complete(bits);
}

void barrier_wait(void* b, unsigned parity) {
  Bits& bits = bits_of(b);
  const auto over = [&] {
    land(b);
    return bits.phase != (parity & 1u);
  };
  wait_until(over, "a barrier in shared memory");
}

void load_box(void* to, const CUtensorMap& map, void* b, std::int64_t col, std::int64_t row, std::int64_t group) {
  if (shared_address(to) % 1024 != 0) fail("a box that does not begin at a multiple of 1024 bytes");
  state().copies[b].push_back({to, map, col, row, group});
  if (comes_at_once()) land(b);
}

void store_box(const void* from, const CUtensorMap& map, std::int64_t col, std::int64_t row, std::int64_t group, bool adds) {
  if (shared_address(from) % 1024 != 0) fail("a box that does not begin at a multiple of 1024 bytes");
  if (adds && map.element_bytes != 4) fail("an addition to a matrix that is not in fp32");
  Stored stored = {from, map, col, row, group, adds, {}};
  if (comes_at_once()) {
    read_stored(stored);
    write_stored(stored);
  } else {
    stores_of_thread().back().push_back(std::move(stored));
  }
}

void stores_commit() { stores_of_thread().emplace_back(); }

void stores_read(int still_reading) {
  auto& groups = stores_of_thread();
  for (std::size_t i = 0; i + static_cast<std::size_t>(still_reading) + 1 < groups.size(); ++i)
    for (Stored& s : groups[i]) read_stored(s);
}

void stores_done() {
  auto& groups = stores_of_thread();
  stores_read(0);
  for (std::size_t i = 0; i + 1 < groups.size(); ++i)
    for (const Stored& s : groups[i]) write_stored(s);
  groups.erase(groups.begin(), groups.end() - 1);
}

void load_bytes(void* to, const void* from, unsigned bytes, void* b) {
  if (shared_address(to) % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0 || bytes % 16 != 0)
    fail("a copy of bytes that are no multiple of 16");
  state().copies[b].push_back({.to = to, .map = {}, .col = 0, .row = 0, .group = 0, .from = from, .bytes = bytes});
  if (comes_at_once()) land(b);
}

void product(const Product& p, float* d, const unsigned* registers) {
  unsigned char mine[sizeof(Product) + 16] = {};
  std::memcpy(mine, &p, sizeof p);
  if (registers) std::memcpy(mine + sizeof p, registers, 16);
  const unsigned char* const all = exchange_warps(4, mine, sizeof mine);
  for (unsigned t = 0; t < 128; ++t)
    if (std::memcmp(all + t * kExchangeBytes, &p, sizeof p) != 0) fail("a product whose operands differ between threads");
  Thread& thread = state().threads[thread_in_block];
  const auto [at, is_new] = state().running.try_emplace({thread_in_block / 128, thread.issued++});
  Running& r = at->second;
  if (is_new) {
    r.p = p;
    if (registers) take_registers_of(r, all);
  }
  thread.pending.push_back({&r, d, thread.groups});
}

void products_commit() { ++state().threads[thread_in_block].groups; }

void products_wait(int still_running) {
  exchange(0xffffffffu, nullptr, 0);
  Thread& thread = state().threads[thread_in_block];
  std::erase_if(thread.pending, [&](const Pending& p) {
    if (p.group + static_cast<std::size_t>(still_running) >= thread.groups) return false;
    take_operands(*p.product);
    multiply(*p.product, p.d);
    if (--p.product->threads_left == 0)
      std::erase_if(state().running, [&](const auto& entry) { return &entry.second == p.product; });
    return true;
  });
}

}  // namespace cuda_on_host

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType dtype, cuuint32_t rank, void* data,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill) {
  const cuuint32_t element = dtype == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2;
  bool ok = rank == 3 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && box[0] * element == 128;
  for (cuuint32_t i = 0; i < rank; ++i)
    ok = ok && sizes[i] > 0 && sizes[i] <= cuuint64_t{1} << 32 && box[i] > 0 && box[i] <= 256 && steps[i] == 1;
  for (cuuint32_t i = 0; i + 1 < rank; ++i) ok = ok && strides[i] % 16 == 0 && strides[i] < cuuint64_t{1} << 40;
  if (!ok) return CUDA_ERROR_INVALID_VALUE;
  *map = {static_cast<const unsigned char*>(data),
          {sizes[0], sizes[1], sizes[2]},
          {strides[0], strides[1]},
          {box[0], box[1], box[2]},
          element};
  return CUDA_SUCCESS;
}
