// Fibers: made by ucontext, switched by _setjmp and _longjmp, which change no signal masks. A fiber that waits lets the next
// one run; when all that are left wait and nothing moves, the block is stuck, and says so.
#include "tests/cuda_on_host/fibers.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <vector>

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace cuda_on_host {

thread_local unsigned thread_in_block = 0;

namespace {

constexpr std::size_t kStackBytes = 256 * 1024, kSharedBytes = 227 * 1024, kSharedAlign = 1024;

struct Fiber {
  uint3 thread{};
  unsigned linear = 0;
  jmp_buf at;
  bool started = false, done = false;
  const char* waits_for = nullptr;
  unsigned char* stack = nullptr;
};

struct Barrier {
  unsigned arrived = 0, generation = 0;
};
struct WarpExchange {
  unsigned arrived = 0, generation = 0;
  std::vector<unsigned char> slots[2];  // taken in turns: nobody is two exchanges ahead
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<unsigned char*> stacks;
  std::map<unsigned, Barrier> barriers;
  std::map<std::pair<unsigned, unsigned>, WarpExchange> exchanges;  // by first warp and mask, or number of warps
  std::vector<unsigned char> shared;
  unsigned alive = 0;
  std::size_t number = 0;    // of blocks so far
  std::size_t launch = 0;    // of grids so far
  std::size_t progress = 0;  // changes whenever some fiber got on
  jmp_buf scheduler;
  ucontext_t scheduler_context;
  const std::function<void()>* body = nullptr;
  std::exception_ptr failure;

  unsigned char* shared_begin() {
    const auto at = reinterpret_cast<std::uintptr_t>(shared.data());
    return shared.data() + ((at + kSharedAlign - 1) / kSharedAlign * kSharedAlign - at);
  }
};
thread_local Block* block = nullptr;
thread_local Fiber* running = nullptr;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "CUDA on the host: %s: block (%u, %u, %u), thread %u of %u; %u threads alive\n", what, blockIdx.x,
               blockIdx.y, blockIdx.z, running ? running->linear : 0, blockDim.x, block->alive);
  std::abort();
}

void yield() {
  if (_setjmp(running->at) == 0) _longjmp(block->scheduler, 1);
}

void enter() {
  try {
    (*block->body)();
  } catch (...) {
    block->failure = std::current_exception();
  }
  running->done = true;
  --block->alive;
  ++block->progress;
  _longjmp(block->scheduler, 1);
}

void start(Fiber& fiber) {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
  fiber.started = true;
  swapcontext(&block->scheduler_context, &context);
}

void step(Fiber& fiber) {
  running = &fiber;
  threadIdx = fiber.thread;
  thread_in_block = fiber.linear;
  if (_setjmp(block->scheduler) == 0) {
    if (fiber.started)
      _longjmp(fiber.at, 1);
    else
      start(fiber);
  }
  running = nullptr;
}

void stuck() {
  for (Fiber& f : block->fibers)
    if (!f.done) {
      running = &f;
      fail(f.waits_for ? f.waits_for : "stuck");
    }
}

void run_block(bool rising) {
  while (block->alive > 0) {
    const std::size_t before = block->progress;
    const std::size_t n = block->fibers.size();
    for (std::size_t i = 0; i < n; ++i)
      if (Fiber& f = block->fibers[rising ? i : n - 1 - i]; !f.done) step(f);
    if (block->failure) std::rethrow_exception(block->failure);
    if (block->progress == before && block->alive > 0) stuck();
  }
}

unsigned char* new_stack() {
  void* p = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) std::abort();
  return static_cast<unsigned char*>(p);
}

// Kept between launches: stacks are dear.
Block& kept_block() {
  static thread_local std::unique_ptr<Block> kept = std::make_unique<Block>();
  return *kept;
}

