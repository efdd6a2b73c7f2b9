// How the sums of a warpgroup of grouped_gemm_hopper.cu, 64 x 256 in its registers, come to D. The tensor cores shall not
// wait for it: boxes are staged in shared memory, one thread asks for their copies to global memory, and the next tile
// begins.
//   - Boxes: where all 64 rows are the expert's own, or the map ends them (the weights' gradient, whose groups of rows are
//     the experts). Columns beyond D are cut by the map. To a sum in fp32 that is added to D the copy itself adds: one
//     addition an element, whose bits do not depend on who comes first; denormals count as zeros there (add_box()).
//   - Predicated: the last rows of an expert, whose box would reach into the rows of the next; what is added to D in bf16;
//     matrices whose rows do not lie on 16 bytes.
// The two warpgroups of a block take turns, the first one first: while one stages, the other has the tensor cores for
// itself, as far as the slots reach; from the second tile on their ends lie apart, and turns are waited for little. A turn
// comes with all of the staging, enough for a warpgroup's part of a tile in bf16 and for half of it in fp32; it is over when
// the copies have read it, which is asked only after the first product of the next tile is on its way.
//
// Shared memory: 4 slots of 48 KB leave 35 KB of 227, four boxes. With 3 slots all of a tile in bf16 could be staged, but
// one slot is multiplied and one given back late, so that a single one would be on its way: the 1024 cycles of a slot's
// products are about the latency of its boxes, with nothing left for what varies.
#pragma once

#include "kernels/cuda_hopper.h"

namespace moe::cuda {

constexpr int kTileCols = 256, kGroupRows = 64, kStagedBoxes = 4;
using StagedBox = unsigned char[box_bytes(kGroupRows)];
using Sums = float[kTileCols / 2];  // of a thread: 64 x 256 of a warpgroup, as cuda_hopper.h says

struct Destination {
  void* data;
  i64 stride, cols, group_rows;  // D is groups of so many rows (the weights' gradient: experts), or one
  bool add, boxes, wide;         // boxes: can be stored; wide: 16 bytes (bf16) or 8 (fp32) can be written at once
};
// Rows row .. row + rows - 1 of a group of D, columns from col.
struct Place {
  i64 row;
  int group, rows, col;

  __device__ i64 d_row(const Destination& to) const { return group * to.group_rows + row; }
};

__device__ inline bool asks_for_stores() { return threadIdx.x % kGroupThreads == 0; }
__device__ inline void sync_group() { sync_threads_of(1 + threadIdx.x / kGroupThreads, kGroupThreads); }

// Whose turn it is to stage. A barrier completes a phase when its warpgroup's turn of one more tile is over; the first
// warpgroup waits for the other's tile before, the second one for the same tile.
struct Turn {
  Barrier *mine, *other;
  unsigned parity;
  bool taken = false;

  __device__ Turn(Barrier (&over)[2], unsigned group) : mine(&over[group]), other(&over[1 - group]), parity(1 - group) {}
  __device__ void take() {
    barrier_wait(other, parity);
    parity ^= 1;
    taken = true;
  }
  // Waits until what was staged is read.
  __device__ void pass() {
    if (!taken) return;
    if (asks_for_stores()) stores_read<0>();
    __syncwarp();
    if (threadIdx.x % kWarp == 0) barrier_arrive(mine);
    taken = false;
  }
};

// ---- A box is staged: columns n * (64 of bf16, 32 of fp32) .. of the sums, as the map's swizzle wants it.

__device__ inline unsigned add_pair(unsigned old, float low, float high) {
  return pack_bf16(__uint_as_float(old << 16) + low, __uint_as_float(old & 0xffff0000u) + high);
}
// The 8 rows of a warp's store lie in all 8 pieces of 16 bytes: no two threads in a bank. Eight rows further the swizzle is
// the same.
__device__ inline void stage_box(BF16*, unsigned char* box, const Sums& d, int n, bool add = false) {
  const unsigned warp = threadIdx.x % kGroupThreads / kWarp, lane = threadIdx.x % kWarp, g = lane / 4;
  const unsigned mine = box_bytes(16 * warp + g) + g * 16 + lane % 4 * 4;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const unsigned piece = static_cast<unsigned>(i) / 2 * 16, below = i % 2 * box_bytes(8);
    unsigned* const at = reinterpret_cast<unsigned*>(box + (mine ^ piece) + below);
    const float low = d[32 * n + 2 * i], high = d[32 * n + 2 * i + 1];
    *at = add ? add_pair(*at, low, high) : pack_bf16(low, high);
  }
}
// Two floats a thread: 16 threads, 4 rows, are stored at a time. Rows of odd number begin with the other half of the box, or
// two of them would meet in every bank.
__device__ inline void stage_box(float*, unsigned char* box, const Sums& d, int n) {
  const unsigned warp = threadIdx.x % kGroupThreads / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const bool odd = g % 2 != 0;
  const unsigned mine = box_bytes(16 * warp + g) + ((g ^ t / 2 ^ (odd ? 4u : 0u)) * 16) + t % 2 * 8;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const unsigned piece = static_cast<unsigned>(i) / 2 * 32, below = i % 2 * box_bytes(8);
    const float2 left = make_float2(d[16 * n + 2 * i], d[16 * n + 2 * i + 1]);
    const float2 right = make_float2(d[16 * n + 2 * i + 8], d[16 * n + 2 * i + 9]);
    *reinterpret_cast<float2*>(box + (mine ^ piece) + below) = odd ? right : left;
    *reinterpret_cast<float2*>(box + (mine ^ piece ^ 64) + below) = odd ? left : right;
  }
}

