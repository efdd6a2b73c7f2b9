// Plan files: what is written is read, whole; a damaged or inconsistent file is refused; a plan with faults passes only
// where it is asked for. Not here: damage by the thousand (fuzz_readers_test.cpp), text forms (place_text_test.cpp).
#include "lib/io/plan_file.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "lib/base/error.h"
#include "lib/io/h5.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class PlanFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "moe-plan-XXXXXX").string();
    dir_ = ::mkdtemp(pattern.data());
    path_ = dir_ + "/plan.h5";
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string dir_, path_;
};

// Two layers of 3 experts on 3 ranks of two nodes: a copy of expert 2, a rank without any.
PlanFile some_plan() {
  PlanFile plan;
  plan.placement = {3, {1, 4}, {{{{0, 2}, {}, {2, 1}}}, {{{2}, {1}, {0}}}}};
  plan.rank2node = {0, 0, 1};
  plan.pinned_LS = {{0, 1, 0, 1}, {0, 0, 0}};
  plan.predicted = {{"max_over_mean", 1.25}};
  plan.provenance = nlohmann::json::array({{{"tool", "moe-place"}}});
  return plan;
}

void expect_same(const PlanFile& a, const PlanFile& b) {
  EXPECT_EQ(a.placement, b.placement);
  EXPECT_EQ(a.rank2node, b.rank2node);
  EXPECT_EQ(a.pinned_LS, b.pinned_LS);
  EXPECT_EQ(a.predicted, b.predicted);
  EXPECT_EQ(a.provenance, b.provenance);
}

template <class Action>
std::string refused(Exit code, Action action) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_EQ(static_cast<int>(e.code()), static_cast<int>(code)) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

TEST_F(PlanFileTest, RoundTrip) {
  write_plan_file(path_, some_plan(), false);
  expect_same(read_plan_file(path_), some_plan());
}

TEST_F(PlanFileTest, RoundTripOfLargestModel) {
  PlanFile plan;
  std::vector<int> layers(61);
  for (int l = 0; l < 61; ++l) layers[static_cast<std::size_t>(l)] = l;
  plan.placement = linear_placement(layers, 384, 64);
  for (int r = 0; r < 64; ++r) plan.rank2node.push_back(r / 8);
  plan.pinned_LS.assign(61, std::vector<std::uint8_t>(384, 1));
  plan.provenance = nlohmann::json::array();
  write_plan_file(path_, plan, false);
  expect_same(read_plan_file(path_), plan);
}

TEST_F(PlanFileTest, OverwritesOnlyByForce) {
  write_plan_file(path_, some_plan(), false);
  refused(Exit::kCannotCreate, [&] { write_plan_file(path_, some_plan(), false); });
  PlanFile other = some_plan();
  other.pinned_LS[1][2] = 1;
  write_plan_file(path_, other, true);
  expect_same(read_plan_file(path_), other);
}

TEST_F(PlanFileTest, FaultsPassOnlyWhereAskedFor) {
  PlanFile plan = some_plan();
  plan.placement.placed[0].rank2experts = {{0, 0}, {}, {7, 1}};
  refused(Exit::kInternal, [&] { write_plan_file(path_, plan, false); });
  EXPECT_FALSE(fs::exists(path_));
  write_plan_file(path_, plan, false, false);
  expect_same(read_plan_file(path_, false), plan);
  const std::string said = refused(Exit::kBadInput, [&] { read_plan_file(path_); });
  EXPECT_THAT(said, HasSubstr("layer 1, rank 0: expert 0 is there more than once (and 2 more faults)"));
}

TEST_F(PlanFileTest, PlansWithoutShapeAreNotWritten) {
  const auto broken = [&](auto change) {
    PlanFile plan = some_plan();
    change(plan);
    refused(Exit::kInternal, [&] { write_plan_file(path_, plan, false, false); });
  };
  broken([](PlanFile& p) { p.rank2node.pop_back(); });
  broken([](PlanFile& p) { p.pinned_LS[0].pop_back(); });
  broken([](PlanFile& p) { p.pinned_LS.pop_back(); });
  broken([](PlanFile& p) { p.placement.placed[1].rank2experts.emplace_back(); });
  broken([](PlanFile& p) { p = {}; });
}

TEST_F(PlanFileTest, MissingAndForeignFiles) {
  refused(Exit::kNoInput, [&] { read_plan_file(path_); });
  H5Writer h5(path_, "moe-routing", 1);
  h5.finish();
  EXPECT_THAT(refused(Exit::kBadInput, [&] { read_plan_file(path_); }), HasSubstr("moe-plan"));
}

// A whole HDF5 file of the right kind in which one thing is not as it should be. The digest is checked before the numbers,
// so every damage is found by shape or digest.
TEST_F(PlanFileTest, DamageIsRefused) {
  write_plan_file(path_, some_plan(), false);
  const std::string bytes = read_text_file(path_, 1 << 20);
  const std::int64_t at = H5Reader(path_, "moe-plan", 1).dataset("slot_expert").file_offset;
  std::string damaged = bytes;
  damaged[static_cast<std::size_t>(at)] ^= 2;
  replace_text_file(path_, damaged);
  EXPECT_THAT(refused(Exit::kBadInput, [&] { read_plan_file(path_); }), HasSubstr("expected digest"));
  replace_text_file(path_, bytes.substr(0, bytes.size() / 2));
  refused(Exit::kBadInput, [&] { read_plan_file(path_); });
}

TEST_F(PlanFileTest, DatasetsOfOtherSizesAreRefused) {
  const std::vector<std::int64_t> numbers(12, 0);
  H5Writer h5(path_, "moe-plan", 1);
  h5.write("layer", H5Type::kI64, {2}, numbers.data());
  h5.write("rank_node", H5Type::kI64, {3}, numbers.data());
  h5.write("num_slots", H5Type::kI64, {3, 2}, numbers.data());
  h5.write("slot_expert", H5Type::kI64, {7}, numbers.data());
  h5.attribute("num_experts", 3);
  h5.finish();
  EXPECT_THAT(refused(Exit::kBadInput, [&] { read_plan_file(path_); }), HasSubstr("dataset num_slots: expected 2 layers"));
}

}  // namespace
}  // namespace moe
