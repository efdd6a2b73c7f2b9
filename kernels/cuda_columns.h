// Sums over rows, column by column, for the gradients of weights: rows are cut into slices, each of which has partial sums
// in the scratch memory, and those are added in order. The cut depends on the shape alone, so no sum depends on timing.
// Included by kernels/*.cu only. Not here: what is added (a Term of the caller).
#pragma once

#include "kernels/cuda_rows.h"

namespace moe::cuda {

// Rows [psum[e], psum[e+1]) belong to expert e; psum = nullptr: all rows to the only one.
struct RowsOfExperts {
  const i64* psum;
  i64 rows;
  __device__ i64 begin(unsigned e) const { return psum ? psum[e] : 0; }
  __device__ i64 end(unsigned e) const { return psum ? psum[e + 1] : rows; }
};

constexpr unsigned kColumnThreads = 256, kFinishColumns = 32;

// A block has `across` packs of columns and kColumnThreads / across rows at a time, of slice s of expert e.
struct ColumnCut {
  unsigned across, tiles, slices, experts;
};
inline ColumnCut cut_columns(i64 rows, i64 packs, i64 experts) {
  constexpr i64 kWantedBlocks = 2048, kMostSlices = 256, kLeastSlices = 4, kRowsPerThread = 8;
  ColumnCut cut{8, 1, 1, static_cast<unsigned>(experts)};
  while (cut.across < kWarp && cut.across < packs) cut.across *= 2;
  cut.tiles = blocks_for(packs, cut.across);
  const i64 of_rows = blocks_for(rows, kRowsPerThread * (kColumnThreads / cut.across));
  const i64 wanted = std::clamp(kWantedBlocks / (i64{cut.tiles} * experts), kLeastSlices, kMostSlices);
  cut.slices = static_cast<unsigned>(std::max<i64>(1, std::min(of_rows, wanted)));
  return cut;
}

// partial[e][s][j] (=) the sum over the slice's rows r of term(r, j): term(r, j, v) sets v to kN columns from j.
template <int kN, class Term>
__global__ void __launch_bounds__(kColumnThreads, 1)
    column_sums_kernel(Term term, RowsOfExperts experts, i64 cols, ColumnCut cut, float* partial) {
  __shared__ float of_thread[kColumnThreads * kN];
  const unsigned tile = blockIdx.x % cut.tiles, slice = blockIdx.x / cut.tiles % cut.slices;
  const unsigned e = blockIdx.x / cut.tiles / cut.slices;
  const unsigned lane = threadIdx.x & (cut.across - 1), first = threadIdx.x / cut.across;
  const unsigned step = kColumnThreads / cut.across;
  const i64 column = (i64{tile} * cut.across + lane) * kN;
  const i64 begin = experts.begin(e), n = experts.end(e) - begin;
  const i64 end = begin + n * (slice + 1) / cut.slices;
  float total[kN] = {};
  if (column < cols) {
#pragma unroll 4
    for (i64 r = begin + n * slice / cut.slices + first; r < end; r += step) {
      float v[kN];
      term(r, column, v);
#pragma unroll
      for (int i = 0; i < kN; ++i) total[i] += v[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kN; ++i) of_thread[(first * cut.across + lane) * kN + i] = total[i];
  __syncthreads();
  for (unsigned j = threadIdx.x; j < cut.across * kN; j += kColumnThreads) {
    const i64 at = i64{tile} * cut.across * kN + j;
    float sum = 0;
    for (unsigned r = 0; r < step; ++r) sum += of_thread[r * cut.across * kN + j];
    if (at < cols) partial[(i64{e} * cut.slices + slice) * cols + at] = sum;
  }
}

// to[e][j] += the sum over slices of partial[e][s][j]. An expert without rows keeps its bits.
static __global__ void __launch_bounds__(kColumnThreads, 1)
    add_slices_kernel(const float* partial, RowsOfExperts experts, i64 cols, unsigned tiles, unsigned slices, float* to) {
  constexpr unsigned kLanes = kColumnThreads / kFinishColumns;
  __shared__ float of_lane[kLanes][kFinishColumns];
  const unsigned e = blockIdx.x / tiles, x = threadIdx.x % kFinishColumns, lane = threadIdx.x / kFinishColumns;
  const i64 j = i64{blockIdx.x % tiles} * kFinishColumns + x;
  float sum = 0;
  if (j < cols) {
#pragma unroll 4
    for (unsigned s = lane; s < slices; s += kLanes) sum += partial[(i64{e} * slices + s) * cols + j];
  }
  of_lane[lane][x] = sum;
  __syncthreads();
  if (lane > 0 || j >= cols || experts.begin(e) == experts.end(e)) return;
  for (unsigned i = 1; i < kLanes; ++i) sum += of_lane[i][x];
  to[e * cols + j] += sum;
}

// to[e][j] += the sum over the expert's rows r of term(r, j), for experts.rows rows in all.
template <int kN, class Term>
void add_columns(Queue& q, Term term, RowsOfExperts experts, i64 num_experts, i64 cols, float* to) {
  if (experts.rows == 0 || num_experts == 0 || cols == 0) return;
  const ColumnCut cut = cut_columns(experts.rows, cols / kN, num_experts);
  float* const partial = q.scratch_of<float>(num_experts * cut.slices * cols);
  launch(q, column_sums_kernel<kN, Term>, dim3(cut.tiles * cut.slices * cut.experts), kColumnThreads, 0, term, experts, cols,
         cut, partial);
  const unsigned tiles = blocks_for(cols, kFinishColumns);
  launch(q, add_slices_kernel, dim3(tiles * cut.experts), kColumnThreads, 0, static_cast<const float*>(partial), experts,
         cols, tiles, cut.slices, to);
}

}  // namespace moe::cuda