// Asks for the boxes of all 64 rows; they are on their way when this returns.
template <class T>
__device__ void store_boxes(const Sums& d, StagedBox (&staged)[kStagedBoxes], const TensorMap& map, const Destination& to,
                            const Place& at) {
  constexpr int kCols = kBoxRowBytes / sizeof(T);
#pragma unroll
  for (int n = 0; n < kTileCols / kCols; ++n) {
    const int col = at.col + n * kCols;
    if (col >= to.cols) break;
    if (n >= kStagedBoxes) {
      if (asks_for_stores()) stores_read<kStagedBoxes - 1>();
      sync_group();
    }
    StagedBox& box = staged[n % kStagedBoxes];
    stage_box(static_cast<T*>(nullptr), box, d, n);
    fence_shared_writes();
    sync_group();
    if (!asks_for_stores()) continue;
    if (sizeof(T) == sizeof(float) && to.add)
      add_box(box, map, col, at.row, at.group);
    else
      store_box(box, map, col, at.row, at.group);
    stores_commit();
  }
}

// ---- Predicated. Rows of a warp begin at row0 of D, and `rows` of them are D's.

// Any alignment.
template <class T>
__device__ void put_slowly(const Sums& d, const Destination& to, i64 row0, int rows, int col) {
  const int lane = threadIdx.x % kWarp;
  T* const data = static_cast<T*>(to.data);
#pragma unroll
  for (int i = 0; i < kTileCols / 2; ++i) {
    const int r = lane / 4 + 8 * (i / 2 % 2), c = col + i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (r >= rows || c >= to.cols) continue;
    T* const at = data + (row0 + r) * to.stride + c;
    put(at, to.add ? to_f32(*at) + d[i] : d[i]);
  }
}

// Two floats a thread: a row's four threads fill 32 bytes. What is added to is read kBatch rows' pieces ahead.
__device__ inline void put_rows(float*, const Sums& d, StagedBox*, const Destination& to, i64 row0, int rows, int col) {
  constexpr int kPairs = kTileCols / 4, kBatch = 16;
  const int lane = threadIdx.x % kWarp;
  float* const data = static_cast<float*>(to.data) + (row0 + lane / 4) * to.stride + col + lane % 4 * 2;
  const auto place = [&](int i) { return reinterpret_cast<float2*>(data + i % 2 * 8 * to.stride + i / 2 * 8); };
  const auto inside = [&](int i) { return lane / 4 + i % 2 * 8 < rows && col + i / 2 * 8 + lane % 4 * 2 < to.cols; };
  float2 old[2][kBatch];
  const auto read = [&](int batch) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      old[batch % 2][i] = to.add && inside(batch * kBatch + i) ? *place(batch * kBatch + i) : make_float2(0, 0);
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

// 16 bytes of a row of D from or to the staged boxes of this warp's rows, a row of 256 columns at a time.
template <class F>
__device__ void for_pieces(const Destination& to, StagedBox* staged, i64 row0, int rows, int col, const F& f) {
  const unsigned warp = threadIdx.x % kGroupThreads / kWarp, lane = threadIdx.x % kWarp;
  const i64 c = col + static_cast<int>(lane) * 8;
#pragma unroll 8
  for (int r = 0; r < 16; ++r) {
    const unsigned piece = (lane ^ static_cast<unsigned>(r)) % 8 * 16, row = 16 * warp + static_cast<unsigned>(r);
    if (r < rows && c < to.cols)
      f(reinterpret_cast<uint4*>(static_cast<BF16*>(to.data) + (row0 + r) * to.stride + c),
        reinterpret_cast<uint4*>(staged[lane / 8] + box_bytes(row) + piece));
  }
  __syncwarp();
}

// bf16: through the staged boxes, so that rows are written in whole lines.
__device__ inline void put_rows(BF16* t, const Sums& d, StagedBox* staged, const Destination& to, i64 row0, int rows,
                                int col) {
  if (to.add) for_pieces(to, staged, row0, rows, col, [](const uint4* global, uint4* shared) { *shared = *global; });
#pragma unroll
  for (int n = 0; n < kStagedBoxes; ++n) stage_box(t, staged[n], d, n, to.add);
  __syncwarp();
  for_pieces(to, staged, row0, rows, col, [](uint4* global, const uint4* shared) { *global = *shared; });
}

// The sums of a warpgroup, whose turn it is. clipped: the map ends the rows, too.
template <class T>
__device__ void store_sums(const Sums& d, StagedBox (&staged)[kStagedBoxes], const TensorMap& map, const Destination& to,
                           const Place& at, bool clipped) {
  if (to.boxes && (clipped || at.rows == kGroupRows)) return store_boxes<T>(d, staged, map, to, at);
  const int first = static_cast<int>(threadIdx.x % kGroupThreads / kWarp) * 16;
  if (to.wide)
    put_rows(static_cast<T*>(nullptr), d, staged, to, at.d_row(to) + first, at.rows - first, at.col);
  else
    put_slowly<T>(d, to, at.d_row(to) + first, at.rows - first, at.col);
}

}  // namespace moe::cuda
