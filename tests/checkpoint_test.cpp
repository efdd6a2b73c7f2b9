// Checkpoints: round trips over random cuts, a digest that ignores the cut, every kind of damage, and what is left after
// a fault at every single file operation of a save.
#include "lib/io/checkpoint.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "lib/io/digest.h"
#include "lib/io/manifest.h"
#include "tests/checkpoint_case.h"
#include "tests/compare.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

SavedCheckpoint save(const std::string& run, std::int64_t step, const std::vector<TensorSlice>& slices, KeepPolicy keep = {},
                     bool force = false) {
  return save_checkpoint(run, step, {{"step", step}, {"lr", 0.1}}, nlohmann::json::array(), slices, keep, force);
}

Values load_one(const CheckpointInfo& info, const std::string& name, std::size_t n, std::vector<std::int64_t> shape) {
  Values got(n);
  load_checkpoint(info, {whole(name, got, shape)});
  return got;
}

// Cuts a box into random parts along random dimensions.
std::vector<Box> random_cut(const Box& box, std::mt19937& random, int depth) {
  std::vector<std::size_t> splittable;
  for (std::size_t d = 0; d < box.extent.size(); ++d)
    if (box.extent[d] > 1) splittable.push_back(d);
  if (depth == 0 || splittable.empty()) return {box};
  const std::size_t d = splittable[random() % splittable.size()];
  const std::int64_t n = 1 + static_cast<std::int64_t>(random() % static_cast<unsigned>(box.extent[d] - 1));
  Box a = box, b = box;
  a.extent[d] = n;
  b.offset[d] += n;
  b.extent[d] -= n;
  auto parts = random_cut(a, random, depth - 1);
  for (auto& p : random_cut(b, random, depth - 1)) parts.push_back(p);
  return parts;
}

// The slices of a tensor cut as `boxes`, with memory of their own in `store`.
std::vector<TensorSlice> cut(const Values& values, const std::vector<std::int64_t>& shape, const std::vector<Box>& boxes,
                             std::vector<Values>& store) {
  std::vector<TensorSlice> slices;
  store.assign(boxes.size(), {});
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    for (std::int64_t n = 0; n < elements_of(shape); ++n) {  // plain loop over all elements: the specification
      std::int64_t rest = n;
      bool inside = true;
      for (std::size_t d = shape.size(); d-- > 0; rest /= shape[d]) {
        const std::int64_t x = rest % shape[d];
        inside = inside && x >= boxes[i].offset[d] && x < boxes[i].offset[d] + boxes[i].extent[d];
      }
      if (inside) store[i].push_back(values[static_cast<std::size_t>(n)]);
    }
    slices.push_back({"w", "weight", DType::kF32, shape, boxes[i].offset, boxes[i].extent, store[i].data()});
  }
  return slices;
}

TEST_F(CheckpointTest, RoundTripKeepsEveryBit) {
  Values a = random_bits(7 * 13, 1), b = random_bits(1, 2), scalar = random_bits(1, 3);
  std::vector<std::uint16_t> half = {1, 0x7f7f, 0xff7f, 0};
  std::vector<TensorSlice> slices = {whole("layers.0.a", a, {7, 13}), whole("b", b, {1}), whole("s", scalar, {}),
                                     whole("b", a, {7, 13}, "m")};
  slices.push_back({"half", "weight", DType::kBF16, {2, 2}, {0, 0}, {2, 2}, half.data()});
  const SavedCheckpoint saved = save(run_, 1000, slices);
  EXPECT_EQ(saved.path, run_ + "/step-00001000");
  EXPECT_EQ(names_in(run_), (std::vector<std::string>{"latest", "step-00001000"}));

  const CheckpointInfo info = open_checkpoint(run_);
  EXPECT_EQ(info.step, 1000);
  EXPECT_EQ(info.state.at("lr"), 0.1);
  EXPECT_EQ(info.digest, saved.digest);
  EXPECT_EQ(info.tensors.size(), 5u);
  Values a2(a.size()), b2(1), s2(1), m2(a.size());
  std::vector<std::uint16_t> half2(4);
  std::vector<TensorSlice> want = {whole("layers.0.a", a2, {7, 13}), whole("b", b2, {1}), whole("s", s2, {}),
                                   whole("b", m2, {7, 13}, "m")};
  want.push_back({"half", "weight", DType::kBF16, {2, 2}, {0, 0}, {2, 2}, half2.data()});
  load_checkpoint(info, want);
  EXPECT_EQ(a2, a);
  EXPECT_EQ(b2, b);
  EXPECT_EQ(s2, scalar);
  EXPECT_EQ(m2, a);
  EXPECT_EQ(half2, half);
}

