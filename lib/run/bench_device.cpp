#include "lib/run/bench_device.h"

#include <algorithm>
#include <new>
#include <nlohmann/json.hpp>

#include "lib/run/gpu_comm.h"

namespace moe {

DeviceLink::DeviceLink(World& world, Comm& host, const Compute& compute, GpuComm way)
    : host_(host), kernels_(compute.kernels), stream_(compute.device, 1), nccl_waits_{world.watchdog(), world.rank()} {
  if (compute.on_cpu()) return;
  world.lane().call("open", [&] { comm_ = make_device_comm(way, "bench", host, stream_, nccl_waits_); });
}

void ImagedRoom::release() {
  if (data_) stream_.device().release(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
}

void* ImagedRoom::data(std::size_t bytes) {
  if (bytes <= bytes_) return data_;
  const std::size_t wanted = std::max(bytes, bytes_ + bytes_ / 2);
  stream_.synchronize();  // what is in it may still be read
  release();
  data_ = stream_.device().allocate(wanted);
  if (!data_) throw std::bad_alloc();
  bytes_ = wanted;
  return data_;
}

void* ImagedRoom::image(std::size_t bytes) {
  return stream_.is_cpu() ? data(bytes) : static_cast<void*>(host_.of<std::byte>(bytes).data());
}

void ImagedRoom::push(std::size_t bytes) {
  if (stream_.is_cpu()) return;
  stream_.copy(data(bytes), image(bytes), bytes);
  stream_.synchronize();
}

void ImagedRoom::pull(std::size_t bytes) {
  if (stream_.is_cpu()) return;
  stream_.copy(image(bytes), data(bytes), bytes);
  stream_.synchronize();
}

std::string link_text(const Device& device, GpuComm way) {
  return device.kind == DeviceKind::kCpu ? "" : device.name + gpu_comm_text(way);
}

nlohmann::json link_json(const Device& device, GpuComm way) {
  if (device.kind == DeviceKind::kCpu) return nlohmann::json::object();
  nlohmann::json json = {{"device", device.name}};
  if (way != GpuComm::kAuto) json["gpu_comm"] = way == GpuComm::kNccl ? "nccl" : "staged";
  return json;
}

}  // namespace moe
