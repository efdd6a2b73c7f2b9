// Products of experts on Hopper's matrix units, all three directions in one kernel. As many blocks as multiprocessors take
// tiles of 128 x 256 of D from a counter, so that experts of any sizes, which the host never learns, keep all of them busy.
// In a block one thread asks for boxes of both operands, kStages slots of 64 of the inner dimension ahead; two warpgroups
// multiply 64 rows of the tile each, and give a slot back when the product after it is on its way. Sums are in fp32, in the
// order of the inner dimension: which block takes a tile changes nothing.
// How operands lie in a slot (cuda_hopper.h): rows of activations that are summed over their columns are K-major; what is
// summed over its rows (weights in backward_input, both operands of the weights' gradient) is MN-major, 64 columns a box.
// Not here: other dtypes and what copies cannot reach (grouped_gemm_plain.cu).
#include "kernels/cuda_gemm.h"
#include "kernels/cuda_hopper.h"

namespace moe::cuda {
namespace {

constexpr int kTileRows = 128, kTileCols = 256, kDepth = 64, kStages = 4;
constexpr unsigned kConsumers = 256, kThreads = kConsumers + 128;
constexpr unsigned kLeftBytes = box_bytes(kTileRows), kRightBytes = box_bytes(kTileCols), kBoxBytes = box_bytes(kDepth);
constexpr unsigned kSlotBytes = kLeftBytes + kRightBytes;
// A warp's 16 rows of half a tile in bf16; 16 bytes more a row, so that rows meet in no bank.
constexpr int kHalfCols = kTileCols / 2;
constexpr unsigned kStagedRowBytes = kHalfCols * 2 + 16, kStagedBytes = 16 * kStagedRowBytes;

// A tile as the producer tells it to the consumers, with its first slot.
struct Tile {
  i64 row;         // of D
  int rows;        // of the tile that are D's, 1 .. kTileRows
  int col;         // of D
  int num_blocks;  // of kDepth of the inner dimension; 0: there are no more tiles
  int last_block;  // how much of the last block is the expert's (the weights' gradient)
};

struct Shared {
  unsigned char slots[kStages][kSlotBytes];
  unsigned char staged[kConsumers / kWarp][kStagedBytes];
  Barrier full[kStages], empty[kStages];
  Tile tiles[kStages];
};
static_assert(sizeof(Shared) <= 227 * 1024);

struct Args {
  TileWalk walk;
  i64 inner;        // kForward, kBackwardInput
  i64 weight_rows;  // kBackwardWeight: rows of D_e
  void* d;
  i64 d_stride, d_cols;
  bool add, wide;       // wide: D can be written 16 bytes (bf16) or 8 (fp32) at once
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

template <Direction kD>
__device__ Tile tile_at(const Args& a, const TileWalk& walk, i64 tile) {
  const i64 in_expert = tile - walk.before, row = in_expert / walk.across * kTileRows;
  const i64 size = walk.size(), inner = kD == Direction::kBackwardWeight ? size : a.inner;
  const i64 rows = (kD == Direction::kBackwardWeight ? a.weight_rows : size) - row;
  const i64 begin = kD == Direction::kBackwardWeight ? walk.expert * a.weight_rows : walk.first_row();
  const i64 blocks = (inner + kDepth - 1) / kDepth;
  return {begin + row, static_cast<int>(rows < kTileRows ? rows : kTileRows),
          static_cast<int>(in_expert % walk.across * kTileCols), static_cast<int>(blocks),
          static_cast<int>(inner - (blocks - 1) * kDepth)};
}

// The boxes of one block of the inner dimension, which begins at k.
template <Direction kD>
__device__ void load_slot(unsigned char* slot, Barrier* full, const TensorMap& left, const TensorMap& right, const Tile& t,
                          const TileWalk& walk, const Args& a, i64 k) {
  unsigned char* const to_right = slot + kLeftBytes;
  if (kD == Direction::kBackwardWeight) {
    const i64 row = walk.first_row() + k, col = t.row - walk.expert * a.weight_rows;
    for (int i = 0; i < kTileRows / 64; ++i) load_box(slot + i * kBoxBytes, left, full, col + 64 * i, row, 0);
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
  Slot slot;
  i64 tile = blockIdx.x;
  while (walk.seek(tile)) {
    const i64 next = gridDim.x + atomicAdd(a.next_tile, 1u);  // known by the time that it is needed
    const Tile t = tile_at<kD>(a, walk, tile);
    for (int block = 0; block < t.num_blocks; ++block, slot.advance()) {
      barrier_wait(&s.empty[slot.index], slot.parity ^ 1);
      if (block == 0) s.tiles[slot.index] = t;
      barrier_expect(&s.full[slot.index], kSlotBytes);
      load_slot<kD>(s.slots[slot.index], &s.full[slot.index], left, right, t, walk, a, i64{block} * kDepth);
    }
    tile = next;
  }
  barrier_wait(&s.empty[slot.index], slot.parity ^ 1);
  s.tiles[slot.index].num_blocks = 0;
  barrier_arrive(&s.full[slot.index]);
}

// ---- The consumers

// Rows [valid, kDepth) of every box of a slot become zeros: they are of the next expert.
__device__ void zero_rows(unsigned char* slot, int valid) {
  const unsigned pieces = static_cast<unsigned>(kDepth - valid) * (kBoxRowBytes / 16);
  for (unsigned i = threadIdx.x; i < pieces * (kSlotBytes / kBoxBytes); i += kConsumers)
    *reinterpret_cast<uint4*>(slot + i / pieces * kBoxBytes + box_bytes(static_cast<unsigned>(valid)) + i % pieces * 16) =
        make_uint4(0, 0, 0, 0);
  fence_shared_writes();
  sync_threads_of(1, kConsumers);
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
__device__ void wait_for_slot(Shared& s, const Slot& slot, const Tile& t, int block) {
  barrier_wait(&s.full[slot.index], slot.parity);
  if (kD == Direction::kBackwardWeight && block == t.num_blocks - 1 && t.last_block < kDepth)
    zero_rows(s.slots[slot.index], t.last_block);
}
__device__ void give_back(Shared& s, unsigned slot) {
  if (threadIdx.x % kWarp == 0) barrier_arrive(&s.empty[slot]);
}

// d += the warpgroup's 64 rows of the tile. A slot is given back when the product after it was begun.
template <Direction kD>
__device__ void multiply_tile(float (&d)[kTileCols / 2], Shared& s, Slot& slot, const Tile& t, unsigned group) {
  unsigned before = 0;
  for (int block = 0; block < t.num_blocks; ++block, slot.advance()) {
    wait_for_slot<kD>(s, slot, t, block);
    multiply_slot<kD>(d, s.slots[slot.index], group);
    products_wait<1>(d);
    if (block > 0) give_back(s, before);
    before = slot.index;
  }
  products_wait<0>(d);
  give_back(s, before);
}
// Nothing of the tile is this warpgroup's.
template <Direction kD>
__device__ void skip_tile(Shared& s, Slot& slot, const Tile& t) {
  for (int block = 0; block < t.num_blocks; ++block, slot.advance()) {
    wait_for_slot<kD>(s, slot, t, block);
    give_back(s, slot.index);
  }
}

// ---- D is written: registers as cuda_hopper.h says; rows of this warp begin at row0 and `rows` of them are D's.

template <class T>
__device__ void put_one(T* to, float v, bool add) {
  put(to, add ? to_f32(*to) + v : v);
}

// Any alignment.
template <class T>
__device__ void put_slowly(const float (&d)[kTileCols / 2], const Args& a, i64 row0, int rows, int col) {
  const int lane = threadIdx.x % kWarp;
  T* const to = static_cast<T*>(a.d);
#pragma unroll
  for (int i = 0; i < kTileCols / 2; ++i) {
    const int r = lane / 4 + 8 * (i / 2 % 2), c = col + i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (r < rows && c < a.d_cols) put_one(to + (row0 + r) * a.d_stride + c, d[i], a.add);
  }
}

// Two floats a thread: a row's four threads fill 32 bytes. What is added to is read kBatch rows' pieces ahead.
__device__ void put_tile(float*, const float (&d)[kTileCols / 2], const Args& a, unsigned char*, i64 row0, int rows,
                         int col) {
  constexpr int kPairs = kTileCols / 4, kBatch = 16;
  const int lane = threadIdx.x % kWarp;
  float* const to = static_cast<float*>(a.d) + (row0 + lane / 4) * a.d_stride + col + lane % 4 * 2;
  const auto place = [&](int i) { return reinterpret_cast<float2*>(to + i % 2 * 8 * a.d_stride + i / 2 * 8); };
  const auto inside = [&](int i) { return lane / 4 + i % 2 * 8 < rows && col + i / 2 * 8 + lane % 4 * 2 < a.d_cols; };
  float2 old[2][kBatch];
  const auto read = [&](int batch) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      old[batch % 2][i] = a.add && inside(batch * kBatch + i) ? *place(batch * kBatch + i) : make_float2(0, 0);
  };
  read(0);
#pragma unroll
  for (int batch = 0; batch < kPairs / kBatch; ++batch) {
    if (batch + 1 < kPairs / kBatch) read(batch + 1);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int pair = batch * kBatch + i;
      const float2 v = old[batch % 2][i];
      if (inside(pair)) *place(pair) = make_float2(v.x + d[2 * pair], v.y + d[2 * pair + 1]);
    }
  }
}

// 16 bytes of a row of D from or to the staged half, two rows of 128 columns at a time.
template <class F>
__device__ void for_pieces(const Args& a, unsigned char* staged, i64 row0, int rows, int col, const F& f) {
  const int lane = threadIdx.x % kWarp, c = col + lane % 16 * 8;
#pragma unroll
  for (int r = lane / 16; r < 16; r += 2)
    if (r < rows && c < a.d_cols)
      f(reinterpret_cast<uint4*>(static_cast<BF16*>(a.d) + (row0 + r) * a.d_stride + c),
        reinterpret_cast<uint4*>(staged + r * kStagedRowBytes + lane % 16 * 16));
  __syncwarp();
}
__device__ unsigned add_pair(unsigned old, float low, float high) {
  return pack_bf16(__uint_as_float(old << 16) + low, __uint_as_float(old & 0xffff0000u) + high);
}

// bf16: half a tile after the other through shared memory, so that rows are written in whole lines.
__device__ void put_tile(BF16*, const float (&d)[kTileCols / 2], const Args& a, unsigned char* staged, i64 row0, int rows,
                         int col) {
  const int lane = threadIdx.x % kWarp;
  unsigned char* const mine = staged + lane / 4 * kStagedRowBytes + lane % 4 * 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int from = col + half * kHalfCols;
    if (a.add) for_pieces(a, staged, row0, rows, from, [](const uint4* global, uint4* shared) { *shared = *global; });
#pragma unroll
    for (int i = 0; i < kHalfCols / 4; ++i) {
      unsigned* const at = reinterpret_cast<unsigned*>(mine + i % 2 * 8 * kStagedRowBytes + i / 2 * 16);
      const float low = d[half * kHalfCols / 2 + 2 * i], high = d[half * kHalfCols / 2 + 2 * i + 1];
      *at = a.add ? add_pair(*at, low, high) : pack_bf16(low, high);
    }
    __syncwarp();
    for_pieces(a, staged, row0, rows, from, [](uint4* global, const uint4* shared) { *global = *shared; });
  }
}

// The old values of a tile of the weights' gradient will be wanted at its end.
__device__ void prefetch_tile(const Args& a, const Tile& t) {
  constexpr int kLine = 32, kLines = kTileCols / kLine;
  for (int i = threadIdx.x; i < kTileRows * kLines; i += kConsumers)
    if (i / kLines < t.rows && t.col + i % kLines * kLine < a.d_cols)
      prefetch_l2(static_cast<float*>(a.d) + (t.row + i / kLines) * a.d_stride + t.col + i % kLines * kLine);
}

template <Direction kD, class T>
__device__ void consume(Shared& s, const Args& a) {
  const unsigned warp = __shfl_sync(0xffffffffu, threadIdx.x / kWarp, 0), group = warp / 4;
  for (Slot slot;;) {
    barrier_wait(&s.full[slot.index], slot.parity);
    Tile t = s.tiles[slot.index];
    t.num_blocks = __shfl_sync(0xffffffffu, t.num_blocks, 0);
    t.rows = __shfl_sync(0xffffffffu, t.rows, 0);
    if (t.num_blocks == 0) return;
    if (kD == Direction::kBackwardWeight) prefetch_tile(a, t);
    if (t.rows <= static_cast<int>(group) * 64) {
      skip_tile<kD>(s, slot, t);
      continue;
    }
    float d[kTileCols / 2] = {};  // a first product that does not add makes ptxas wait after each product (C7520)
    multiply_tile<kD>(d, s, slot, t, group);
    const int first = static_cast<int>(warp) * 16, rows = t.rows - first;
    if (a.wide)
      put_tile(static_cast<T*>(nullptr), d, a, s.staged[warp], t.row + first, rows, t.col);
    else
      put_slowly<T>(d, a, t.row + first, rows, t.col);
  }
}

template <Direction kD, class T>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_kernel(const __grid_constant__ TensorMap left, const __grid_constant__ TensorMap right, Args a) {
  Shared& s = *shared_of<Shared>();
  if (threadIdx.x == 0) {
    prefetch_map(left);
    prefetch_map(right);
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&s.full[i], 1);
      barrier_init(&s.empty[i], kConsumers / kWarp);
    }
    barrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x >= kConsumers) {
    leave_registers<40>();
    if (threadIdx.x == kConsumers) produce<kD>(s, left, right, a);
  } else {
    take_registers<232>();
    consume<kD, T>(s, a);
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
  const bool wide = sizeof(T) == 2
                        ? aligned16(d, p.result.stride) && p.result.cols % 8 == 0
                        : reinterpret_cast<std::uintptr_t>(d) % 8 == 0 && p.result.stride % 2 == 0 && p.result.cols % 2 == 0;
  const Args args = {.walk = walk_of(p, kTileRows, kTileCols),
                     .inner = p.rows.cols,
                     .weight_rows = p.rows.cols,
                     .d = p.result.data,
                     .d_stride = p.result.stride,
                     .d_cols = p.result.cols,
                     .add = p.add,
                     .wide = wide,
                     .next_tile = next_tile};
  launch(queue, hopper_kernel<kD, T>, static_cast<unsigned>(blocks), kThreads, sizeof(Shared), left, right, args);
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