TEST_F(CheckpointTest, AnyCutLoadsAsAnyOtherAndHasTheSameDigest) {
  std::mt19937 random(7);
  const std::vector<std::vector<std::int64_t>> shapes = {{1}, {7}, {5, 3}, {3, 4, 5}, {2, 3, 1, 7}};
  for (const auto& shape : shapes) {
    const Values values = random_bits(static_cast<std::size_t>(elements_of(shape)), 11);
    const Box all{std::vector<std::int64_t>(shape.size(), 0), shape};
    std::string digest;
    for (int trial = 0; trial < 8; ++trial) {
      std::vector<Values> store, target;
      const auto slices = cut(values, shape, random_cut(all, random, trial % 4), store);
      const std::string run = run_ + joined(shape) + "-" + std::to_string(trial);
      const SavedCheckpoint saved = save(run, trial, slices);
      if (trial == 0) digest = saved.digest;
      EXPECT_EQ(saved.digest, digest) << "rank " << shape.size() << " trial " << trial;

      const auto boxes = random_cut(all, random, 3);
      const auto want = cut(values, shape, boxes, target);
      const auto expected = target;
      for (auto& t : target) std::fill(t.begin(), t.end(), 0u);
      load_checkpoint(open_checkpoint(run), want);
      EXPECT_EQ(target, expected);
    }
  }
}

TEST(ElementSum, AgreesWithItsDefinition) {
  const Values v = {0, 1, 0xffffffff, 12345};
  ElementSum sum("name\nweight\nfp32\n4");
  sum.add(5, v);
  const std::uint64_t key = xxh3("name\nweight\nfp32\n4").low;
  __extension__ unsigned __int128 want = 0;
  for (std::size_t i = 0; i < v.size(); ++i) {
    std::uint64_t x = key + (5 + i) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    want += static_cast<decltype(want)>(x) * (std::uint64_t{v[i]} + 1);
  }
  EXPECT_EQ(sum.value().low, static_cast<std::uint64_t>(want));
  EXPECT_EQ(sum.value().high, static_cast<std::uint64_t>(want >> 64));
}

TEST(ElementSum, SeesSwapsSignsAndNames) {
  Values v = random_bits(100, 3);
  const auto digest = [](const Values& x, const char* name = "a") {
    ElementSum s(name);
    s.add(0, x);
    return s.value();
  };
  const Digest before = digest(v);
  EXPECT_NE(digest(v, "b"), before);
  Values swapped = v;
  std::swap(swapped[3], swapped[4]);
  EXPECT_NE(digest(swapped), before);
  Values sign = v;
  sign[99] ^= 0x80000000u;
  EXPECT_NE(digest(sign), before);
}

TEST(Digest, IsXxh3) {
  EXPECT_EQ(xxh3("").hex(), "99aa06d3014798d86001c324468d497f");  // published value of XXH3-128 of nothing, seed 0
}

TEST(Coverage, GapsOverlapsAndOutliersAreSeen) {
  EXPECT_EQ(coverage_fault({4, 2}, {{{0, 0}, {4, 1}}, {{0, 1}, {4, 1}}}), "");
  EXPECT_EQ(coverage_fault({}, {{{}, {}}}), "");
  EXPECT_EQ(coverage_fault({0, 3}, {}), "");
  EXPECT_THAT(coverage_fault({4}, {{{0}, {3}}}), HasSubstr("expected slices of 4 elements, found 3"));
  EXPECT_THAT(coverage_fault({4}, {{{0}, {2}}, {{1}, {2}}}), HasSubstr("overlap"));
  EXPECT_THAT(coverage_fault({4}, {{{2}, {3}}}), HasSubstr("outside"));
  EXPECT_THAT(coverage_fault({4}, {{{0}, {4}}, {{0}, {4}}}), HasSubstr("more than"));
}

