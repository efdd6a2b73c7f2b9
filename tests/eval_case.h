// What the tests of moe-eval's questions share: a model that is a hash of the tokens, a tokenizer with pieces that cross the
// end of a context, a folder that goes away, and a run of eval_tasks with its output read back. The model and the tokenizer
// are those of scripts/golden/make_eval_golden.py.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "lib/run/eval_tasks.h"

namespace moe {

inline std::uint64_t hash_of(const std::vector<std::int32_t>& context, const std::vector<std::int32_t>& continuation) {
  std::uint64_t h = 0xCBF29CE484222325;
  const auto add = [&](std::uint32_t n) {
    for (int shift = 0; shift < 32; shift += 8) h = (h ^ (n >> shift & 0xFF)) * 0x100000001B3;
  };
  for (const std::int32_t id : context) add(static_cast<std::uint32_t>(id));
  add(0xFFFFFFFF);
  for (const std::int32_t id : continuation) add(static_cast<std::uint32_t>(id));
  return h;
}

// Log-likelihoods in eighths: many choices tie, no sum rounds.
inline ScoreFunction hash_model(std::size_t window) {
  return [window](std::span<const ScoreRequest> requests) {
    std::vector<ScoreResult> results;
    for (const ScoreRequest& q : requests) {
      const std::size_t total = q.context.size() + q.continuation.size(), cut = total > window + 1 ? total - window - 1 : 0;
      const std::vector<std::int32_t> kept(q.context.begin() + static_cast<std::ptrdiff_t>(cut), q.context.end());
      const std::uint64_t h = hash_of(kept, q.continuation);
      const auto scored = static_cast<std::int64_t>(q.continuation.size()) - (q.context.empty() ? 1 : 0);
      results.push_back({-static_cast<double>(1 + scored) * static_cast<double>(1 + h % 7) / 8, (h >> 40) % 3 != 0, scored,
                         static_cast<std::int64_t>(cut)});
    }
    return results;
  };
}

// The longest piece that fits, else a byte.
class PieceTokenizer : public Tokenizer {
 public:
  explicit PieceTokenizer(std::vector<std::string> pieces) : pieces_(std::move(pieces)) {}
  int vocab_size() const override { return 256 + static_cast<int>(pieces_.size()); }
  std::string name() const override { return "pieces"; }
  std::string serialized() const override { return ""; }
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    while (!text.empty()) {
      std::size_t best = pieces_.size();
      for (std::size_t i = 0; i < pieces_.size(); ++i)
        if (text.starts_with(pieces_[i]) && (best == pieces_.size() || pieces_[i].size() > pieces_[best].size())) best = i;
      const bool is_byte = best == pieces_.size();
      ids.push_back(is_byte ? static_cast<unsigned char>(text[0]) : 256 + static_cast<std::int32_t>(best));
      text.remove_prefix(is_byte ? 1 : pieces_[best].size());
    }
    return ids;
  }
  std::string decode(std::span<const std::int32_t>) const override { return ""; }

 private:
  std::vector<std::string> pieces_;
};

class Folder {
 public:
  Folder() {
    std::string pattern = ::testing::TempDir() + "/moe_eval_XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(file(name)).parent_path());
    std::ofstream(file(name), std::ios::binary) << text;
    return file(name);
  }
  std::string read(const std::string& name) const {
    std::stringstream text;
    text << std::ifstream(file(name), std::ios::binary).rdbuf();
    return text.str();
  }

 private:
  std::string path_;
};

struct EvalRun {
  nlohmann::json result;                // of --json
  std::vector<nlohmann::json> samples;  // of --samples-out
  std::string table;
};

inline EvalRun run_eval_tasks(EvalTaskOptions options, const ScoreFunction& score, const Tokenizer& tokenizer,
                              CommonOptions common = {}) {
  const Folder out;
  World world;
  EvalTaskOptions unused;
  Options list("moe-eval", "", {});
  add_eval_task_options(list, unused);
  if (options.samples_output.empty()) options.samples_output = out.file("samples.jsonl");
  common.json = out.file("result.json");
  ::testing::internal::CaptureStdout();
  struct Captured {
    ~Captured() {
      if (!text) ::testing::internal::GetCapturedStdout();
    }
    std::optional<std::string> text;
  } captured;
  EXPECT_EQ(eval_tasks(options, common, {list, {"moe-eval", "tasks"}}, score, tokenizer, world), Exit::kOk);
  captured.text = ::testing::internal::GetCapturedStdout();
  EvalRun run{nlohmann::json::parse(out.read("result.json")), {}, *captured.text};
  std::ifstream lines(options.samples_output);
  for (std::string line; std::getline(lines, line);) run.samples.push_back(nlohmann::json::parse(line));
  return run;
}

}  // namespace moe
