// main of a program that holds the tests of several sources (MOE_UNITY): `--source FILE` runs those of one that
// --gtest_filter takes (patterns with * and ?; without what is behind a minus).
// Not here: programs of one source; they have gtest_main's.
#include <fnmatch.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <sstream>
#include <string>

namespace {

bool taken(const std::string& name, const std::string& patterns) {
  std::istringstream each(patterns);
  for (std::string pattern; std::getline(each, pattern, ':');)
    if (fnmatch(pattern.c_str(), name.c_str(), 0) == 0) return true;
  return false;
}

// The names of the tests that `source` holds and the patterns take, as --gtest_filter has them; empty if there is none.
// Sources are known by their file names: compilers may be told to write folders otherwise.
std::string filter_of(const std::filesystem::path& source, const std::string& patterns) {
  std::string filter;
  const auto& all = *testing::UnitTest::GetInstance();
  for (int i = 0; i < all.total_test_suite_count(); ++i) {
    const testing::TestSuite& suite = *all.GetTestSuite(i);
    for (int k = 0; k < suite.total_test_count(); ++k) {
      const testing::TestInfo& test = *suite.GetTestInfo(k);
      const std::string name = std::string(suite.name()) + "." + test.name();
      if (std::filesystem::path(test.file()).filename() == source.filename() && taken(name, patterns)) filter += name + ":";
    }
  }
  return filter;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc != 3 || std::string(argv[1]) != "--source") {
    std::fprintf(stderr, "usage: %s --source FILE\n", argv[0]);
    return 2;
  }
  const std::string filter = filter_of(argv[2], GTEST_FLAG_GET(filter));
  if (filter.empty()) {
    std::fprintf(stderr, "no test of %s is here\n", argv[2]);
    return 1;
  }
  GTEST_FLAG_SET(filter, filter);
  return RUN_ALL_TESTS();
}