TEST_F(CheckpointTest, WrongModelNamesAllOfBoth) {
  Values a = random_bits(4, 1), b = a, c = a;
  save(run_, 1, {whole("a", a, {4}), whole("b", b, {4}), whole("a", c, {4}, "m")});
  const CheckpointInfo info = open_checkpoint(run_);
  std::string m;
  EXPECT_EQ(code_of(
                [&] {
                  load_checkpoint(info, {whole("a", a, {2, 2}), whole("x", b, {4}), whole("y", c, {4})});
                },
                m),
            Exit::kBadInput);
  for (const char* part : {"missing: x (weight), y (weight)", "unexpected: a (m), b (weight)",
                           "a (weight) expected fp32 [2,2], found fp32 [4]"})
    EXPECT_THAT(m, HasSubstr(part));
  EXPECT_EQ(code_of([&] { load_checkpoint(info, {whole("a", a, {4}), whole("b", b, {4})}); }, m), Exit::kBadInput);
  EXPECT_EQ(code_of([&] { load_checkpoint(info, {whole("a", a, {4}), whole("b", b, {4})}, {"m"}); }, m), Exit::kOk);
}

TEST_F(CheckpointTest, DamageIsRefusedWithItsCode) {
  Values a = random_bits(1000, 1);
  const std::string path = save(run_, 1, {whole("a", a, {1000})}).path, other = dir_ + "/other";
  const std::string shard = "/shard-00000.h5", manifest = "/manifest.json";
  const auto size = static_cast<std::int64_t>(fs::file_size(path + shard));
  const auto try_load = [&](const std::string& p, std::string& m) {
    return code_of([&] { load_one(open_checkpoint(p), "a", 1000, {1000}); }, m);
  };
  const auto damaged = [&](auto change) {
    fs::remove_all(other);
    fs::copy(path, other, fs::copy_options::recursive);
    change();
    std::string m;
    const Exit code = try_load(other, m);
    EXPECT_EQ(m.find('\n'), std::string::npos) << m;
    return std::pair(code, m);
  };
  std::string m;
  ASSERT_EQ(try_load(path, m), Exit::kOk) << m;
  // Every byte of payload is guarded; look at some. HDF5's own metadata may have unused bytes: then the load must be right.
  for (std::int64_t at = 0; at < size; at += 37) {
    const auto [code, message] = damaged([&] { flip_bit(other + shard, at); });
    if (code == Exit::kOk)
      EXPECT_EQ(load_one(open_checkpoint(other), "a", 1000, {1000}), a) << "byte " << at;
    else
      EXPECT_EQ(code, Exit::kBadInput) << "byte " << at << ": " << message;
  }
  const auto flipped = damaged([&] { flip_bit(other + shard, size / 2); });
  EXPECT_EQ(flipped.first, Exit::kBadInput);
  EXPECT_THAT(flipped.second, HasSubstr("tensor a (weight), slice at [0]: expected digest"));
  for (std::int64_t at = 0; at < static_cast<std::int64_t>(fs::file_size(path + manifest)); at += 11)
    EXPECT_EQ(damaged([&] { flip_bit(other + manifest, at); }).first, Exit::kBadInput) << at;

  EXPECT_EQ(damaged([&] { fs::resize_file(other + shard, static_cast<std::uintmax_t>(size - 1)); }).first, Exit::kBadInput);
  EXPECT_EQ(damaged([&] { fs::resize_file(other + shard, static_cast<std::uintmax_t>(size + 1)); }).first, Exit::kBadInput);
  EXPECT_EQ(damaged([&] { fs::resize_file(other + manifest, 100); }).first, Exit::kBadInput);
  EXPECT_EQ(damaged([&] { fs::resize_file(other + manifest, 0); }).first, Exit::kBadInput);
  const auto gone = damaged([&] { fs::remove(other + shard); });
  EXPECT_EQ(gone.first, Exit::kNoInput);
  EXPECT_THAT(gone.second, HasSubstr("missing: shard-00000.h5"));
  EXPECT_EQ(damaged([&] { std::ofstream(other + shard) << std::string(static_cast<std::size_t>(size), 'x'); }).first,
            Exit::kBadInput);
}

