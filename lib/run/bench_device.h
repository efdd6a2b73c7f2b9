// What the ranks of `moe-bench dispatch` and `collectives` send and where they send it from: memory of their devices, in the
// order of a stream that is the lane's. Not here: what is sent, and the clock (bench_ranks.h).
#pragma once

#include <cstddef>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "lib/comm/nccl_comm.h"
#include "lib/comm/world.h"
#include "lib/model/mesh_context.h"
#include "lib/run/compute.h"
#include "lib/tensor/host_room.h"

namespace moe {

// A rank's stream, and messages from its device's memory to that of other ranks: those of the host on the CPU, as training
// sends them on a GPU. Only the lane uses them, or this thread while the lane does nothing.
class DeviceLink {
 public:
  // host: the ranks that send to each other; outlives it. way: choose_gpu_comm()'s. A collective call.
  DeviceLink(World& world, Comm& host, const Compute& compute, GpuComm way);
  DeviceLink(const DeviceLink&) = delete;
  DeviceLink& operator=(const DeviceLink&) = delete;

  Stream& stream() { return stream_; }
  Env env() { return {stream_, kernels_}; }
  Comm& comm() { return comm_ ? *comm_ : host_; }  // of memory of the device; for tasks of the lane
  Comm& host() { return host_; }                   // of memory of the host

 private:
  Comm& host_;
  const Kernels& kernels_;
  Stream stream_;
  NcclWaits nccl_waits_;
  std::unique_ptr<Comm> comm_;  // nullptr: the device is the CPU
};

// Memory of a stream's device that grows and is kept, and its image on the host; on the CPU they are the same memory.
class ImagedRoom {
 public:
  explicit ImagedRoom(Stream& stream) : stream_(stream), host_(stream.device()) {}
  ImagedRoom(const ImagedRoom&) = delete;
  ImagedRoom& operator=(const ImagedRoom&) = delete;
  ~ImagedRoom() { release(); }

  // Room for so many bytes, 64-byte aligned. More than ever before: what was there is lost.
  void* data(std::size_t bytes);
  void* image(std::size_t bytes);
  // The first bytes of one (=) those of the other. Both wait.
  void push(std::size_t bytes);  // to the device
  void pull(std::size_t bytes);

 private:
  void release();
  Stream& stream_;
  HostRoom host_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// "NVIDIA H200, GPUs over NCCL"; "" on the CPU.
std::string link_text(const Device& device, GpuComm way);
// {"device": "NVIDIA H200", "gpu_comm": "nccl"}; of one process without gpu_comm; on the CPU {}.
nlohmann::json link_json(const Device& device, GpuComm way);

}  // namespace moe
