// All CUDA code is in one plugin, libmoe_cuda.so, loaded at run time from the folder of the program or ../lib beside it, so
// that one program serves machines with and without CUDA. Not here: anything that includes CUDA (*.cu).
#pragma once

#include <string>

#include "kernels/kernels.h"

namespace moe {

// One message of a batch between GPUs.
struct CudaMessage {
  bool sends;
  int peer;
  void* data;  // of the device, or of Device::allocate_host()
  std::size_t bytes;
};

// Groups of GPUs that send to each other: NCCL, which is loaded when it is first asked for, so that the plugin serves
// machines without it. A comm is one rank's side of a group; one thread at a time. Nothing here blocks but close() and
// abort(). All throw std::runtime_error with what NCCL says. Not here: deadlines (lib/comm/nccl_comm.h).
struct CudaComms {
  static constexpr int kIdBytes = 128;
  const char* (*why_not)();                      // nullptr: it can be used; else one sentence; then nothing below is called
  void (*device_address)(char* text, int size);  // differs between the GPUs of a machine
  void (*make_id)(void* id);                     // of a new group, on one of its ranks
  void* (*open)(const void* id, int rank, int size, void* queue);  // begins; a comm is open when ready()
  bool (*ready)(void* comm);  // open() or start() is done; throws what went wrong in the comm since
  // Puts a batch into the queue; nothing may be put behind it before ready(). Pieces to and from one peer match in order,
  // with equal bytes; what a peer starts behind this batch must not be needed to finish it.
  void (*start)(void* comm, const CudaMessage* messages, int num_messages);
  bool (*passed)(void* mark);  // has the queue come to a mark (Device::mark)? After true the mark is gone
  void (*close)(void* comm);   // when nothing is on its way; waits for the other ranks' close()
  void (*abort)(void* comm);   // ends it, whatever is on its way
};

// What the plugin exports, as `const CudaPlugin* moe_cuda_plugin()`.
struct CudaPlugin {
  static constexpr int kVersion = 5;  // of this interface: a plugin of another build is refused
  int version;
  int (*num_devices)(char* text, int size);  // 0: why, in `text`
  const Device* (*open)(int index);          // takes the device for this process; throws std::runtime_error
  const Kernels* (*kernels)();
  void* (*allocate_shared)(std::size_t bytes);  // memory that host and device touch in turns, for tests; nullptr: none
  CudaComms comms;
  void (*push_range)(const char* name);  // NVTX, for profilers: a range of the calling thread, ...
  void (*pop_range)();                   // ... which the last one ends
};

struct CudaStatus {
  const CudaPlugin* plugin = nullptr;
  int num_devices = 0;
  bool is_there = false;  // the plugin's file
  std::string text;       // one sentence for people: what was found, or why not
};
// Loaded once. The environment variable MOE_CUDA_PLUGIN names another file, for tests.
const CudaStatus& cuda_status();

}  // namespace moe