TEST_F(CheckpointTest, FilesOfTwoSavesDoNotMix) {
  Values a = random_bits(1000, 1), b = random_bits(1000, 2);
  const std::string one = save(run_, 1, {whole("a", a, {1000})}).path, two = save(run_, 2, {whole("a", b, {1000})}).path;
  fs::copy(one + "/shard-00000.h5", two + "/shard-00000.h5", fs::copy_options::overwrite_existing);
  std::string m;
  EXPECT_EQ(code_of([&] { load_one(open_checkpoint(two), "a", 1000, {1000}); }, m), Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("expected a file of save"));
  EXPECT_EQ(open_checkpoint(run_).step, 1) << "the damaged latest is passed over";
}

TEST_F(CheckpointTest, NothingThere) {
  std::string m;
  EXPECT_EQ(code_of([&] { open_checkpoint(run_); }, m), Exit::kNoInput);
  EXPECT_FALSE(has_checkpoint(run_));
  fs::create_directories(run_ + "/step-00000001");
  EXPECT_EQ(code_of([&] { open_checkpoint(run_); }, m), Exit::kNoInput);
  EXPECT_TRUE(has_checkpoint(run_)) << "a broken one is there: no run begins over it as if it were not";
}

TEST_F(CheckpointTest, LatestThatLeadsNowhereIsReplacedByTheNewest) {
  Values a = random_bits(5, 1), b = random_bits(5, 2);
  save(run_, 1, {whole("a", a, {5})});
  save(run_, 2, {whole("a", b, {5})});
  for (const char* text : {"", "step-00000009\n", "../../etc\n", "nonsense"}) {
    std::ofstream(run_ + "/latest") << text;
    EXPECT_EQ(open_checkpoint(run_).step, 2) << text;
  }
  fs::remove(run_ + "/latest");
  EXPECT_EQ(open_checkpoint(run_).step, 2);
  EXPECT_TRUE(has_checkpoint(run_));
}

TEST_F(CheckpointTest, SameStepAgain) {
  Values a = random_bits(5, 1), b = random_bits(5, 2);
  save(run_, 1, {whole("a", a, {5})});
  const auto written = fs::last_write_time(run_ + "/step-00000001/manifest.json");
  EXPECT_NO_THROW(save(run_, 1, {whole("a", a, {5})}));
  EXPECT_EQ(fs::last_write_time(run_ + "/step-00000001/manifest.json"), written) << "the same tensors are kept as they are";
  std::string m;
  EXPECT_EQ(code_of([&] { save(run_, 1, {whole("a", b, {5})}); }, m), Exit::kCannotCreate);
  EXPECT_EQ(load_one(open_checkpoint(run_), "a", 5, {5}), a);
  save(run_, 1, {whole("a", b, {5})}, {}, true);
  EXPECT_EQ(load_one(open_checkpoint(run_), "a", 5, {5}), b);
  EXPECT_EQ(names_in(run_), (std::vector<std::string>{"latest", "step-00000001"}));
}

TEST_F(CheckpointTest, KeepPolicy) {
  Values a = random_bits(5, 1);
  for (std::int64_t step = 1; step <= 9; ++step) save(run_, step, {whole("a", a, {5})}, {2, 4});
  EXPECT_EQ(names_in(run_), (std::vector<std::string>{"latest", "step-00000004", "step-00000008", "step-00000009"}));
  flip_bit(run_ + "/step-00000009/manifest.json", 60);
  save(run_, 10, {whole("a", a, {5})}, {0, 0});  // at least one stays; the broken one is not counted and not touched
  EXPECT_EQ(names_in(run_), (std::vector<std::string>{"latest", "step-00000009", "step-00000010"}));
}

TEST_F(CheckpointTest, ABadBoxIsOurBug) {
  Values a = random_bits(6, 1);
  std::string m;
  TensorSlice half = whole("a", a, {6});
  half.extent = {5};
  EXPECT_EQ(code_of([&] { save(run_, 1, {half}); }, m), Exit::kInternal);
  EXPECT_FALSE(has_checkpoint(run_));
}

