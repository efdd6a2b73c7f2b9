// Stands in for <cuda_runtime.h> where kernels/*.cu are compiled by the host's compiler, so that the same sources run and
// are judged on machines without a GPU: the threads of a block are fibers of one host thread, blocks run one after the
// other. It is as strict as a device where it can be (runtime.cpp):
//   - memory of the device faults when the host touches it, unless CUDA_LAUNCH_BLOCKING is set, which also makes everything
//     happen at once; else what is put into a stream happens only when somebody waits for it, or with MOE_CUDA_ON_HOST_PACE
//     by chance before
//   - shared memory of run-time size holds not-a-number before a block; the fibers of a block run in rising order in one
//     launch and in falling order in the next
//   - a barrier or warp operation that some thread never reaches ends the program with a message
// Not here: matrix units and asynchronous copies (mma.h, hopper.h), the BLAS (cublas_v2.h), messages (nccl.h), speed.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>

#define MOE_CUDA_ON_HOST 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static thread_local
#define __constant__ static const
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- Host: the part of the runtime that the plugin calls.

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrL2CacheSize, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributePreferredSharedMemoryCarveout };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaEventDefault = 0;
struct cuda_on_host_stream;
struct cuda_on_host_event;
using cudaStream_t = cuda_on_host_stream*;
using cudaEvent_t = cuda_on_host_event*;
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
};
struct cudaLaunchAttribute {
  int id;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int*);
cudaError_t cudaGetDevice(int*);
cudaError_t cudaSetDevice(int);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int);
cudaError_t cudaDeviceGetAttribute(int*, cudaDeviceAttr, int);
cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaMalloc(void**, std::size_t);
cudaError_t cudaFree(void*);
cudaError_t cudaMallocManaged(void**, std::size_t);
cudaError_t cudaMallocHost(void**, std::size_t);
cudaError_t cudaFreeHost(void*);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMemset(void*, int, std::size_t);
cudaError_t cudaMemsetAsync(void*, int, std::size_t, cudaStream_t);
cudaError_t cudaMemcpyAsync(void*, const void*, std::size_t, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned);
cudaError_t cudaEventDestroy(cudaEvent_t);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t);
cudaError_t cudaEventQuery(cudaEvent_t);
cudaError_t cudaEventSynchronize(cudaEvent_t);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t);
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int);

extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

namespace cuda_on_host {

// ---- A block of fibers.

extern thread_local unsigned thread_in_block;

unsigned char* shared_bytes();
// Lets the other fibers of the block run until `done()`.
void wait_until(const std::function<bool()>& done, const char* what);
// Returns when `count` threads of the block have called with the same key (of a few, below 1024).
void barrier(unsigned key, unsigned count, const char* what);
void barrier_without_waiting(unsigned key, unsigned count);  // counts as one of them
// Says that something happened that another fiber may wait for.
void progressed();
// Counts the blocks that this host thread ran, this one included.
std::size_t block_number();
// Whether what happens some time is to happen now, or as late as it may: all of it in one block of a grid, none in the next,
// half of it by chance in a third; which block that is changes with every pair of launches (threads run in rising order in
// every other launch).
bool comes_at_once();
// How many threads of this block have not ended.
unsigned num_alive();
// One value of every lane of `mask` in this warp, to read until the next exchange of the warp. At most 64 bytes each.
const unsigned char* exchange(unsigned mask, const void* mine, std::size_t bytes);
// The same over `num_warps` neighbouring warps, from a multiple of that (a warpgroup: 4).
const unsigned char* exchange_warps(unsigned num_warps, const void* mine, std::size_t bytes);
inline constexpr std::size_t kExchangeBytes = 64;

void run(cudaStream_t stream, dim3 grid, dim3 block, std::size_t shared, std::function<void()> body);
// Puts host work into a stream (the stand-ins of libraries).
void enqueue(cudaStream_t stream, std::function<void()> work);
// The same for work that another thread must help with: tried until it says true, and what comes behind it waits.
void enqueue_until(cudaStream_t stream, std::function<bool()> done);
std::recursive_mutex& device_lock();  // held while work is done

template <class T>
T lane_value(unsigned mask, T v, unsigned lane) {
  static_assert(sizeof(T) <= kExchangeBytes);
  const unsigned char* all = exchange(mask, &v, sizeof v);
  std::memcpy(&v, all + lane * kExchangeBytes, sizeof v);
  return v;
}

}  // namespace cuda_on_host

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* c, void (*kernel)(P...), A&&... args) {
  std::tuple<std::decay_t<P>...> copy(std::forward<A>(args)...);
  cuda_on_host::run(c->stream, c->gridDim, c->blockDim, c->dynamicSmemBytes,
                    [kernel, copy]() mutable { std::apply(kernel, copy); });
  return cudaSuccess;
}

