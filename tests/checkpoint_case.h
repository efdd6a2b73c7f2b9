// What tests of checkpoints share: a directory that goes away, values, slices, damage. Not here: judgements.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "lib/base/error.h"
#include "lib/io/box.h"
#include "lib/io/checkpoint.h"

namespace moe {

namespace fs = std::filesystem;
using Values = std::vector<std::uint32_t>;  // bit patterns of finite numbers

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Memory where there is such a file system: these tests sync thousands of times.
    std::string pattern =
        (fs::is_directory("/dev/shm") ? "/dev/shm" : fs::temp_directory_path().string()) + "/moe-checkpoint-XXXXXX";
    dir_ = ::mkdtemp(pattern.data());
    run_ = dir_ + "/run";
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string dir_, run_;
};

inline Values random_bits(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  Values v(n);
  for (auto& x : v) x = random() & 0xff7fffffu;  // one bit of the exponent is zero: finite
  return v;
}

inline TensorSlice whole(const std::string& name, Values& v, std::vector<std::int64_t> shape,
                         const std::string& role = "weight") {
  return {name, role, DType::kF32, shape, std::vector<std::int64_t>(shape.size(), 0), shape, v.data()};
}

// The code of the Error that `action` throws, its text in `message`; kOk if it throws none.
template <class Action>
Exit code_of(Action action, std::string& message) {
  try {
    action();
    return Exit::kOk;
  } catch (const Error& e) {
    message = e.what();
    return e.code();
  }
}

inline std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  for (const auto& e : fs::directory_iterator(dir)) names.push_back(e.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

inline void flip_bit(const std::string& path, std::int64_t at) {
  std::fstream f(path, std::ios::in | std::ios::out | std::ios::binary);
  f.seekg(at);
  const char c = static_cast<char>(f.get() ^ 4);
  f.seekp(at);
  f.put(c);
}

}  // namespace moe
