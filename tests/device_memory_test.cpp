// Memory of a device that is there only where it was committed (kernels/device.h, lib/tensor/arena.h). Not here: what grows
// in it (cuda_train_test.sh).
#include <gtest/gtest.h>

#include <vector>

#include "lib/tensor/arena.h"
#include "tests/kernel_device.h"

namespace moe {
namespace {

std::size_t used_bytes() {
  std::size_t used = 0, total = 0;
  kernel_device().memory(&used, &total);
  return used;
}

std::vector<float> numbers(std::int64_t n, float first) {
  std::vector<float> v;
  for (std::int64_t i = 0; i < n; ++i) v.push_back(first + static_cast<float>(i));
  return v;
}

TEST(DeviceMemory, IsThereWhereItWasCommitted) {
  constexpr std::int64_t kRows = 1 << 16, kCols = 64;  // 16 MiB each
  Stream stream(kernel_device(), 1);
  const std::size_t before = used_bytes();
  {
    Arena arena(2 * sizeof(float) * kRows * kCols, kernel_device(), Arena::Backing::kOnDemand);
    const Mat a = arena.matrix(DType::kF32, kRows, kCols), b = arena.matrix(DType::kF32, kRows, kCols);
    if (tests_cuda()) {
      EXPECT_LT(used_bytes() - before, std::size_t{1} << 20);
    }
    std::vector<float> want_a, want_b;
    for (const std::int64_t rows : {3, 1000, 999, 20'000}) {  // what was there stays
      commit_rows(kernel_device(), a, rows);
      commit_rows(kernel_device(), b, rows);
      if (const auto n = static_cast<std::size_t>(rows * kCols); n > want_a.size()) {
        want_a = numbers(rows * kCols, 1);
        want_b = numbers(rows * kCols, 0.5f);
        stream.copy(a.data, want_a.data(), n / 2 * sizeof(float));
        stream.copy(a.f32() + n / 2, want_a.data() + n / 2, (n - n / 2) * sizeof(float));
        stream.copy(b.data, want_b.data(), n * sizeof(float));
      }
      std::vector<float> got_a(want_a.size()), got_b(want_b.size());
      stream.copy(got_a.data(), a.data, got_a.size() * sizeof(float));
      stream.copy(got_b.data(), b.data, got_b.size() * sizeof(float));
      stream.synchronize();
      EXPECT_EQ(got_a, want_a) << rows;
      EXPECT_EQ(got_b, want_b) << rows;
    }
    if (tests_cuda()) {
      EXPECT_LT(used_bytes() - before, std::size_t{20} << 20) << "5 MiB each, in pages";
    }
    commit_rows(kernel_device(), Mat{}, 7);  // a matrix that a model does not have
  }
  if (tests_cuda()) {
    EXPECT_LE(used_bytes(), before + (std::size_t{1} << 20)) << "given back";
  }
}

TEST(DeviceMemory, WhatWasNotReservedIsRefused) {
  if (!tests_cuda()) GTEST_SKIP() << "on the CPU memory is where it is touched";
  Arena arena(1 << 20, kernel_device(), Arena::Backing::kOnDemand), other(1 << 20, kernel_device());
  const Mat a = arena.matrix(DType::kF32, 1, 100), b = other.matrix(DType::kF32, 1, 100);
  EXPECT_THROW(commit(kernel_device(), a.data, std::size_t{1} << 30), std::runtime_error);
  EXPECT_THROW(commit(kernel_device(), b.data, 100), std::runtime_error);
}

}  // namespace
}  // namespace moe
