// Products of experts on Hopper's matrix units, all three directions in one kernel. As many blocks as multiprocessors take
// tiles of 128 x 256 of D from a counter, so that experts of any sizes, which the host never learns, keep all of them busy.
// In a block one thread asks for boxes of both operands, kStages slots of 64 of the inner dimension ahead; two warpgroups
// multiply 64 rows of the tile each, and give a slot back when the product after it is on its way; each stores its rows
// while the other multiplies (cuda_gemm_store.h). Sums are in fp32, in the order of the inner dimension: which block takes a
// tile changes nothing.
// How operands lie in a slot (cuda_hopper.h): rows of activations that are summed over their columns are K-major; what is
// summed over its rows (weights in backward_input, both operands of the weights' gradient) is MN-major, 64 columns a box.
// Not here: other dtypes and what copies cannot reach (grouped_gemm_plain.cu).
#include "kernels/cuda_gemm.h"
#include "kernels/cuda_gemm_store.h"
#include "kernels/cuda_hopper.h"

namespace moe::cuda {
namespace {

constexpr int kTileRows = 2 * kGroupRows, kDepth = 64, kStages = 4;
constexpr unsigned kConsumers = 2 * kGroupThreads, kThreads = kConsumers + kGroupThreads;
constexpr unsigned kLeftBytes = box_bytes(kTileRows), kRightBytes = box_bytes(kTileCols), kBoxBytes = box_bytes(kDepth);
constexpr unsigned kSlotBytes = kLeftBytes + kRightBytes;
constexpr int kMostOrdered = 512;

// A tile as the producer tells it to the consumers, with its first slot.
struct Tile {
  i64 row;         // of D's group
  int group;       // of D: the expert (the weights' gradient), or 0
  int rows;        // of the tile that are the expert's, 1 .. kTileRows
  int col;         // of D
  int num_blocks;  // of kDepth of the inner dimension; 0: there are no more tiles
  int last_block;  // how much of the last block is the expert's (the weights' gradient)
};

struct Shared {
  alignas(1024) unsigned char slots[kStages][kSlotBytes];
  StagedBox staged[kStagedBoxes];
  Barrier full[kStages], empty[kStages], turn_over[2];
  Tile tiles[kStages];
  std::uint16_t order[kMostOrdered];
};
static_assert(sizeof(Shared) <= 227 * 1024);

struct Args {
  TileWalk walk;
  i64 inner;        // kForward, kBackwardInput
  i64 weight_rows;  // kBackwardWeight: rows of D_e
  Destination d;
  unsigned* next_tile;  // beyond the first of each block
};

// The slot that comes next, and the parity of its phase.
struct Slot {
  unsigned index = 0, parity = 0;
  __device__ void advance() {
    if (++index < kStages) return;
    index = 0;
    parity ^= 1;
  }
};

// ---- The producer

// A tile of the weights' gradient takes the longer the more rows its expert has: the longest come first, or some blocks
// would begin one when the others end. (Tiles of rows are all the same.)
__device__ void order_by_size(std::uint16_t (&order)[kMostOrdered], const TileWalk& walk) {
  for (int e = threadIdx.x; e < walk.experts; e += kThreads) {
    const i64 size = walk.size_of(e);
    int before = 0;
#pragma unroll 8
    for (int other = 0; other < walk.experts; ++other) {
      const i64 n = walk.size_of(other);
      before += n > size || (n == size && other < e) ? 1 : 0;
    }
    order[before] = static_cast<std::uint16_t>(e);
  }
}

template <Direction kD>
__device__ bool is_ordered(const Args& a) {
  return kD == Direction::kBackwardWeight && a.walk.experts <= kMostOrdered;
}

template <Direction kD>
__device__ Tile tile_at(const Args& a, const TileWalk& walk, i64 tile) {
  const i64 in_expert = tile - walk.before, row = in_expert / walk.across * kTileRows;
  const i64 size = walk.size(), inner = kD == Direction::kBackwardWeight ? size : a.inner;
  const i64 rows = (kD == Direction::kBackwardWeight ? a.weight_rows : size) - row;
  const i64 blocks = (inner + kDepth - 1) / kDepth;
  return {kD == Direction::kBackwardWeight ? row : walk.first_row() + row,
          kD == Direction::kBackwardWeight ? walk.expert : 0,
          static_cast<int>(rows < kTileRows ? rows : kTileRows),
          static_cast<int>(in_expert % walk.across * kTileCols),
          static_cast<int>(blocks),
          static_cast<int>(inner - (blocks - 1) * kDepth)};
}

// The boxes of one block of the inner dimension, which begins at k.
template <Direction kD>
__device__ void load_slot(unsigned char* slot, Barrier* full, const TensorMap& left, const TensorMap& right, const Tile& t,
                          const TileWalk& walk, i64 k) {
  unsigned char* const to_right = slot + kLeftBytes;
  if (kD == Direction::kBackwardWeight) {
    const i64 row = walk.first_row() + k;
    for (int i = 0; i < kTileRows / 64; ++i) load_box(slot + i * kBoxBytes, left, full, t.row + 64 * i, row, 0);
    for (int i = 0; i < kTileCols / 64; ++i) load_box(to_right + i * kBoxBytes, right, full, t.col + 64 * i, row, 0);
    return;
  }
  load_box(slot, left, full, k, t.row, 0);
  if (kD == Direction::kForward)
    load_box(to_right, right, full, k, t.col, walk.expert);
  else
    for (int i = 0; i < kTileCols / 64; ++i) load_box(to_right + i * kBoxBytes, right, full, t.col + 64 * i, k, walk.expert);
}

template <Direction kD>
__device__ void produce(Shared& s, const TensorMap& left, const TensorMap& right, const Args& a) {
  TileWalk walk = a.walk;
  if (is_ordered<kD>(a)) walk.order = s.order;
  Slot slot;
  i64 tile = blockIdx.x;
  while (walk.seek(tile)) {
    const i64 next = gridDim.x + atomicAdd(a.next_tile, 1u);  // known by the time that it is needed
    const Tile t = tile_at<kD>(a, walk, tile);
#pragma unroll 1  // in 40 registers
    for (int block = 0; block < t.num_blocks; ++block, slot.advance()) {
      barrier_wait(&s.empty[slot.index], slot.parity ^ 1);
      if (block == 0) s.tiles[slot.index] = t;
      barrier_expect(&s.full[slot.index], kSlotBytes);
      load_slot<kD>(s.slots[slot.index], &s.full[slot.index], left, right, t, walk, i64{block} * kDepth);
    }
    tile = next;
  }
  barrier_wait(&s.empty[slot.index], slot.parity ^ 1);
  s.tiles[slot.index].num_blocks = 0;
  barrier_arrive(&s.full[slot.index]);
}

// ---- The consumers

// Rows [valid, kDepth) of the boxes that this warpgroup multiplies become zeros: they are of the next expert. The right ones
// get them from both, so that neither waits for the other.
__device__ void zero_rows(unsigned char* slot, int valid, unsigned group) {
  const unsigned pieces = static_cast<unsigned>(kDepth - valid) * (kBoxRowBytes / 16);
  for (unsigned i = threadIdx.x % kGroupThreads; i < pieces * (1 + kTileCols / 64); i += kGroupThreads) {
    const unsigned box = i < pieces ? group : i / pieces + 1;
    *reinterpret_cast<uint4*>(slot + box * kBoxBytes + box_bytes(static_cast<unsigned>(valid)) + i % pieces * 16) =
        make_uint4(0, 0, 0, 0);
  }
  fence_shared_writes();
  sync_group();
}

template <Direction kD>
__device__ void multiply_slot(float (&d)[kTileCols / 2], const unsigned char* slot, unsigned group) {
  constexpr int kLeftMn = kD == Direction::kBackwardWeight, kRightMn = kD != Direction::kForward;
  constexpr unsigned kLeftStep = kLeftMn ? 16 * kBoxRowBytes : 32, kRightStep = kRightMn ? 16 * kBoxRowBytes : 32;
  const unsigned char* const at = slot + group * kBoxBytes;  // 64 rows, or one box
  const std::uint64_t left = kLeftMn ? mn_major(at, kDepth) : k_major(at);
  const std::uint64_t right = kRightMn ? mn_major(slot + kLeftBytes, kDepth) : k_major(slot + kLeftBytes);
  products_begin();
#pragma unroll
  for (unsigned i = 0; i < kDepth / 16; ++i)
    product<kLeftMn, kRightMn>(d, operand_at(left, i * kLeftStep), operand_at(right, i * kRightStep), 1);
  products_commit();
}

// Waits for a slot, with zeros behind the expert's last row.
template <Direction kD>
__device__ void wait_for_slot(Shared& s, const Slot& slot, const Tile& t, int block, unsigned group) {
  barrier_wait(&s.full[slot.index], slot.parity);
  if (kD == Direction::kBackwardWeight && block == t.num_blocks - 1 && t.last_block < kDepth)
    zero_rows(s.slots[slot.index], t.last_block, group);
}
__device__ void give_back(Shared& s, unsigned slot) {
  if (threadIdx.x % kWarp == 0) barrier_arrive(&s.empty[slot]);
}

// d += the warpgroup's 64 rows of the tile. A slot is given back when the product after it was begun, and the turn of the
// tile before when the first one was.
template <Direction kD>
__device__ void multiply_tile(Sums& d, Shared& s, Slot& slot, const Tile& t, unsigned group, Turn& turn) {
  unsigned before = 0;
  for (int block = 0; block < t.num_blocks; ++block, slot.advance()) {
    wait_for_slot<kD>(s, slot, t, block, group);
    multiply_slot<kD>(d, s.slots[slot.index], group);
    if (block == 0) turn.pass();
    products_wait<1>(d);
    if (block > 0) give_back(s, before);
    before = slot.index;
  }
  products_wait<0>(d);
  give_back(s, before);
}
// Nothing of the tile is this warpgroup's.
__device__ void skip_tile(Shared& s, Slot& slot, const Tile& t, Turn& turn) {
  turn.pass();
  for (int block = 0; block < t.num_blocks; ++block, slot.advance()) {
    barrier_wait(&s.full[slot.index], slot.parity);
    __syncwarp();  // a slot that is given back may come again before a slower lane has seen it
    give_back(s, slot.index);
  }
  turn.take();
  turn.pass();
}

// The old values of a tile of the weights' gradient will be wanted at its end.
__device__ void prefetch_tile(const Destination& to, const Tile& t) {
  constexpr int kLine = 32, kLines = kTileCols / kLine;
  const float* const d = static_cast<const float*>(to.data) + (t.group * to.group_rows + t.row) * to.stride;
  for (int i = threadIdx.x; i < kTileRows * kLines; i += kConsumers)
    if (i / kLines < t.rows && t.col + i % kLines * kLine < to.cols)
      prefetch_l2(d + i / kLines * to.stride + t.col + i % kLines * kLine);
}

template <Direction kD, class T>
__device__ void consume(Shared& s, const TensorMap& result, const Args& a) {
  const unsigned group = __shfl_sync(0xffffffffu, threadIdx.x / kGroupThreads, 0);
  constexpr bool kWeight = kD == Direction::kBackwardWeight;
  Turn turn(s.turn_over, group);
  for (Slot slot;;) {
    barrier_wait(&s.full[slot.index], slot.parity);
    Tile t = s.tiles[slot.index];
    t.num_blocks = __shfl_sync(0xffffffffu, t.num_blocks, 0);
    t.rows = __shfl_sync(0xffffffffu, t.rows, 0);
    if (t.num_blocks == 0) break;
    if (kWeight) prefetch_tile(a.d, t);
    const int first = static_cast<int>(group) * kGroupRows;
    if (t.rows <= first) {
      skip_tile(s, slot, t, turn);
      continue;
    }
    Sums d = {};  // a first product that does not add makes ptxas wait after each product (C7520)
    multiply_tile<kD>(d, s, slot, t, group, turn);
    turn.take();
    const Place place = {t.row + first, t.group, min(t.rows - first, kGroupRows), t.col};
    store_sums<T>(d, s.staged, result, a.d, place, kWeight);
  }
  turn.pass();
  if (asks_for_stores()) stores_done();
}

template <Direction kD, class T>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_kernel(const __grid_constant__ TensorMap left, const __grid_constant__ TensorMap right,
                  const __grid_constant__ TensorMap result, Args a) {
  Shared& s = *shared_of<Shared>();
  if (threadIdx.x == 0) {
    prefetch_map(left);
    prefetch_map(right);
    prefetch_map(result);
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&s.full[i], 1);
      barrier_init(&s.empty[i], kConsumers / kWarp);
    }
    for (Barrier& b : s.turn_over) barrier_init(&b, kGroupThreads / kWarp);
    barrier_init_done();
  }
  if (is_ordered<kD>(a)) order_by_size(s.order, a.walk);
  __syncthreads();
  if (threadIdx.x >= kConsumers) {
    leave_registers<40>();
    if (threadIdx.x == kConsumers) produce<kD>(s, left, right, a);
  } else {
    take_registers<232>();
    consume<kD, T>(s, result, a);
  }
}

