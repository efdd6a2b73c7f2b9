// main of a program that holds the tests of several sources (MOE_UNITY): `--source FILE` runs those of one; without it
// --gtest_filter says which.
// Not here: programs of one source; they have gtest_main's.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

namespace {

// The names of the tests that `source` holds, as --gtest_filter takes them; empty if there is none.
std::string filter_of(const std::string& source) {
  std::string filter;
  const auto& all = *testing::UnitTest::GetInstance();
  for (int i = 0; i < all.total_test_suite_count(); ++i) {
    const testing::TestSuite& suite = *all.GetTestSuite(i);
    for (int k = 0; k < suite.total_test_count(); ++k) {
      const testing::TestInfo& test = *suite.GetTestInfo(k);
      if (source == test.file()) filter += std::string(suite.name()) + "." + test.name() + ":";
    }
  }
  return filter;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc == 1) return RUN_ALL_TESTS();
  if (argc != 3 || std::string(argv[1]) != "--source") {
    std::fprintf(stderr, "usage: %s --source FILE\n", argv[0]);
    return 2;
  }
  const std::string filter = filter_of(argv[2]);
  if (filter.empty()) {
    std::fprintf(stderr, "no test of %s is here\n", argv[2]);
    return 1;
  }
  GTEST_FLAG_SET(filter, filter);
  return RUN_ALL_TESTS();
}
