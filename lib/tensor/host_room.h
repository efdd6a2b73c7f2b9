// Memory of the host that copies from and to a device run from and to without a detour and without the host
// (kernels/device.h: allocate_host), kept from use to use; and a number that kernels add to. Not here: memory of the device
// (arena.h).
#pragma once

#include <algorithm>
#include <new>
#include <span>

#include "lib/tensor/arena.h"

namespace moe {

class HostRoom {
 public:
  explicit HostRoom(const Device& device) : device_(device) {}
  HostRoom(const HostRoom&) = delete;
  HostRoom& operator=(const HostRoom&) = delete;
  ~HostRoom() { release(); }

  // Room for n elements. More than ever before: what was there is lost, and no copy may be on its way.
  template <class T>
  std::span<T> of(std::size_t n) {
    if (n * sizeof(T) > bytes_) grow(std::max(n * sizeof(T), bytes_ + bytes_ / 2));
    return {static_cast<T*>(data_), n};
  }

 private:
  void release() {
    if (data_) device_.release_host(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }
  void grow(std::size_t bytes) {
    release();
    data_ = device_.allocate_host(bytes);
    if (!data_) throw std::bad_alloc();
    bytes_ = bytes;
  }
  const Device& device_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// A double of the stream's device that kernels add to, and its copy on the host.
class DeviceNumber {
 public:
  explicit DeviceNumber(Stream& stream) : stream_(stream), arena_(64, stream.device()), room_(stream.device()) {
    number_ = arena_.vector<double>(1);
    room_.of<double>(1);
  }

  double* data() { return number_.data(); }
  void zero() { stream_.zero(number_.data(), sizeof(double)); }
  void fetch() { stream_.copy(room_.of<double>(1).data(), number_.data(), sizeof(double)); }
  double fetched() { return room_.of<double>(1)[0]; }  // when the stream has come to fetch()
  double wait() {
    fetch();
    stream_.synchronize();
    return fetched();
  }

 private:
  Stream& stream_;
  Arena arena_;
  HostRoom room_;
  std::span<double> number_;
};

}  // namespace moe
