// NCCL, by its functions' names in libnccl.so.2 (or the file that MOE_NCCL_LIBRARY names), and the only file that knows it.
// Communicators do not block: what they do is begun, and asked for with ready(). One kernel moves all messages of a batch.
// Not here: who waits, how long, and what is said then (lib/comm/nccl_comm.h).
#include <cuda_runtime.h>
#if __has_include(<nccl.h>)
#include <nccl.h>
#define MOE_HAVE_NCCL
#endif
#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include "kernels/cuda.h"
#include "kernels/cuda_events.h"
#include "kernels/cuda_plugin.h"

namespace moe::cuda {
namespace {

void device_address(char* text, int size) {
  use_device();
  int device = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetPCIBusId(text, size, device), "device");
}

bool passed(void* mark) {
  const auto event = static_cast<cudaEvent_t>(mark);
  const cudaError_t state = cudaEventQuery(event);
  if (state == cudaErrorNotReady) return false;
  check(state, "messages");
  give_event(event);
  return true;
}

#ifdef MOE_HAVE_NCCL

#ifndef MOE_NCCL_NAME  // the stand-in of the tests has another
#define MOE_NCCL_NAME "libnccl.so.2"
#endif
constexpr double kCloseSeconds = 5;
constexpr int kLeastVersion = 21400;  // the first whose communicators need not block

struct Nccl {
  std::string why_not;
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) init = nullptr;
  decltype(&ncclCommGetAsyncError) get_async_error = nullptr;
  decltype(&ncclCommFinalize) finalize = nullptr;
  decltype(&ncclCommDestroy) destroy = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclGetErrorString) error_string = nullptr;
  decltype(&ncclGetLastError) last_error = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) receive = nullptr;

  template <class F>
  void take(void* library, F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(library, name));
    if (!function && why_not.empty()) why_not = std::string("NCCL has no ") + name + ": it is too old";
  }
  void load() {
    const char* asked = std::getenv("MOE_NCCL_LIBRARY");
    void* library = dlopen(asked ? asked : MOE_NCCL_NAME, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      const char* reason = dlerror();
      why_not = std::string("NCCL cannot be loaded: ") + (reason ? reason : "no reason given");
      return;
    }
    take(library, get_version, "ncclGetVersion");
    take(library, get_unique_id, "ncclGetUniqueId");
    take(library, init, "ncclCommInitRankConfig");
    take(library, get_async_error, "ncclCommGetAsyncError");
    take(library, finalize, "ncclCommFinalize");
    take(library, destroy, "ncclCommDestroy");
    take(library, abort, "ncclCommAbort");
    take(library, error_string, "ncclGetErrorString");
    take(library, last_error, "ncclGetLastError");
    take(library, group_start, "ncclGroupStart");
    take(library, group_end, "ncclGroupEnd");
    take(library, send, "ncclSend");
    take(library, receive, "ncclRecv");
    int version = 0;
    if (why_not.empty() && (get_version(&version) != ncclSuccess || version < kLeastVersion))
      why_not = "expected NCCL 2.14 or later, found version " + std::to_string(version);
  }
};

const Nccl& nccl() {
  static const Nccl loaded = [] {
    Nccl n;
    n.load();
    return n;
  }();
  return loaded;
}

struct Link {  // behind a comm
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
};
Link& link_of(void* comm) { return *static_cast<Link*>(comm); }

// In progress is no failure: ready() asks for it.
void need(ncclResult_t result, ncclComm_t comm) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const char* more = nccl().last_error(comm);
  throw std::runtime_error(std::string(nccl().error_string(result)) + (more && *more ? std::string(": ") + more : ""));
}

const char* why_not() { return nccl().why_not.empty() ? nullptr : nccl().why_not.c_str(); }

void make_id(void* id) {
  static_assert(sizeof(ncclUniqueId) == CudaComms::kIdBytes);
  need(nccl().get_unique_id(static_cast<ncclUniqueId*>(id)), nullptr);
}

void* open_comm(const void* id, int rank, int size, void* queue) {
  use_device();
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  auto link = std::make_unique<Link>();
  link->stream = static_cast<Queue*>(queue)->stream;
  need(nccl().init(&link->comm, size, *static_cast<const ncclUniqueId*>(id), rank, &config), nullptr);
  return link.release();
}

bool ready(void* comm) {
  ncclResult_t state = ncclSuccess;
  need(nccl().get_async_error(link_of(comm).comm, &state), link_of(comm).comm);
  need(state, link_of(comm).comm);
  return state == ncclSuccess;
}

ncclResult_t put_message(const Link& link, const CudaMessage& m) {
  return m.sends ? nccl().send(m.data, m.bytes, ncclInt8, m.peer, link.comm, link.stream)
                 : nccl().receive(m.data, m.bytes, ncclInt8, m.peer, link.comm, link.stream);
}

// The group is ended whatever a message's fate: it is a state of this thread.
void start(void* comm, const CudaMessage* messages, int num_messages) {
  const Link& link = link_of(comm);
  use_device();
  need(nccl().group_start(), link.comm);
  ncclResult_t put = ncclSuccess;
  for (int i = 0; i < num_messages && (put == ncclSuccess || put == ncclInProgress); ++i)
    put = put_message(link, messages[i]);
  const ncclResult_t ended = nccl().group_end();
  need(put, link.comm);
  need(ended, link.comm);
}

void abort_comm(void* comm) {
  const std::unique_ptr<Link> link(static_cast<Link*>(comm));
  use_device();
  nccl().abort(link->comm);
}

bool finalized(void* comm) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  need(nccl().finalize(link_of(comm).comm), link_of(comm).comm);
  while (!ready(comm)) {
    if (std::chrono::duration<double>(Clock::now() - start).count() > kCloseSeconds) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

// A rank that never comes to its own close() is waited for no longer than this.
void close_comm(void* comm) {
  use_device();
  bool quiet = false;
  try {
    quiet = finalized(comm);
  } catch (const std::runtime_error&) {
  }
  if (!quiet) return abort_comm(comm);
  const std::unique_ptr<Link> link(static_cast<Link*>(comm));
  nccl().destroy(link->comm);
}

#else

const char* why_not() { return "the CUDA plugin was built without NCCL (nccl.h)"; }
constexpr void (*make_id)(void*) = nullptr;
constexpr void* (*open_comm)(const void*, int, int, void*) = nullptr;
constexpr bool (*ready)(void*) = nullptr;
constexpr void (*start)(void*, const CudaMessage*, int) = nullptr;
constexpr void (*close_comm)(void*) = nullptr;
constexpr void (*abort_comm)(void*) = nullptr;

#endif

}  // namespace

const CudaComms nccl_comms = {why_not, device_address, make_id, open_comm, ready, start, passed, close_comm, abort_comm};

}  // namespace moe::cuda
