// Scenarios of checkpoints that need more than a command line: versions, a file system without locks, tensors and counters
// that are missing, vocabularies that no number of ranks divides. Not here: the others (scenarios_test.sh).
#include <gmock/gmock.h>
#include <sys/file.h>

#include <atomic>
#include <cerrno>

#include "lib/io/digest.h"
#include "lib/io/files.h"
#include "lib/io/h5.h"
#include "lib/io/manifest.h"
#include "lib/io/run_dir.h"
#include "lib/run/train_state.h"
#include "tests/checkpoint_case.h"

namespace {
std::atomic<int> num_locks{0};
}

// This program stands on a file system that has no locks: its own definition comes before that of the C library, also for
// libraries (HDF5).
extern "C" int flock(int, int) noexcept {
  ++num_locks;
  errno = ENOLCK;
  return -1;
}

namespace moe {
namespace {

using ::testing::HasSubstr;

class Scenario : public CheckpointTest {
 protected:
  std::string save(const std::vector<TensorSlice>& slices, std::int64_t step = 1) {
    return save_checkpoint(run_, step, {{"step", step}}, nlohmann::json::array(), slices, {2, 0}, false).path;
  }
};

TEST_F(Scenario, S11_NewerVersion) {
  Values a = random_bits(4, 1);
  const std::string path = save({whole("a", a, {4})}) + "/manifest.json";
  std::string text = read_text_file(path, 1 << 20), m;
  const std::size_t version = text.find("\"format_version\": 1"), digits = text.find("\": \"") + 4;
  ASSERT_NE(version, std::string::npos);
  text.replace(version, 19, "\"format_version\": 2").replace(digits, 32, 32, '0');
  text.replace(digits, 32, xxh3(text).hex());
  fs::remove(path);
  write_text_file(path, text);
  try {
    open_checkpoint(fs::path(path).parent_path());
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Exit::kBadInput);
    EXPECT_THAT(e.what(), HasSubstr("expected format version 1, found 2"));
    EXPECT_THAT(e.hint(), HasSubstr("newer version"));
  }
  H5Writer h5(dir_ + "/newer.h5", kShardKind, kCheckpointVersion + 1);
  h5.finish();
  EXPECT_EQ(code_of([&] { H5Reader(dir_ + "/newer.h5", kShardKind, kCheckpointVersion); }, m), Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("2"));
}

TEST_F(Scenario, S14_NoLocks) {
  Values a = random_bits(400, 1), b(400);
  save({whole("a", a, {20, 20})});
  load_checkpoint(open_checkpoint(run_), {whole("a", b, {20, 20})});
  EXPECT_EQ(a, b);
  EXPECT_EQ(num_locks, 0) << "nothing of a checkpoint may depend on flock";
}

TEST_F(Scenario, S20_OptimizerStateMissing) {
  Values a = random_bits(4, 1), m1(4);
  const std::string path = save({whole("a", a, {4})});
  std::string m;
  EXPECT_EQ(code_of(
                [&] {
                  load_checkpoint(open_checkpoint(path), {whole("a", a, {4}), whole("a", m1, {4}, "m")});
                },
                m),
            Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("missing: a (m)"));
  TensorSlice half = whole("a", a, {4});
  half.dtype = DType::kBF16;
  EXPECT_EQ(code_of([&] { load_checkpoint(open_checkpoint(path), {half}); }, m), Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("a (weight) expected bf16 [4], found fp32 [4]"));
}

TEST_F(Scenario, S21_BothListsOfAnotherModel) {
  Values a = random_bits(4, 1), b = a;
  const std::string path = save({whole("a", a, {4}), whole("b", b, {4})});
  std::string m;
  EXPECT_EQ(code_of(
                [&] {
                  load_checkpoint(open_checkpoint(path), {whole("a", a, {2, 2}), whole("c", b, {4})});
                },
                m),
            Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("missing: c (weight)"));
  EXPECT_THAT(m, HasSubstr("unexpected: b (weight)"));
  EXPECT_THAT(m, HasSubstr("a (weight) expected fp32 [2,2], found fp32 [4]"));
}

TEST_F(Scenario, S22_RouterBiasOrCountersMissing) {
  ModelConfig c;
  c.vocab_size = 13, c.num_layers = 1, c.d_model = 6, c.num_heads = 1, c.num_kv_heads = 1, c.head_dim = 2;
  c.num_experts = 5, c.expert_ffn = 3, c.router_score = Score::kSigmoid, c.router_bias = true;
  Model model(c, DType::kF32, true, ParamLayout::whole(c.num_experts));
  model.initialize(1);
  std::vector<TensorSlice> slices = state_slices(model, true);
  EXPECT_EQ(std::erase_if(slices, [](const TensorSlice& s) { return s.role == "bias"; }), 1u);
  const std::string path = save(slices);
  std::string m;
  EXPECT_EQ(code_of([&] { load_checkpoint(open_checkpoint(path), state_slices(model, true)); }, m), Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("(bias)"));
  EXPECT_EQ(code_of([] { counters_of({{"step", 1}}); }, m), Exit::kBadInput);
}

// No rank pads: whatever the cut, the tensors of a checkpoint have the vocabulary of the model.
TEST_F(Scenario, S23_VocabularyThatRanksDoNotDivide) {
  ModelConfig c;
  c.vocab_size = 13, c.num_layers = 1, c.d_model = 6, c.num_heads = 1, c.num_kv_heads = 1, c.head_dim = 2;
  c.num_experts = 2, c.expert_ffn = 3;
  for (const int shards : {1, 3, 4, 16})
    for (int rank = 0; rank < shards; ++rank) {
      Model model(c, DType::kF32, true, ParamLayout{{{{0}, {1}}}, {rank, shards}, {rank, shards}, 3});
      int seen = 0;
      for (const TensorSlice& s : state_slices(model, true)) {
        if (s.name.find("embed") == std::string::npos) continue;
        ++seen;
        EXPECT_EQ(s.shape[0], 13);
        EXPECT_LE(s.offset[0] + s.extent[0], 13);
      }
      EXPECT_GT(seen, 0);
    }
}

// Killed after a checkpoint was published and before `latest` moved: it is the newest all the same. A newer step of an older
// process is from before somebody went back: `latest` stands.
TEST_F(Scenario, S03_KilledBeforeLatestMoved) {
  Values a = random_bits(4, 1);
  const auto save_as_of = [&](std::int64_t step, const char* utc) {
    a[0] ^= static_cast<std::uint32_t>(step);
    save_checkpoint(run_, step, {{"step", step}}, nlohmann::json::array({{{"utc", utc}}}), {whole("a", a, {4})}, {9, 0},
                    false);
  };
  save_as_of(5, "2026-01-01T00:00:00Z");
  save_as_of(1, "2026-01-02T00:00:00Z");
  EXPECT_EQ(open_checkpoint(run_).step, 1) << "step 5 is of an older process";
  save_as_of(2, "2026-01-02T00:00:00Z");
  replace_text_file(run_ + "/latest", "step-00000001\n");
  EXPECT_EQ(open_checkpoint(run_).step, 2) << "published by the process that published step 1";
  EXPECT_THAT(checkpoint_candidates(run_),
              ::testing::ElementsAre(run_ + "/step-00000002", run_ + "/step-00000001", run_ + "/step-00000005"));
}

// Killed between the two renames that replace a checkpoint where a file system cannot exchange: the old one comes back.
TEST_F(Scenario, S03_KilledWhileReplacing) {
  Values a = random_bits(4, 1);
  const std::string path = save({whole("a", a, {4})});
  std::string owner = unique_suffix();  // HOST-PID-NONCE
  owner.replace(owner.find('-') + 1, owner.rfind('-') - owner.find('-') - 1, "99999999");
  fs::rename(path, run_ + "/" + kReplacedPrefix + "step-00000001-" + owner);
  save({whole("a", a, {4})}, 2);
  EXPECT_EQ(open_checkpoint(path).step, 1);
  // Where another of its step is there, it is what it looks like: a leftover.
  fs::copy(path, run_ + "/" + kReplacedPrefix + "step-00000001-" + owner, fs::copy_options::recursive);
  remove_leftovers(run_);
  EXPECT_THAT(names_in(run_), ::testing::UnorderedElementsAre("latest", "step-00000001", "step-00000002"));
}

}  // namespace
}  // namespace moe
