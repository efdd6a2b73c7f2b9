// A CUDA device as kernels/device.h has it. Allocation is cudaMalloc: it is done at the start, in large pieces
// (what grows: cuda_reserve.cu).
#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include <limits>
#include <new>
#include <stdexcept>
#include <string>

#include "kernels/cuda.h"
#include "kernels/cuda_events.h"
#include "kernels/cuda_plugin.h"
#include "kernels/cuda_reserve.h"

namespace moe::cuda {

namespace {

struct OutOfMemory : std::bad_alloc {
  const char* what() const noexcept override { return "out of memory of the GPU"; }
};

}  // namespace

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  if (error == cudaErrorMemoryAllocation) throw OutOfMemory();
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

int num_multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "device");
  return count;
}

Queue::Queue() { check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream"); }

Queue::~Queue() {
  cudaStreamSynchronize(stream);
  free_blas(blas);
  cudaFree(scratch_);
  cudaStreamDestroy(stream);
}

void* Queue::scratch(std::size_t bytes) {
  constexpr std::size_t kLeast = std::size_t{1} << 20;
  if (bytes <= scratch_bytes_) return scratch_;
  check(cudaStreamSynchronize(stream), "scratch");
  check(cudaFree(scratch_), "scratch");
  scratch_ = nullptr, scratch_bytes_ = 0;
  const std::size_t wanted = bytes < kLeast ? kLeast : bytes;
  check(cudaMalloc(&scratch_, wanted), "scratch");
  scratch_bytes_ = wanted;
  return scratch_;
}

namespace {

int opened = 0;  // the device of this process

}  // namespace

// A thread begins on device 0.
void use_device() {
  static thread_local int current = 0;
  if (current == opened) return;
  check(cudaSetDevice(opened), "device");
  current = opened;
}

namespace {

cudaStream_t stream_of(void* queue) {
  use_device();
  return static_cast<Queue*>(queue)->stream;
}

// nullptr where there is not so much; any other failure is one.
bool allocated(cudaError_t error, const char* what) {
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return false;
  }
  check(error, what);
  return true;
}

void* allocate(std::size_t bytes) {
  use_device();
  void* p = nullptr;
  if (!allocated(cudaMalloc(&p, bytes), "allocate")) return nullptr;
  check(cudaMemset(p, 0, bytes), "allocate");
  check(cudaDeviceSynchronize(), "allocate");
  return p;
}
void release(void* memory, std::size_t) {
  if (memory == nullptr) return;
  cudaDeviceSynchronize();  // as cudaFree() does: what is on its way may use it
  if (!release_reserved(memory)) cudaFree(memory);
}

void* allocate_host(std::size_t bytes) {
  void* p = nullptr;
  if (!allocated(cudaMallocHost(&p, bytes), "allocate host memory")) return nullptr;
  memset(p, 0, bytes);
  return p;
}
void release_host(void* memory, std::size_t) { cudaFreeHost(memory); }

void* make_queue() {
  use_device();
  return new Queue;
}
void free_queue(void* queue) { delete static_cast<Queue*>(queue); }

void copy(void* queue, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(queue)), "copy");
}
void zero(void* queue, void* memory, std::size_t bytes) {
  if (bytes > 0) check(cudaMemsetAsync(memory, 0, bytes, stream_of(queue)), "zero");
}
void synchronize(void* queue) { check(cudaStreamSynchronize(stream_of(queue)), "synchronize"); }

void* mark(void* queue) {
  const cudaStream_t stream = stream_of(queue);
  const cudaEvent_t event = take_event();
  check(cudaEventRecord(event, stream), "event");
  return event;
}
void wait_mark(void* queue, void* mark) {
  const auto event = static_cast<cudaEvent_t>(mark);
  check(cudaStreamWaitEvent(stream_of(queue), event, 0), "event");
  give_event(event);  // what waits for it waits for what was recorded
}

cudaEvent_t event_of(const TimeMark& mark) { return static_cast<cudaEvent_t>(mark.event); }

TimeMark time_mark(void* queue) {
  const cudaStream_t stream = stream_of(queue);
  const cudaEvent_t event = take_timed_event();
  check(cudaEventRecord(event, stream), "event");
  return {.event = event};
}
// The driver's milliseconds are a float: to 6e-8 of the time.
double seconds_between(const TimeMark& from, const TimeMark& to) {
  use_device();
  float ms = 0;
  const cudaError_t error = cudaEventElapsedTime(&ms, event_of(from), event_of(to));
  if (error == cudaErrorNotReady) {
    cudaGetLastError();
    return std::numeric_limits<double>::quiet_NaN();
  }
  check(error, "time between events");
  return 1e-3 * static_cast<double>(ms);
}
void release_time_mark(const TimeMark& mark) { give_timed_event(event_of(mark)); }

void memory(std::size_t* used_bytes, std::size_t* total_bytes) {
  std::size_t free = 0;
  check(cudaMemGetInfo(&free, total_bytes), "memory");
  *used_bytes = *total_bytes - free;
}

char name[256] = "";  // of the device that was opened

const Device device = {DeviceKind::kCuda,
                       name,
                       allocate,
                       reserve,
                       commit,
                       release,
                       allocate_host,
                       release_host,
                       make_queue,
                       free_queue,
                       copy,
                       zero,
                       synchronize,
                       mark,
                       wait_mark,
                       time_mark,
                       seconds_between,
                       release_time_mark,
                       memory};

int num_devices(char* text, int size) {
  int devices = 0;  // left untouched by the call where there is no driver
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && devices > 0) return devices;
  std::snprintf(text, static_cast<std::size_t>(size), "no CUDA device: %s",
                error == cudaSuccess ? "none found" : cudaGetErrorString(error));
  return 0;
}

const Device* open(int index) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "device");
  if (properties.major < 9)
    throw std::runtime_error(std::string("CUDA: expected compute capability 9.0 or more, found ") + properties.name +
                             " of " + std::to_string(properties.major) + "." + std::to_string(properties.minor));
  opened = index;
  use_device();
  std::snprintf(name, sizeof name, "%s", properties.name);
  return &device;
}

void* allocate_shared(std::size_t bytes) {
  void* p = nullptr;
  return cudaMallocManaged(&p, bytes) == cudaSuccess ? p : nullptr;
}

void push_range(const char* name) { nvtxRangePushA(name); }
void pop_range() { nvtxRangePop(); }

Kernels table() {
  return {.isa = "cuda",
          .gemm = gemm_cuda,
          .grouped_gemm = grouped_gemm_cuda,
          .bias = bias_cuda,
          .rmsnorm = rmsnorm_cuda,
          .rope = rope_cuda,
          .latent = latent_cuda,
          .attention = attention_cuda,
          .cache_attention = cache_attention_cuda,
          .swiglu = swiglu_cuda,
          .router = router_cuda,
          .permute = permute_cuda,
          .embedding = embedding_cuda,
          .cross_entropy = cross_entropy_cuda,
          .elements = elements_cuda,
          .adamw = adamw_cuda,
          .muon = muon_cuda,
          .register_peak_gflops = register_peak_gflops_cuda};
}

const Kernels* kernels() {
  static const Kernels all = table();
  return &all;
}

}  // namespace
}  // namespace moe::cuda

extern "C" const moe::CudaPlugin* moe_cuda_plugin() {
  static const moe::CudaPlugin plugin = {moe::CudaPlugin::kVersion, moe::cuda::num_devices,     moe::cuda::open,
                                         moe::cuda::kernels,        moe::cuda::allocate_shared, moe::cuda::nccl_comms,
                                         moe::cuda::push_range,     moe::cuda::pop_range};
  return &plugin;
}
