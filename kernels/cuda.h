// What the CUDA kernels share: the queue behind a Stream, launches, elements of either dtype, sums over warps and blocks in
// one order. Included by kernels/*.cu only, which are compiled by nvcc into the plugin and, for tests on machines without
// a GPU, by the host's compiler with a stand-in for <cuda_runtime.h> (tests/cuda_on_host). So the .cu files use no
// <<< >>>, no inline PTX outside cuda_*.h, and shared memory of run-time size only through shared_bytes().
// Not here: matrix units and asynchronous copies (cuda_mma.h, cuda_hopper.h).
#pragma once

#include <cuda_runtime.h>

#include "kernels/checks.h"
#include "kernels/kernels.h"

namespace moe {
struct CudaComms;  // cuda_plugin.h
}

namespace moe::cuda {

using i64 = std::int64_t;

// ---- Host.

// Throws std::runtime_error with what CUDA says, std::bad_alloc where memory is short.
void check(cudaError_t error, const char* what);
// Makes the device of this process that of the calling thread.
void use_device();

// Behind Stream::queue(). Memory of the device that a kernel call may use until it returns, and the next call again: work
// in one queue never overlaps. It grows when more is asked for, and waits for the queue then; so ask for little, or for
// what the first step asks for too.
class Queue {
 public:
  Queue();
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  cudaStream_t stream = nullptr;
  void* blas = nullptr;              // of gemm.cu
  void* scratch(std::size_t bytes);  // 256-byte aligned; its content is undefined
  template <class T>
  T* scratch_of(i64 n) {
    return static_cast<T*>(scratch(sizeof(T) * static_cast<std::size_t>(n)));
  }
  // Waits for the queue and returns what lies there on the device.
  template <class T>
  T read(const T* from) {
    T value;
    check(cudaMemcpyAsync(&value, from, sizeof(T), cudaMemcpyDeviceToHost, stream), "read");
    check(cudaStreamSynchronize(stream), "read");
    return value;
  }

 private:
  void* scratch_ = nullptr;
  std::size_t scratch_bytes_ = 0;
};
inline Queue& queue_of(Stream& stream) { return *static_cast<Queue*>(stream.queue()); }

// Puts a kernel into the queue: blocks of `threads`, with shared_bytes of shared memory of run-time size. No blocks:
// nothing.
template <class... P, class... A>
void launch(Queue& q, void (*kernel)(P...), dim3 blocks, unsigned threads, std::size_t shared_bytes, A&&... args) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return;
  // Without asking there are 48 KB, a kernel's own __shared__ variables among them.
  if (shared_bytes > 32 * 1024)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "shared memory");
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = q.stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...), "launch");
}
inline unsigned blocks_for(i64 n, i64 per_block) { return static_cast<unsigned>((n + per_block - 1) / per_block); }
int num_multiprocessors();  // of the device in use

// dispatch(f, a, b) calls f(pa, pb) with the typed pointers (float* or BF16*, const for a CMat) of the matrices a, b.
inline const float* typed(const CMat& m, float) { return m.f32(); }
inline const BF16* typed(const CMat& m, BF16) { return m.bf16(); }
inline float* typed(const Mat& m, float) { return m.f32(); }
inline BF16* typed(const Mat& m, BF16) { return m.bf16(); }
template <class F>
void dispatch(F&& f) {
  f();
}
template <class F, class M, class... Rest>
void dispatch(F&& f, const M& m, const Rest&... rest) {
  if (m.dtype == DType::kF32)
    dispatch([&](auto... p) { f(typed(m, 0.0f), p...); }, rest...);
  else
    dispatch([&](auto... p) { f(typed(m, BF16{}), p...); }, rest...);
}

// ---- Device.

inline constexpr int kWarp = 32;

__device__ inline float to_f32(float v) { return v; }
__device__ inline float to_f32(BF16 v) { return __uint_as_float(static_cast<unsigned>(v.bits) << 16); }
// To nearest even; not-a-number stays one, as kernels/view.h rounds.
__device__ inline BF16 round_bf16(float f) {
  const unsigned u = __float_as_uint(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return BF16{static_cast<std::uint16_t>((u >> 16) | 0x40u)};
  return BF16{static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}
__device__ inline void put(float* to, float v) { *to = v; }
__device__ inline void put(BF16* to, float v) { *to = round_bf16(v); }

// Up to 16 bytes at once. aligned16(): all rows begin at such a multiple.
template <class T>
inline bool aligned16(const T* p, i64 stride) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0 && static_cast<std::size_t>(stride) * sizeof(T) % 16 == 0;
}
template <int kN, class T>
struct alignas(sizeof(T) * kN) Pack {
  T v[kN];
};

// The sum over the lanes of a warp, on every lane, in one order.
template <class T>
__device__ inline T warp_sum(T v) {
  for (int d = kWarp / 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}
template <class T>
__device__ inline T warp_max(T v) {
  for (int d = kWarp / 2; d > 0; d /= 2) {
    const T w = __shfl_xor_sync(0xffffffffu, v, d);
    v = w > v ? w : v;
  }
  return v;
}
// The sum over the threads of a block (a multiple of 32, at most 1024), on every thread, in one order. Every thread calls.
template <class T>
__device__ inline T block_sum(T v) {
  __shared__ T warp2sum[kWarp];
  v = warp_sum(v);
  __syncthreads();  // of the call before
  if (threadIdx.x % kWarp == 0) warp2sum[threadIdx.x / kWarp] = v;
  __syncthreads();
  T total = 0;
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) total += warp2sum[w];
  return total;
}

// Shared memory of the size that was given to launch(), 1024-byte aligned.
__device__ inline unsigned char* shared_bytes() {
#ifdef MOE_CUDA_ON_HOST
  return cuda_on_host::shared_bytes();
#else
  extern __shared__ __align__(1024) unsigned char shared_memory[];
  return shared_memory;
#endif
}
template <class T>
__device__ inline T* shared_of() {
  return reinterpret_cast<T*>(shared_bytes());
}

// ---- The tables, by noun, each in the file of its name; cuda_table.cu collects them.
extern const GemmKernels gemm_cuda;
extern const GroupedGemmKernels grouped_gemm_cuda;
extern const BiasKernels bias_cuda;
extern const RmsNormKernels rmsnorm_cuda;
extern const RopeKernels rope_cuda;
extern const LatentKernels latent_cuda;
extern const AttentionKernels attention_cuda;
extern const CacheAttentionKernels cache_attention_cuda;
extern const SwigluKernels swiglu_cuda;
extern const RouterKernels router_cuda;
extern const PermuteKernels permute_cuda;
extern const EmbeddingKernels embedding_cuda;
extern const CrossEntropyKernels cross_entropy_cuda;
extern const ElementKernels elements_cuda;
extern const AdamWKernels adamw_cuda;
extern const MuonKernels muon_cuda;
double register_peak_gflops_cuda(Stream& stream, DType dtype, double seconds);
extern const CudaComms nccl_comms;  // messages between GPUs (nccl_comm.cu)
// What a queue owns of the BLAS (gemm.cu).
void free_blas(void* blas);

}  // namespace moe::cuda