// One save in a child with a fault planned for operation n; returns its wait status. 0: the save succeeded.
int save_in_child(const std::string& run, std::int64_t step, Values& v, int n, const char* error, bool force) {
  const pid_t child = ::fork();
  if (child != 0) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return status;
  }
  ::setenv("MOE_FAULT", ("op=any,n=" + std::to_string(n) + ",err=" + error).c_str(), 1);
  try {
    save(run, step, {whole("a", v, {50, 4}), whole("b", v, {200}, "m")}, {2, 0}, force);
    ::_exit(0);
  } catch (const Error& e) {
    ::_exit(static_cast<int>(e.code()));
  }
}

// What must hold after a fault at operation n; a and b are what the run directory loads.
void check_after(const std::string& run, int status, const Values& v1, const Values& v2, bool force) {
  const bool succeeded = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (WIFEXITED(status) && !succeeded) {
    EXPECT_EQ(WEXITSTATUS(status), 74);
    for (const std::string& name : names_in(run)) EXPECT_FALSE(name.starts_with(".tmp-step")) << name;
  }
  const CheckpointInfo info = open_checkpoint(run);
  Values a(200), b(200);
  load_checkpoint(info, {whole("a", a, {50, 4}), whole("b", b, {200}, "m")});
  EXPECT_TRUE(a == v1 || a == v2);
  EXPECT_EQ(a, b);
  if (!force) {
    EXPECT_EQ(a, info.step == 1 ? v1 : v2);
  }
  if (succeeded) {
    EXPECT_EQ(a, v2);
  }
}

// After a fault at every operation in turn, the run directory holds exactly the old checkpoint or exactly the new one, and
// the next save works and clears up.
void strike_everywhere(const std::string& base, const char* error, bool force) {
  Values v1 = random_bits(200, 1), v2 = random_bits(200, 2);
  // Failures of clearing up do not fail a save, so the first success may still have met a fault; some later ones have not.
  int successes = 0, n = 1;
  for (; successes < 12; ++n) {
    SCOPED_TRACE("operation " + std::to_string(n));
    const std::string run = base + std::to_string(n);
    save(run, 1, {whole("a", v1, {50, 4}), whole("b", v1, {200}, "m")});
    const int status = save_in_child(run, force ? 1 : 2, v2, n, error, force);
    ASSERT_TRUE(WIFEXITED(status) || WTERMSIG(status) == SIGKILL);
    successes += WIFEXITED(status) && WEXITSTATUS(status) == 0;
    check_after(run, status, v1, v2, force);

    save(run, 3, {whole("a", v2, {50, 4}), whole("b", v2, {200}, "m")});
    EXPECT_EQ(open_checkpoint(run).step, 3);
    for (const std::string& name : names_in(run)) EXPECT_FALSE(name.starts_with(".")) << name;
    fs::remove_all(run);
    ASSERT_LT(n, 1000);
  }
  EXPECT_GT(n - successes, 30) << "the faults did not strike";
}

TEST_F(CheckpointTest, KilledAtAnyOperation) { strike_everywhere(run_, "kill", false); }
TEST_F(CheckpointTest, KilledAtAnyOperationWhileReplacing) { strike_everywhere(run_, "kill", true); }
TEST_F(CheckpointTest, DiskFullAtAnyOperation) { strike_everywhere(run_, "ENOSPC", false); }
TEST_F(CheckpointTest, DiskFullAtAnyOperationWhileReplacing) { strike_everywhere(run_, "ENOSPC", true); }

TEST(StrictJson, DuplicatesDepthAndNonsense) {
  std::string m;
  EXPECT_EQ(code_of([] { parse_strict_json(R"({"a":1,"a":2})", "f"); }, m), Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("key 'a' stands twice"));
  EXPECT_EQ(code_of([] { parse_strict_json(R"({"a":{"a":1},"b":[{"a":1},{"a":2}]})", "f"); }, m), Exit::kOk);
  EXPECT_EQ(code_of([] { parse_strict_json(std::string(100000, '['), "f"); }, m), Exit::kBadInput);
  EXPECT_EQ(code_of([] { parse_strict_json("{\"a\":\"\xff\"}", "f"); }, m), Exit::kBadInput);
}

}  // namespace
}  // namespace moe
