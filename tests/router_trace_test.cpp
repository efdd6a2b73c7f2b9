// Router traces: what is recorded is read, the last steps are kept, nothing is left of a trace that was not finished, and
// what no router decides is refused.
#include "lib/io/router_trace.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <numeric>

#include "lib/base/error.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using Idx = std::vector<std::int16_t>;

class RouterTraceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "moe-trace-XXXXXX").string();
    dir_ = ::mkdtemp(pattern.data());
    path_ = dir_ + "/trace.h5";
  }
  void TearDown() override { fs::remove_all(dir_); }

  // 3 tokens, 2 layers, top-2 of 5 experts; every step another.
  Idx of_step(int step) const {
    Idx idx;
    for (int i = 0; i < 6; ++i) {
      idx.push_back(static_cast<std::int16_t>((step + i) % 5));
      idx.push_back(i == step % 6 ? std::int16_t{-1} : static_cast<std::int16_t>((step + i + 1 + i % 3) % 5));
    }
    return idx;
  }
  std::string write(std::int64_t most, int num_steps) {
    RouterTraceWriter w(path_, shape_, 3, most, true);
    for (int s = 1; s <= num_steps; ++s) w.add_step(10 * s, of_step(s));
    return w.finish(nlohmann::json::array());
  }
  std::size_t num_files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(dir_), fs::directory_iterator()));
  }

  std::string dir_, path_;
  RoutingShape shape_{{1, 3}, 5, 2};
};

template <class Action>
Exit code_of(Action action) {
  try {
    action();
    return Exit::kOk;
  } catch (const Error& e) {
    return e.code();
  }
}

TEST_F(RouterTraceTest, RoundTrip) {
  const std::string digest = write(0, 4);
  const RouterTrace t = read_router_trace(path_);
  EXPECT_EQ(t.shape.layers, shape_.layers);
  EXPECT_EQ(t.shape.num_experts, 5);
  EXPECT_EQ(t.shape.top_k, 2);
  EXPECT_EQ(t.tokens_per_step, 3);
  EXPECT_EQ(t.digest, digest);
  EXPECT_EQ(t.step_S, (std::vector<std::int64_t>{10, 20, 30, 40}));
  for (int s = 1; s <= 4; ++s) {
    const Idx want = of_step(s);
    for (std::size_t l = 0; l < 2; ++l)
      EXPECT_THAT(
          t.of(static_cast<std::size_t>(s - 1), l),
          ::testing::ElementsAreArray(want.begin() + static_cast<long>(6 * l), want.begin() + static_cast<long>(6 * l + 6)));
  }
  EXPECT_EQ(num_files(), 1U);
}

TEST_F(RouterTraceTest, KeepsTheLastSteps) {
  for (const int num_steps : {1, 2, 3, 4, 7, 9}) {
    write(3, num_steps);
    const RouterTrace t = read_router_trace(path_);
    const int kept = std::min(num_steps, 3);
    ASSERT_EQ(t.step_S.size(), static_cast<std::size_t>(kept));
    for (int i = 0; i < kept; ++i) {
      const int step = num_steps - kept + i + 1;
      EXPECT_EQ(t.step_S[static_cast<std::size_t>(i)], 10 * step);
      const Idx want = of_step(step);
      EXPECT_TRUE(std::equal(want.begin(), want.end(), t.idx_SLTK.begin() + 12 * i)) << "step " << step;
    }
  }
}

TEST_F(RouterTraceTest, NothingIsLeftOfWhatWasNotFinished) {
  { RouterTraceWriter(path_, shape_, 3, 2, false).add_step(1, of_step(1)); }
  EXPECT_EQ(num_files(), 0U);
  write(0, 1);
  EXPECT_EQ(code_of([&] { RouterTraceWriter(path_, shape_, 3, 2, false); }), Exit::kCannotCreate);
  const std::string before = read_router_trace(path_).digest;
  { RouterTraceWriter(path_, shape_, 3, 2, true).add_step(1, of_step(2)); }
  EXPECT_EQ(read_router_trace(path_).digest, before);
  EXPECT_EQ(num_files(), 1U);
}

TEST_F(RouterTraceTest, WhatIsRefused) {
  EXPECT_EQ(code_of([&] { read_router_trace(path_); }), Exit::kNoInput);
  EXPECT_EQ(code_of([&] { RouterTraceWriter(path_, {{}, 5, 2}, 3, 0, false); }), Exit::kUsage);
  EXPECT_EQ(code_of([&] { RouterTraceWriter(path_, {{0}, 32769, 2}, 3, 0, false); }), Exit::kUsage);
  RouterTraceWriter w(path_, shape_, 3, 0, false);
  EXPECT_EQ(code_of([&] { w.finish(nullptr); }), Exit::kInternal);
  w.add_step(5, of_step(1));
  EXPECT_EQ(code_of([&] { w.add_step(5, of_step(2)); }), Exit::kInternal);
  EXPECT_EQ(code_of([&] { w.add_step(6, Idx(11)); }), Exit::kInternal);
  for (const auto& [at, value] : std::vector<std::pair<std::size_t, int>>{{3, 5}, {3, -2}, {3, of_step(1)[2]}, {0, 32767}}) {
    Idx bad = of_step(1);
    bad[at] = static_cast<std::int16_t>(value);
    RouterTraceWriter b(path_, shape_, 3, 0, true);
    b.add_step(1, bad);
    b.finish(nullptr);
    EXPECT_EQ(code_of([&] { read_router_trace(path_); }), Exit::kBadInput) << at << " " << value;
  }
}

}  // namespace
}  // namespace moe
