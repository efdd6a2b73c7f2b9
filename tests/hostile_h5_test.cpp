// HDF5 files that lead elsewhere or are not what a dataset of ours can be (scenario 9): all refused, and no other file is
// opened. The files are made by scripts/golden/make_hostile_h5.py; secret.h5 and secret.bin beside them must stay unread.
#include <gmock/gmock.h>

#include <filesystem>
#include <set>

#include "lib/base/error.h"
#include "lib/io/h5.h"
#include "tests/opened_files.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

const std::string kDirectory = std::string(MOE_SOURCE_DIR) + "/tests/golden/hostile";

// The message of the Error, or what was read.
std::string outcome(const std::string& path, Exit& code) try {
  std::vector<float> values(16);
  const H5Reader h5(path, "test", 1);
  h5.read("d", H5Type::kF32, {16}, values.data());
  code = Exit::kOk;
  return "read " + std::to_string(values[15]);
} catch (const Error& e) {
  code = e.code();
  return e.what();
}

TEST(HostileH5, ThePlainFileIsRead) {
  Exit code{};
  EXPECT_EQ(outcome(kDirectory + "/plain.h5", code), "read 15.000000");
  EXPECT_THAT(opened_files(), ::testing::Not(::testing::IsEmpty())) << "the watch on files sees nothing";
}

TEST(HostileH5, AllOthersAreRefusedAndNothingElseIsOpened) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(kDirectory)) {
    const std::string path = entry.path(), name = entry.path().stem();
    if (entry.path().extension() != ".h5" || name == "plain" || name == "secret") continue;
    opened_files().clear();
    Exit code{};
    EXPECT_THAT(outcome(path, code), ::testing::StartsWith(path)) << name;
    EXPECT_EQ(code, Exit::kBadInput) << name;
    const std::vector<std::string> opened = opened_files();
    EXPECT_EQ(std::set<std::string>(opened.begin(), opened.end()), std::set{path}) << name;
    ++count;
  }
  EXPECT_EQ(count, 22);
}

TEST(HostileH5, WhatIsWrongIsSaid) {
  const auto says = [](const char* name) {
    Exit code{};
    return outcome(kDirectory + "/" + name + ".h5", code);
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(says("external_link"), HasSubstr("link to elsewhere"));
  EXPECT_THAT(says("soft_loop"), HasSubstr("link to elsewhere"));
  EXPECT_THAT(says("external_storage"), HasSubstr("contiguous storage in this file"));
  EXPECT_THAT(says("virtual"), HasSubstr("contiguous storage in this file"));
  EXPECT_THAT(says("unknown_filter"), HasSubstr("without filters"));
  EXPECT_THAT(says("huge"), HasSubstr("outside of the file"));
  EXPECT_THAT(says("vlen"), HasSubstr("expected a little-endian"));
  EXPECT_THAT(says("old_superblock"), HasSubstr("superblock version"));
  EXPECT_THAT(says("extension"), HasSubstr("superblock extension"));
}

}  // namespace
}  // namespace moe