// ---- Device functions.

inline void __syncthreads() { cuda_on_host::barrier(0, 0, "__syncthreads"); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_on_host::exchange(mask, nullptr, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}
template <class T>
T __shfl_sync(unsigned mask, T v, int lane, int width = 32) {
  const unsigned own = cuda_on_host::thread_in_block % 32;
  return cuda_on_host::lane_value(mask, v, own / width * width + static_cast<unsigned>(lane) % width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int d, int = 32) {
  return cuda_on_host::lane_value(mask, v, (cuda_on_host::thread_in_block % 32) ^ static_cast<unsigned>(d));
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32) {
  const unsigned own = cuda_on_host::thread_in_block % 32;
  return cuda_on_host::lane_value(mask, v, own % width >= d ? own - d : own);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32) {
  const unsigned own = cuda_on_host::thread_in_block % 32;
  return cuda_on_host::lane_value(mask, v, own % width + d < static_cast<unsigned>(width) ? own + d : own);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned char* all = cuda_on_host::exchange(mask, &predicate, sizeof predicate);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    int p = 0;
    if (mask >> lane & 1u) std::memcpy(&p, all + lane * cuda_on_host::kExchangeBytes, sizeof p);
    bits |= (p != 0 ? 1u : 0u) << lane;
  }
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
inline unsigned __match_any_sync(unsigned mask, int v) {
  const unsigned char* all = cuda_on_host::exchange(mask, &v, sizeof v);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    int w = 0;
    std::memcpy(&w, all + lane * cuda_on_host::kExchangeBytes, sizeof w);
    if ((mask >> lane & 1u) && w == v) bits |= 1u << lane;
  }
  return bits;
}
// The largest or smallest value of the lanes (of integers, as on the device).
template <class T, class Better>
T cuda_on_host_reduce(unsigned mask, T v, Better better) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4);
  const unsigned char* all = cuda_on_host::exchange(mask, &v, sizeof v);
  for (unsigned lane = 0; lane < 32; ++lane) {
    T w = 0;
    std::memcpy(&w, all + lane * cuda_on_host::kExchangeBytes, sizeof w);
    if ((mask >> lane & 1u) && better(w, v)) v = w;
  }
  return v;
}
template <class T>
T __reduce_max_sync(unsigned mask, T v) {
  return cuda_on_host_reduce(mask, v, [](T a, T b) { return a > b; });
}
template <class T>
T __reduce_min_sync(unsigned mask, T v) {
  return cuda_on_host_reduce(mask, v, [](T a, T b) { return a < b; });
}
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline float __uint_as_float(unsigned u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline unsigned __float_as_uint(float f) {
  unsigned u;
  std::memcpy(&u, &f, 4);
  return u;
}
inline int __float_as_int(float f) { return static_cast<int>(__float_as_uint(f)); }
inline float __int_as_float(int i) { return __uint_as_float(static_cast<unsigned>(i)); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }  // never fused: the stand-in is compiled for no such machine
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float a) { return std::exp(a); }
inline float __logf(float a) { return std::log(a); }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline float __ldg(const float* p) { return *p; }
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stwb(T* p, T v) {
  *p = v;
}
template <class T>
void __stcs(T* p, T v) {
  *p = v;
}
template <class T, class V>
T atomicAdd(T* p, V v) {
  const T old = *p;
  *p = static_cast<T>(old + static_cast<T>(v));
  return old;
}
template <class T, class V>
T atomicMax(T* p, V v) {
  const T old = *p;
  if (static_cast<T>(v) > old) *p = static_cast<T>(v);
  return old;
}
template <class T, class V>
T atomicOr(T* p, V v) {
  const T old = *p;
  *p = static_cast<T>(old | static_cast<T>(v));
  return old;
}
using std::isfinite;
using std::isnan;
template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
inline long long clock64() { return 0; }
