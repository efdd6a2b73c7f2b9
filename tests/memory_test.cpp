// label: slow
// moe-reshard keeps to --memory: resharding, export and import of a checkpoint several times as large peak at most 10 % over
// it beyond what the same command takes for a tiny checkpoint. Peaks are the kernel's (wait4) of the tool as users start it.
// Not here: what is written (reshard_test.sh, hf_test.cpp); the sanitizers, whose own memory would be counted (label slow).
#include <fcntl.h>
#include <sys/resource.h>

#include "lib/model/model.h"
#include "lib/run/hf_stream.h"
#include "lib/run/train_state.h"
#include "tests/checkpoint_case.h"

namespace moe {
namespace {

constexpr std::int64_t kMemory = std::int64_t{64} << 20;
constexpr std::int64_t kLargeBytes = std::int64_t{300} << 20;
const std::string kTool = std::string(MOE_BIN_DIR) + "/moe-reshard";

ModelConfig config_of(int num_layers, int width) {
  ModelConfig c;
  c.vocab_size = 100, c.num_layers = num_layers, c.d_model = width, c.num_heads = 2, c.num_kv_heads = 2, c.head_dim = 8;
  c.num_experts = 16, c.expert_ffn = 3 * width;
  return c;
}

// In a process of its own: what this one has held would count as the peak of the tools that it starts.
void save_model(const std::string& run, const ModelConfig& config) {
  const pid_t child = ::fork();
  if (child == 0) try {
      Model model(config, DType::kF32, false);
      model.initialize(1);
      const nlohmann::json state = {{"options", model_options_json(config, DType::kF32)}};
      save_checkpoint(run, 0, state, nlohmann::json::array(), state_slices(model, false), {}, false);
      ::_exit(0);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
      ::_exit(1);
    }
  int status = 1;
  ::waitpid(child, &status, 0);
  ASSERT_EQ(status, 0) << run;
}

// Peak of resident memory of a command that succeeds.
std::int64_t peak_bytes(std::vector<std::string> words) {
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::open("/dev/null", O_WRONLY), STDOUT_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 1;
  rusage usage{};
  ::wait4(child, &status, 0, &usage);
  EXPECT_EQ(status, 0) << words[1];
  return std::int64_t{usage.ru_maxrss} << 10;
}

class Memory : public CheckpointTest {
 protected:
  void SetUp() override {
    dir_ = (fs::temp_directory_path() / "moe-memory-XXXXXX").string();  // on a disk: memory is what is measured
    ASSERT_NE(::mkdtemp(dir_.data()), nullptr);
    save_model(dir_ + "/tiny", config_of(1, 16));
    save_model(dir_ + "/large", config_of(9, 256));
    std::int64_t bytes = 0;
    for (const auto& e : fs::recursive_directory_iterator(dir_ + "/large"))
      if (e.is_regular_file()) bytes += static_cast<std::int64_t>(e.file_size());
    ASSERT_GT(bytes, kLargeBytes);
  }

  // `command` reads IN and writes OUT; both are given by size.
  void expect_bounded(const std::string& what, const std::function<std::vector<std::string>(const std::string&)>& command) {
    const auto peak = [&](const std::string& size) {
      std::vector<std::string> words = command(dir_ + "/" + size);
      words.insert(words.begin(), kTool);
      words.insert(words.end(), {"--memory", std::to_string(kMemory), "--threads", "2", "-q"});
      return peak_bytes(words);
    };
    const std::int64_t floor = peak("tiny"), large = peak("large");
    std::printf("%s: %.1f MiB, tiny %.1f MiB\n", what.c_str(), static_cast<double>(large) / (1 << 20),
                static_cast<double>(floor) / (1 << 20));
    EXPECT_LE(large - floor, kMemory + kMemory / 10) << what;
  }
};

TEST_F(Memory, IsWithinTheLimitWhateverTheSize) {
  using Words = std::vector<std::string>;
  expect_bounded("reshard", [](const std::string& in) { return Words{in, "-o", in + "-files", "--files", "3"}; });
  expect_bounded("dtype", [](const std::string& in) { return Words{in, "-o", in + "-bf16", "--dtype", "bf16"}; });
  expect_bounded("export", [](const std::string& in) { return Words{"export", in, "-o", in + "-hf"}; });
  expect_bounded("import", [](const std::string& in) { return Words{"import", in + "-hf", "-o", in + "-imported"}; });
  expect_bounded("verify", [](const std::string& in) { return Words{"verify", in}; });
}

}  // namespace
}  // namespace moe