template <Direction kD, class T>
void start(Queue& queue, const GroupedProduct& p) {
  constexpr bool kWeight = kD == Direction::kBackwardWeight;
  const i64 blocks = std::min(most_tiles(p, kTileRows, kTileCols), i64{num_multiprocessors()});
  auto* const next_tile = queue.scratch_of<unsigned>(1);
  check(cudaMemsetAsync(next_tile, 0, sizeof *next_tile, queue.stream), "grouped product");
  const TensorMap left = tensor_map(p.rows, 1, kWeight ? kDepth : kTileRows);
  const TensorMap right = tensor_map(p.other, kWeight ? 1 : p.experts, kD == Direction::kForward ? kTileCols : kDepth);
  const T* const d = static_cast<const T*>(p.result.data);
  const Args args = {.walk = walk_of(p, kTileRows, kTileCols),
                     .inner = p.rows.cols,
                     .weight_rows = p.rows.cols,
                     .d = {.data = p.result.data,
                           .stride = p.result.stride,
                           .cols = p.result.cols,
                           .group_rows = kWeight ? p.rows.cols : 0,
                           .add = p.add,
                           .boxes = takes_boxes(p.result) && (sizeof(T) == sizeof(float) || !p.add),
                           .wide = sizeof(T) == 2 ? aligned16(d, p.result.stride) && p.result.cols % 8 == 0
                                                  : reinterpret_cast<std::uintptr_t>(d) % 8 == 0 &&
                                                        p.result.stride % 2 == 0 && p.result.cols % 2 == 0},
                     .next_tile = next_tile};
  const TensorMap result = args.d.boxes ? tensor_map(p.result, kWeight ? p.experts : 1, kGroupRows) : left;
  launch(queue, hopper_kernel<kD, T>, static_cast<unsigned>(blocks), kThreads, sizeof(Shared), left, right, result, args);
}

}  // namespace

bool fits_hopper(const GroupedProduct& p) { return has_boxes(p.rows) && has_boxes(p.other) && p.result.rows > 0; }

void hopper_product(Queue& queue, const GroupedProduct& p) {
  const bool is_bf16 = p.result.dtype == DType::kBF16;
  if (p.direction == Direction::kBackwardWeight) return start<Direction::kBackwardWeight, float>(queue, p);
  if (p.direction == Direction::kForward)
    return is_bf16 ? start<Direction::kForward, BF16>(queue, p) : start<Direction::kForward, float>(queue, p);
  return is_bf16 ? start<Direction::kBackwardInput, BF16>(queue, p) : start<Direction::kBackwardInput, float>(queue, p);
}

}  // namespace moe::cuda
