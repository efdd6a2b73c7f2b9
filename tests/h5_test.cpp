// The HDF5 layer: round trips, alignment, kind, version and complete mark, and what only other programs would write.
#include "lib/io/h5.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "lib/base/error.h"
#include "lib/io/files.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

class H5Test : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "moe-h5-XXXXXX").string();
    dir_ = ::mkdtemp(pattern.data());
    path_ = dir_ + "/a.h5";
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string dir_, path_;
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

TEST_F(H5Test, RoundTripAndAlignment) {
  const std::vector<float> f = {1.5f, -0.0f, 3e38f, 1, 2, 3};
  const std::vector<std::int64_t> i = {-1, INT64_MAX, INT64_MIN};
  {
    H5Writer w(path_, "test", 1);
    w.write("f", H5Type::kF32, {3, 2}, f.data());
    w.create("i", H5Type::kI64, {3});
    w.write_rows("i", 1, 2, i.data() + 1);
    w.write_rows("i", 0, 1, i.data());
    w.write("none", H5Type::kU8, {0}, nullptr);
    w.write_text("text", std::string(100000, 'x'));
    w.attribute("empty", "");
    w.attribute("name", "caf\xc3\xa9", "f");
    w.finish();
  }
  const H5Reader r(path_, "test", 1);
  std::vector<float> f2(6);
  std::vector<std::int64_t> i2(2);
  r.read("f", H5Type::kF32, {3, 2}, f2.data());
  r.read_rows("i", 1, 2, i2.data());
  EXPECT_EQ(f2, f);
  EXPECT_EQ(i2, (std::vector<std::int64_t>{INT64_MAX, INT64_MIN}));
  EXPECT_EQ(r.dataset("none").elements(), 0);
  EXPECT_EQ(r.read_text("text", 100000).size(), 100000u);
  EXPECT_EQ(r.attribute_text("empty"), "");
  EXPECT_EQ(r.attribute_text("name", "f"), "caf\xc3\xa9");
  for (const char* name : {"text"}) EXPECT_EQ(r.dataset(name).file_offset % 64, 0) << name;

  EXPECT_FALSE(r.has("g"));
  EXPECT_EQ(code_of([&] { r.dataset("g"); }), Exit::kBadInput);
  EXPECT_EQ(code_of([&] { r.dataset("../f"); }), Exit::kBadInput);
  EXPECT_EQ(code_of([&] { r.read("f", H5Type::kF32, {2, 3}, f2.data()); }), Exit::kBadInput);
  EXPECT_EQ(code_of([&] { r.read("f", H5Type::kU32, {3, 2}, f2.data()); }), Exit::kBadInput);
  EXPECT_EQ(code_of([&] { r.read_text("text", 99999); }), Exit::kBadInput);
  EXPECT_EQ(code_of([&] { r.attribute_int("kind"); }), Exit::kBadInput);
  EXPECT_EQ(code_of([&] { r.read_rows("i", 2, 2, i2.data()); }), Exit::kInternal);
}

TEST_F(H5Test, KindVersionAndCompleteMark) {
  { H5Writer(path_, "test", 2).finish(); }
  EXPECT_EQ(code_of([&] { H5Reader(path_, "test", 2); }), Exit::kOk);
  EXPECT_EQ(code_of([&] { H5Reader(path_, "test", 1); }), Exit::kBadInput) << "newer than known";
  EXPECT_EQ(code_of([&] { H5Reader(path_, "other", 2); }), Exit::kBadInput);
  EXPECT_EQ(code_of([&] { H5Writer(path_, "test", 2); }), Exit::kCannotCreate);
  EXPECT_EQ(code_of([&] { H5Reader(dir_ + "/none", "test", 2); }), Exit::kNoInput);
  { H5Writer abandoned(dir_ + "/b.h5", "test", 1); }
  EXPECT_EQ(code_of([&] { H5Reader(dir_ + "/b.h5", "test", 1); }), Exit::kBadInput);
}

// A failure of the n-th write, for every n, is an Error 74 and never a file that a reader takes for complete.
TEST_F(H5Test, FullDiskIsNeverHidden) {
  const std::vector<float> data(10000, 1);
  bool done = false;
  int n = 1;
  for (; !done; ++n) {
    ::setenv("MOE_FAULT", ("op=write,n=" + std::to_string(n) + ",err=ENOSPC").c_str(), 1);
    const Exit code = code_of([&] {
      H5Writer w(path_, "test", 1);
      w.write("f", H5Type::kF32, {10000}, data.data());
      w.finish();
    });
    ::unsetenv("MOE_FAULT");
    done = code == Exit::kOk;
    EXPECT_TRUE(done || code == Exit::kIo) << n;
    std::vector<float> got(10000, 0);
    const Exit reading = code_of([&] { H5Reader(path_, "test", 1).read("f", H5Type::kF32, {10000}, got.data()); });
    EXPECT_TRUE(reading == Exit::kOk ? got == data : !done && reading == Exit::kBadInput) << n;
    fs::remove(path_);
    ASSERT_LT(n, 100);
  }
  EXPECT_GT(n, 3);
}

TEST(Files, OwnersAndPaths) {
  EXPECT_FALSE(owner_is_gone(".tmp-x-" + unique_suffix())) << "we live";
  EXPECT_FALSE(owner_is_gone(".tmp-x-otherhost-1-00"));
  std::string gone = unique_suffix();  // HOST-PID-NONCE
  gone.replace(gone.find('-') + 1, gone.rfind('-') - gone.find('-') - 1, "99999999");
  EXPECT_TRUE(owner_is_gone(".tmp-x-" + gone));
  EXPECT_EQ(parent_directory("a/b/"), "a");
  EXPECT_EQ(parent_directory("/a"), "/");
  EXPECT_EQ(parent_directory("a"), ".");
  EXPECT_EQ(base_name("a/b/"), "b");
  EXPECT_EQ(code_of([] { require_free_space("/tmp", INT64_MAX / 2); }), Exit::kIo);
}

}  // namespace
}  // namespace moe
