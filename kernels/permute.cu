// Rows in the order of their experts on CUDA (kernels.h). The plan is a counting sort in four launches: counts of each
// block's slots, their prefix sums over blocks, then over experts, and a stable scatter, in which every warp owns
// neighbouring slots. The order is that of (expert, slot) however the slots are cut, so nothing depends on the device.
// Gather and combine move 16 bytes a thread and access, several in flight. Not here: rows that go to other ranks.
#include "kernels/cuda_rows.h"

namespace moe::cuda {
namespace {

constexpr unsigned kWarps = 8, kThreads = kWarps * kWarp;
constexpr unsigned kAll = 0xffffffffu;

// ---- The plan. Counters of kMostExperts experts fit a block's shared memory; more experts take several passes.

constexpr int kMostExperts = 4096;
constexpr i64 kMostBlocks = 512, kMostCounts = i64{1} << 22;  // of all blocks and experts
constexpr int kAhead = 4;                                     // chunks of a warp whose experts are loaded at once

// How slots are shared out to warps, and experts [first, first + n) of a pass.
struct Cut {
  const std::int32_t* idx_N;
  i64 num_slots, slots_per_warp;
  int first, n;
};

// One over the lanes: the sum of those up to this one.
template <class T>
__device__ T warp_prefix_sum(T v, unsigned lane) {
  for (unsigned d = 1; d < kWarp; d *= 2) {
    const T before = __shfl_up_sync(kAll, v, d);
    if (lane >= d) v += before;
  }
  return v;
}

// f(slot, expert of the pass) for every slot of this warp in its order, by chunks of one slot a lane; expert n or more:
// of another pass, or no slot.
template <class F>
__device__ void for_slots(const Cut& c, F f) {
  const i64 warp = i64{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  const i64 begin = warp * c.slots_per_warp + threadIdx.x % kWarp, all = c.num_slots;
  const i64 end = (warp + 1) * c.slots_per_warp < all ? (warp + 1) * c.slots_per_warp : all;
  for (i64 slot = begin; slot - threadIdx.x % kWarp < end; slot += kAhead * kWarp) {
    unsigned expert[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a)
      expert[a] = slot + a * kWarp < end ? static_cast<unsigned>(c.idx_N[slot + a * kWarp] - c.first) : ~0u;
#pragma unroll
    for (int a = 0; a < kAhead; ++a) f(slot + a * kWarp, expert[a]);
  }
}

// count_EB (=) how many slots of each expert a block has.
__global__ void count_kernel(Cut c, std::int32_t* count_EB) {
  std::int32_t* const count = shared_of<std::int32_t>();
  for (int e = static_cast<int>(threadIdx.x); e < c.n; e += kThreads) count[e] = 0;
  __syncthreads();
  for_slots(c, [&](i64, unsigned e) {
    if (e < static_cast<unsigned>(c.n)) atomicAdd(count + e, 1);
  });
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < c.n; e += kThreads)
    count_EB[i64{c.first + e} * gridDim.x + blockIdx.x] = count[e];
}

// A warp an expert: count_EB (=) slots of the expert in the blocks before; total_E (=) in all.
__global__ void scan_blocks_kernel(std::int32_t* count_EB, i64 num_experts, i64 num_blocks, std::int32_t* total_E) {
  const i64 e = i64{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  const unsigned lane = threadIdx.x % kWarp;
  if (e >= num_experts) return;
  std::int32_t* const count_B = count_EB + e * num_blocks;
  std::int32_t before = 0;
  for (i64 b = lane; b - lane < num_blocks; b += kWarp) {
    const std::int32_t count = b < num_blocks ? count_B[b] : 0;
    const std::int32_t up_to = warp_prefix_sum(count, lane);
    if (b < num_blocks) count_B[b] = before + up_to - count;
    before += __shfl_sync(kAll, up_to, kWarp - 1);
  }
  if (lane == 0) total_E[e] = before;
}

// One block: psum_rows_E1 (=), with at most `capacity` rows an expert where that is not negative.
__global__ void scan_experts_kernel(const std::int32_t* total_E, i64 num_experts, i64 capacity, i64* psum_rows_E1) {
  __shared__ i64 warp_rows[kWarps];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  i64 before = 0;
  if (threadIdx.x == 0) psum_rows_E1[0] = 0;
  for (i64 e = threadIdx.x; e - threadIdx.x < num_experts; e += kThreads) {
    const i64 total = e < num_experts ? total_E[e] : 0;
    const i64 up_to = warp_prefix_sum(capacity >= 0 && total > capacity ? capacity : total, lane);
    __syncthreads();  // the sums of the round before were read
    if (lane == kWarp - 1) warp_rows[warp] = up_to;
    __syncthreads();
    i64 in_warps_before = 0, in_block = 0;
    for (unsigned w = 0; w < kWarps; ++w) {
      if (w == warp) in_warps_before = in_block;
      in_block += warp_rows[w];
    }
    if (e < num_experts) psum_rows_E1[e + 1] = before + in_warps_before + up_to;
    before += in_block;
  }
}

// A row for every slot: next[warp][e] is the row of the warp's next slot of an expert. Slots of one expert in one chunk are
// ranked by their lanes.
__global__ void scatter_kernel(Cut c, const std::int32_t* before_EB, const i64* psum_rows_E1, bool limited,
                               std::int32_t* slot2row_N, std::int32_t* row2slot_R) {
  std::int32_t *const next = shared_of<std::int32_t>(), *const mine = next + threadIdx.x / kWarp * c.n;
  const unsigned n = static_cast<unsigned>(c.n), lanes_before = (1u << threadIdx.x % kWarp) - 1;
  for (unsigned i = threadIdx.x; i < kWarps * n; i += kThreads) next[i] = 0;
  __syncthreads();
  for_slots(c, [&](i64, unsigned e) {
    if (e < n) atomicAdd(mine + e, 1);
  });
  __syncthreads();
  for (unsigned e = threadIdx.x; e < n; e += kThreads) {
    auto row = static_cast<std::int32_t>(psum_rows_E1[c.first + e]) + before_EB[i64{c.first + e} * gridDim.x + blockIdx.x];
    for (unsigned w = 0; w < kWarps; ++w) {
      const std::int32_t count = next[w * n + e];
      next[w * n + e] = row;
      row += count;
    }
  }
  __syncthreads();
  for_slots(c, [&](i64 slot, unsigned e) {
    const unsigned same = __match_any_sync(kAll, static_cast<int>(e)), before = same & lanes_before;
    const std::int32_t row = e < n ? mine[e] + __popc(before) : 0;
    __syncwarp();
    if (e < n && before == 0) mine[e] += __popc(same);
    __syncwarp();
    if (e >= n) return;
    const bool kept = !limited || row < psum_rows_E1[c.first + static_cast<int>(e) + 1];
    slot2row_N[slot] = kept ? row : -1;
    if (kept) row2slot_R[row] = static_cast<std::int32_t>(slot);
  });
}

std::int64_t plan(Stream& stream, std::span<const std::int32_t> idx_N, int num_experts, std::int64_t capacity,
                  std::int64_t* psum_rows_E1, std::int32_t* slot2row_N, std::int32_t* row2slot_R) {
  const i64 N = static_cast<i64>(idx_N.size()), E = num_experts;
  require(E >= 1, "permute.plan: expected at least one expert");
  require(N < (i64{1} << 31), "permute.plan: expected fewer than 2^31 slots");
  const i64 most_blocks = E * kMostBlocks <= kMostCounts ? kMostBlocks : kMostCounts / E > 0 ? kMostCounts / E : 1;
  const i64 chunks = (N + kThreads * most_blocks - 1) / (kThreads * most_blocks);
  Cut c = {idx_N.data(), N, chunks * kWarp, 0, 0};
  const unsigned blocks = N == 0 ? 0 : blocks_for(N, chunks * kThreads);
  Queue& q = queue_of(stream);
  std::int32_t *const count_EB = q.scratch_of<std::int32_t>(E * (blocks + 1)), *const total_E = count_EB + E * blocks;
  const auto for_passes = [&](auto pass) {
    for (c.first = 0; c.first < E; c.first += c.n)
      c.n = num_experts - c.first < kMostExperts ? num_experts - c.first : kMostExperts, pass();
  };
  const auto bytes = [&](unsigned of_each) { return sizeof(std::int32_t) * of_each * static_cast<std::size_t>(c.n); };
  for_passes([&] { launch(q, count_kernel, blocks, kThreads, bytes(1), c, count_EB); });
  launch(q, scan_blocks_kernel, blocks_for(E, kWarps), kThreads, 0, count_EB, E, i64{blocks}, total_E);
  launch(q, scan_experts_kernel, 1, kThreads, 0, total_E, E, capacity, psum_rows_E1);
  for_passes([&] {
    launch(q, scatter_kernel, blocks, kThreads, bytes(kWarps), c, count_EB, psum_rows_E1, capacity >= 0, slot2row_N,
           row2slot_R);
  });
  return capacity < 0 ? 0 : N - q.read(psum_rows_E1 + E);
}

// ---- Rows. A warp moves one part of a row, kN elements a lane and access.

// to (=) v, by one access; what has the type already keeps its bits.
template <int kN, class A, class B>
__device__ inline void store_as(const Pack<kN, A>& v, B* to) {
  if constexpr (std::is_same_v<A, B>) {
    copy_pack<kN>(v.v, to);
  } else {
    float wide[kN];
    widen(v, wide);
    store_floats(to, wide);
  }
}

// Which row and which part of it this warp has; packs of a row are shared out lane by lane.
struct Place {
  i64 row;
  i64 pack;      // this lane's first
  bool is_last;  // the part that has the elements behind the last whole pack too
};
__device__ inline Place place_of(unsigned parts, int packs_per_lane) {
  const unsigned unit = blockIdx.x * kWarps + threadIdx.x / kWarp, part = unit % parts;
  return {unit / parts, i64{part} * kWarp * packs_per_lane + threadIdx.x % kWarp, part + 1 == parts};
}

template <int kN, class A, class B>
__global__ void gather_kernel(const A* __restrict__ x, i64 x_stride, const std::int32_t* __restrict__ row2slot_R, int top_k,
                              B* __restrict__ rows, i64 rows_stride, i64 num_rows, i64 D, unsigned parts) {
  const Place at = place_of(parts, kAhead);
  if (at.row >= num_rows) return;
  const A* const from = x + i64{row2slot_R[at.row] / top_k} * x_stride;
  B* const to = rows + at.row * rows_stride;
  Pack<kN, A> v[kAhead];
#pragma unroll
  for (int a = 0; a < kAhead; ++a)
    if (const i64 j = (at.pack + a * kWarp) * kN; j + kN <= D) v[a] = load_pack<kN>(from + j);
#pragma unroll
  for (int a = 0; a < kAhead; ++a)
    if (const i64 j = (at.pack + a * kWarp) * kN; j + kN <= D) store_as(v[a], to + j);
  if (kN > 1 && at.is_last)
    for (i64 j = D / kN * kN + threadIdx.x % kWarp; j < D; j += kWarp) store_as(load_pack<1>(from + j), to + j);
}

// kN columns of one token: the rows of kRows neighbouring k are on their way at once, and added in order.
template <int kN, class Y, class X>
__device__ void combine_pack(const Y* __restrict__ y, i64 y_stride, const std::int32_t* __restrict__ row_K, int top_k,
                             X* __restrict__ x, bool add) {
  constexpr int kRows = 8;
  float sum[kN] = {};
  for (int k = 0; k < top_k; k += kRows) {
    std::int32_t row[kRows];
    Pack<kN, Y> v[kRows];
#pragma unroll
    for (int a = 0; a < kRows; ++a) row[a] = k + a < top_k ? row_K[k + a] : -1;
#pragma unroll
    for (int a = 0; a < kRows; ++a)
      if (row[a] >= 0) v[a] = load_pack<kN>(y + row[a] * y_stride);
#pragma unroll
    for (int a = 0; a < kRows; ++a)
      if (row[a] >= 0)
#pragma unroll
        for (int i = 0; i < kN; ++i) sum[i] += to_f32(v[a].v[i]);
  }
  float old[kN] = {};
  if (add) load_floats(x, old);
#pragma unroll
  for (int i = 0; i < kN; ++i) sum[i] = add ? old[i] + sum[i] : sum[i];
  store_floats(x, sum);
}

template <int kN, class Y, class X>
__global__ void combine_kernel(const Y* __restrict__ y, i64 y_stride, const std::int32_t* __restrict__ slot2row_N, int top_k,
                               X* __restrict__ x, i64 x_stride, i64 num_tokens, i64 D, unsigned parts, bool add) {
  const Place at = place_of(parts, 1);
  if (at.row >= num_tokens) return;
  const std::int32_t* const row_K = slot2row_N + at.row * top_k;
  X* const to = x + at.row * x_stride;
  if (const i64 j = at.pack * kN; j + kN <= D) combine_pack<kN>(y + j, y_stride, row_K, top_k, to + j, add);
  if (kN > 1 && at.is_last)
    for (i64 j = D / kN * kN + threadIdx.x % kWarp; j < D; j += kWarp)
      combine_pack<1>(y + j, y_stride, row_K, top_k, to + j, add);
}

// run(width, parts, blocks) with as many elements an access as the dtypes and the alignment of both operands allow, as a
// constant, for rows of D elements in parts of packs_per_lane packs a lane.
template <class A, class B, class Run>
void by_width(const A* a, i64 a_stride, const B* b, i64 b_stride, i64 rows, i64 D, int packs_per_lane, Run run) {
  const auto with = [&](auto width) {
    const i64 per_part = i64{kWarp} * packs_per_lane * width();
    const unsigned parts = D > per_part ? blocks_for(D, per_part) : 1;
    run(width, parts, D == 0 ? 0 : blocks_for(rows * parts, kWarps));
  };
  constexpr int kWide = 16 / static_cast<int>(sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));
  if (aligned16(a, a_stride) && aligned16(b, b_stride))
    with(std::integral_constant<int, kWide>{});
  else
    with(std::integral_constant<int, 1>{});
}

void gather(Stream& stream, CMat x_TD, std::span<const std::int32_t> row2slot_R, int top_k, Mat x_RD) {
  const i64 R = x_RD.rows, D = x_TD.cols;
  require(top_k >= 1, "permute.gather: expected top_k >= 1");
  expect_shape("permute.gather", "rows", x_RD, static_cast<i64>(row2slot_R.size()), D);
  dispatch(
      [&]<class A, class B>(const A* x, B* rows) {
        by_width(x, x_TD.stride, rows, x_RD.stride, R, D, kAhead, [&](auto width, unsigned parts, unsigned blocks) {
          launch(queue_of(stream), gather_kernel<width(), A, B>, blocks, kThreads, 0, x, x_TD.stride, row2slot_R.data(),
                 top_k, rows, x_RD.stride, R, D, parts);
        });
      },
      x_TD, x_RD);
}

void combine(Stream& stream, CMat y_RD, std::span<const std::int32_t> slot2row_N, int top_k, Mat x_TD, Store store) {
  const i64 T = x_TD.rows, D = x_TD.cols;
  require(top_k >= 1, "permute.combine: expected top_k >= 1");
  expect_shape("permute.combine", "x", x_TD, T, D);
  expect_shape("permute.combine", "rows", y_RD, y_RD.rows, D);
  expect_count("permute.combine", "slot2row", static_cast<i64>(slot2row_N.size()), T * top_k);
  dispatch(
      [&]<class Y, class X>(const Y* y, X* x) {
        by_width(y, y_RD.stride, x, x_TD.stride, T, D, 1, [&](auto width, unsigned parts, unsigned blocks) {
          launch(queue_of(stream), combine_kernel<width(), Y, X>, blocks, kThreads, 0, y, y_RD.stride, slot2row_N.data(),
                 top_k, x, x_TD.stride, T, D, parts, store == Store::kAdd);
        });
      },
      y_RD, x_TD);
}

// to_n[i] (=) from[at_n[i]], 0 where that is negative.
__global__ void pick_kernel(const float* __restrict__ from, const std::int32_t* __restrict__ at_n, i64 n,
                            float* __restrict__ to_n) {
  const i64 i = i64{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) to_n[i] = at_n[i] < 0 ? 0.0f : from[at_n[i]];
}

void gather_values(Stream& stream, const float* v_N, std::span<const std::int32_t> row2slot_R, float* v_R) {
  const i64 R = static_cast<i64>(row2slot_R.size());
  launch(queue_of(stream), pick_kernel, blocks_for(R, kThreads), kThreads, 0, v_N, row2slot_R.data(), R, v_R);
}

void return_values(Stream& stream, const float* v_R, std::span<const std::int32_t> slot2row_N, float* v_N) {
  const i64 N = static_cast<i64>(slot2row_N.size());
  launch(queue_of(stream), pick_kernel, blocks_for(N, kThreads), kThreads, 0, v_R, slot2row_N.data(), N, v_N);
}

}  // namespace

const PermuteKernels permute_cuda = {plan, gather, combine, gather_values, return_values};

}  // namespace moe::cuda