const unsigned char* exchange_of(std::pair<unsigned, unsigned> key, unsigned slot, unsigned num_slots, unsigned count,
                                 const void* mine, std::size_t bytes, const char* what) {
  WarpExchange& e = block->exchanges[key];
  const unsigned generation = e.generation;
  auto& slots = e.slots[generation % 2];
  slots.resize(num_slots * kExchangeBytes);
  if (bytes > 0) std::memcpy(&slots[slot * kExchangeBytes], mine, bytes);
  ++block->progress;
  if (++e.arrived == count) {
    e.arrived = 0;
    ++e.generation;
  } else {
    wait_until([&] { return e.generation != generation; }, what);
  }
  return slots.data();
}

}  // namespace

void wait_until(const std::function<bool()>& done, const char* what) {
  Fiber* const self = running;
  self->waits_for = what;
  while (!done()) yield();
  self->waits_for = nullptr;
  ++block->progress;
}

void progressed() { ++block->progress; }
std::size_t block_number() { return block->number; }
bool comes_at_once() {
  static thread_local unsigned asked = 0;
  const std::size_t pace = (block->launch / 2 + blockIdx.x) % 3;
  return pace == 0 || (pace == 1 && (++asked * 2654435761u >> 15 & 1u) != 0);
}
unsigned num_alive() { return block->alive; }

void barrier(unsigned key, unsigned count, const char* what) {
  Barrier& b = block->barriers[key];
  const unsigned generation = b.generation;
  ++b.arrived;
  ++block->progress;
  // Threads that have ended count no more; the last of them may end while others wait.
  const auto complete = [&] {
    if (b.generation != generation) return true;
    if (b.arrived < (count > 0 ? count : block->alive)) return false;
    b.arrived = 0;
    ++b.generation;
    return true;
  };
  wait_until(complete, what);
}

void barrier_without_waiting(unsigned key, unsigned count) {
  Barrier& b = block->barriers[key];
  ++block->progress;
  if (++b.arrived < count) return;
  b.arrived = 0;
  ++b.generation;
}

const unsigned char* exchange(unsigned mask, const void* mine, std::size_t bytes) {
  const unsigned lane = running->linear % 32, warp = running->linear / 32;
  if (!(mask >> lane & 1u)) fail("a warp operation whose mask does not name the calling lane");
  return exchange_of({warp, mask}, lane, 32, static_cast<unsigned>(__builtin_popcount(mask)), mine, bytes,
                     "a warp operation that not all lanes of its mask reach");
}

const unsigned char* exchange_warps(unsigned num_warps, const void* mine, std::size_t bytes) {
  const unsigned per_group = 32 * num_warps, thread = running->linear;
  return exchange_of({1024 + thread / per_group, num_warps}, thread % per_group, per_group, per_group, mine, bytes,
                     "an operation of a warpgroup that not all of its threads reach");
}

unsigned char* shared_bytes() { return block->shared_begin(); }

void run_grid(dim3 grid, dim3 size, std::size_t shared, const std::function<void()>& body) {
  Block* const outer = block;
  block = &kept_block();
  if (outer == block) std::abort();  // a kernel cannot start kernels
  if (shared > kSharedBytes) fail("more shared memory than a multiprocessor has");
  const unsigned n = size.x * size.y * size.z;
  if (n == 0 || n > 1024) fail("a block must have 1 to 1024 threads");
  while (block->stacks.size() < n) block->stacks.push_back(new_stack());
  blockDim = size, gridDim = grid;
  block->body = &body;
  const bool rising = ++block->launch % 2 == 1;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        block->barriers.clear();
        block->exchanges.clear();
        block->shared.assign(shared + kSharedAlign, 0xff);  // with nothing behind what was asked for
        block->fibers.assign(n, Fiber{});
        block->alive = n;
        ++block->number;
        blockIdx = {x, y, z};
        for (unsigned i = 0; i < n; ++i) {
          Fiber& f = block->fibers[i];
          f.stack = block->stacks[i];
          f.thread = {i % size.x, i / size.x % size.y, i / size.x / size.y};
          f.linear = i;
        }
        run_block(rising);
      }
  block = outer;
}

}  // namespace cuda_on_host
