// A loop shared out among threads that do more than compute (read, hash, write): who is free takes the next.
// Not here: kernels, which have their own (kernels/device.h).
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace moe {

// body(i, thread) for i = 0 .. n - 1, each once, taken in this order by `num_threads` threads (the caller is one). The first
// exception stops the taking and is thrown when all have ended.
template <class Body>
void for_each_on_threads(std::size_t n, int num_threads, Body body) {
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr first;
  const auto work = [&](std::size_t thread) {
    try {
      for (std::size_t i = next++; i < n; i = next++) body(i, thread);
    } catch (...) {
      next = n;
      const std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> others;
    for (std::size_t t = 1; t < static_cast<std::size_t>(num_threads) && t < n; ++t) others.emplace_back(work, t);
    work(0);
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace moe
