// Questions and clozes of every form, against a second implementation of the rules (scripts/golden/make_eval_golden.py):
// prompts and continuations to the letter, the cut between their tokens, choices and accuracies exactly.
// Not here: files that are wrong (eval_tasks_errors_test.cpp).
#include <gtest/gtest.h>

#include <fstream>
#include <optional>

#include "tests/eval_case.h"

namespace moe {
namespace {

using nlohmann::json;

const std::string kFolder = std::string(MOE_SOURCE_DIR) + "/tests/golden/eval/";

json expected_cases() {
  std::ifstream file(kFolder + "expected.json");
  return json::parse(file);
}

EvalRun run_case(const json& c, const Tokenizer& tokenizer) {
  EvalTaskOptions o;
  o.tasks = {c["task"].get<std::string>() + "=" + kFolder + c["file"].get<std::string>()};
  o.shots = c.value("shots", 0);
  if (o.shots > 0) o.shots_files = {kFolder + c["shots_file"].get<std::string>()};
  o.bos_token = c.value("bos", -1);
  o.add_bos = c.value("add_bos", false);
  return run_eval_tasks(o, hash_model(c["window"].get<std::size_t>()), tokenizer);
}

// Accuracies are counts over counts: equal to the last bit. Perplexities may round differently in exp().
void expect_metrics(const json& found, const json& expected, const std::string& label) {
  ASSERT_EQ(found.size(), expected.size()) << label << found;
  for (const auto& [name, metric] : expected.items())
    for (const char* part : {"value", "stderr"}) {
      const double x = found.at(name).at(part), y = metric.at(part);
      if (name == "perplexity")
        EXPECT_TRUE(std::abs(x - y) <= 1e-12 * y) << label << name << " " << part << " " << x << " " << y;
      else
        EXPECT_DOUBLE_EQ(x, y) << label << name << " " << part;
      if (name.starts_with("acc") && std::string(part) == "value" && name != "acc_macro") {
        EXPECT_EQ(x, y) << label << name;
      }
    }
}

void expect_case(const json& c, const EvalRun& run, const std::string& label) {
  const json& task = run.result.at("tasks").at(0);
  EXPECT_EQ(task.at("n"), c.at("n")) << label;
  EXPECT_EQ(task.at("cut").at("items"), c.at("cut_items")) << label;
  EXPECT_EQ(task.at("cut").at("tokens"), c.at("cut_tokens")) << label;
  expect_metrics(task.at("metrics"), c.at("metrics"), label);
  ASSERT_EQ(run.samples.size(), c.at("samples").size()) << label;
  for (std::size_t i = 0; i < run.samples.size(); ++i)
    for (const auto& [key, value] : c.at("samples").at(i).items()) {
      const bool is_norm = key.ends_with("_norm") || key.ends_with("_bytes");
      if (is_norm && !c.at("metrics").contains("acc_norm")) continue;  // not reported by the harness either
      EXPECT_EQ(run.samples[i].at(key), value) << label << "sample " << i << " " << key;
    }
  if (!c.contains("subjects")) return;
  ASSERT_EQ(task.at("subjects").size(), c.at("subjects").size());
  for (std::size_t s = 0; s < c.at("subjects").size(); ++s) {
    EXPECT_EQ(task.at("subjects")[s].at("subject"), c.at("subjects")[s].at("subject"));
    EXPECT_EQ(task.at("subjects")[s].at("n"), c.at("subjects")[s].at("n"));
    expect_metrics(task.at("subjects")[s].at("metrics"), c.at("subjects")[s].at("metrics"), label);
  }
}

TEST(EvalTasksGolden, EveryTaskAsASecondImplementationScoresIt) {
  const json all = expected_cases();
  const PieceTokenizer bytes({}), pieces(all.at("pieces").get<std::vector<std::string>>());
  ASSERT_EQ(all.at("cases").size(), 40u);
  std::set<std::string> tasks;
  for (const json& c : all.at("cases")) {
    const bool has_pieces = c.at("pieces");
    const std::string task = c.at("task");
    tasks.insert(task);
    expect_case(c, run_case(c, has_pieces ? pieces : bytes), task + (has_pieces ? ", pieces: " : ", bytes: "));
  }
  EXPECT_EQ(tasks.size(), 10u);
}

// The golden data would be worth little if they did not meet what the rules differ in.
TEST(EvalTasksGolden, TheDataMeetsTheRules) {
  bool ties = false, cut = false, norm_differs = false, bytes_differ = false, no_context = false;
  const json all = expected_cases();
  for (const json& c : all.at("cases"))
    for (const json& s : c.at("samples")) {
      std::vector<double> ll = s.at("log_likelihood");
      const double best = *std::max_element(ll.begin(), ll.end());
      ties = ties || std::count(ll.begin(), ll.end(), best) > 1;
      cut = cut || s.at("cut") > 0;
      norm_differs = norm_differs || (s.contains("chosen") && s.at("chosen") != s.at("chosen_norm"));
      bytes_differ = bytes_differ || (s.contains("chosen") && s.at("chosen_norm") != s.at("chosen_bytes"));
      no_context = no_context || s.at("contexts").at(0) == "";
    }
  EXPECT_TRUE(ties && cut && norm_differs && bytes_differ && no_context);
}

}  // namespace
}  // namespace moe
