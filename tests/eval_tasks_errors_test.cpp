// Everything that can be wrong with the files and options of moe-eval tasks: one line that names file, line and field, with
// the exit code of DESIGN 8. Not here: what is right (eval_tasks_test.cpp).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <optional>

#include "lib/run/eval_tasks_format.h"
#include "tests/eval_case.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

const char* const kGood = R"({"prompt":"p","choices":["a","b"],"answer":0})";

class EvalTasksErrors : public ::testing::Test {
 protected:
  // "CODE MESSAGE | HINT" of a run, "0" if it went well.
  std::string run(const EvalTaskOptions& o, const ScoreFunction& score = hash_model(50), const CommonOptions& common = {}) {
    try {
      last_ = run_eval_tasks(o, score, PieceTokenizer({}), common);
      return "0";
    } catch (const Error& e) {
      return std::to_string(static_cast<int>(e.code())) + " " + e.what() + " | " + e.hint();
    }
  }
  std::string run_file(const std::string& task, const std::string& text, const std::string& name = "d.jsonl") {
    EvalTaskOptions o;
    o.tasks = {task + "=" + folder_.write(name, text)};
    return run(o);
  }
  EvalTaskOptions good() { return {.tasks = {"choices=" + folder_.write("good.jsonl", std::string(kGood) + "\n" + kGood)}}; }

  Folder folder_;
  EvalRun last_;
};

// Scenario 32: broken lines, by their numbers.
TEST_F(EvalTasksErrors, Lines) {
  const std::string good = std::string(kGood) + "\n";
  const auto third = [&](const std::string& line) { return run_file("choices", good + "\n" + line + "\n" + good); };
  EXPECT_THAT(third("{\"prompt\":"), HasSubstr("65 " + folder_.file("d.jsonl") + ":3: expected JSON"));
  EXPECT_THAT(third("[1]"), HasSubstr("d.jsonl:3: expected a JSON object, found [1]"));
  EXPECT_THAT(third("{\"prompt\":\"\xFF\"}"), HasSubstr("65 " + folder_.file("d.jsonl") + ":3:"));
  EXPECT_THAT(third(R"({"prompt":"p","prompt":"q"})"), HasSubstr("stands twice"));
  EXPECT_THAT(third(R"({"choices":["a","b"],"answer":0})"), HasSubstr(":3: field 'prompt': expected a text, found none"));
  EXPECT_THAT(third(R"({"prompt":"p","choices":["a"],"answer":0})"), HasSubstr("'choices': expected a list of two"));
  EXPECT_THAT(third(R"({"prompt":"p","choices":["a",1],"answer":0})"), HasSubstr("a list of texts only, found [\"a\",1]"));
  EXPECT_THAT(third(R"({"prompt":"p","choices":["a","b"],"answer":2})"), HasSubstr("a number from 0 to 1, found 2"));
  EXPECT_THAT(third(R"({"prompt":"p","choices":["a","b"],"answer":-1})"), HasSubstr("found -1"));
  EXPECT_THAT(third(R"({"prompt":"p","choices":["a","b"],"answer":0.0})"), HasSubstr("found 0.0"));
  EXPECT_THAT(third(R"({"prompt":"p","choices":["a","b"],"answer":"c"})"), HasSubstr("or its text, found \"c\""));
  EXPECT_EQ(third(R"({"prompt":"p","choices":["a","b"],"answer":"b"})"), "0");
}

TEST_F(EvalTasksErrors, FieldsOfTheTasks) {
  EXPECT_THAT(run_file("hellaswag", R"({"activity_label":"A","ctx_a":"x","ctx_b":"","endings":["a","b"],"label":""})"),
              HasSubstr(":1: field 'label': expected a number from 0 to 1, found \"\""));  // as HF's test split has it
  EXPECT_THAT(run_file("arc_easy", R"({"question":"q","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"C"})"),
              HasSubstr("'answerKey': expected one of the labels of the choices, found \"C\""));
  EXPECT_THAT(run_file("arc_easy", R"({"question":"q","choices":{"text":["a","b"],"label":["A","B","C"]},"answerKey":"A"})"),
              HasSubstr("found 2 texts and 3 labels"));
  EXPECT_THAT(run_file("openbookqa", R"({"question_stem":"q","choices":[{"text":"a"}],"answerKey":"A"})"),
              HasSubstr("'label': expected a text, found none"));
  EXPECT_THAT(run_file("winogrande", R"({"sentence":"no gap","option1":"a","option2":"b","answer":"1"})"),
              HasSubstr("'sentence': expected a text with a gap"));
  EXPECT_THAT(run_file("winogrande", R"({"sentence":"a _ b","option1":"a","option2":"b","answer":"0"})"),
              HasSubstr("a number from 1 to 2"));
  EXPECT_THAT(run_file("lambada_openai", R"({"text":"ends with a space "})"), HasSubstr("ends with a word"));
  EXPECT_THAT(run_file("lambada_openai", R"({"text":""})"), HasSubstr("ends with a word"));
  EXPECT_THAT(run_file("boolq", R"({"passage":"p","question":"q","label":2})"), HasSubstr("'label'"));
  EXPECT_THAT(run_file("mmlu", R"({"question":"q","choices":["a","b","c"],"answer":0,"subject":"s"})"),
              HasSubstr("four texts"));
  EXPECT_THAT(run_file("mmlu", R"({"question":"q","choices":["a","b","c","d"],"answer":0})"), HasSubstr("'subject'"));
  for (const std::string& task : task_format_names()) EXPECT_THAT(run_file(task, "{}"), HasSubstr("65 ")) << task;
}

TEST_F(EvalTasksErrors, Csv) {
  EXPECT_THAT(run_file("mmlu", "q,a,b,c,d,A\nq,a,b\n", "x_test.csv"), HasSubstr("x_test.csv:2: expected 6 cells"));
  EXPECT_THAT(run_file("mmlu", "q,a,b,c,d,E\n", "x_test.csv"), HasSubstr(":1: expected an answer A, B, C or D, found 'E'"));
  EXPECT_THAT(run_file("mmlu", "q,\"a\n\n\",b,c,d,A\n\"q,a,b,c,d,A\n", "x_test.csv"),
              HasSubstr(":4: expected a closing quote"));
  EXPECT_THAT(run_file("mmlu", "q\xFF,a,b,c,d,A\n", "x_test.csv"), HasSubstr(":1: expected UTF-8"));
  EXPECT_THAT(run_file("piqa", "x\n", "p.csv"), HasSubstr("2 "));
}

TEST_F(EvalTasksErrors, Files) {
  EXPECT_THAT(run_file("choices", ""),
              HasSubstr("65 " + folder_.file("d.jsonl") + ": expected lines of choices, found none"));
  EXPECT_THAT(run_file("choices", "\n \n"), HasSubstr("found none"));
  EXPECT_THAT(run_file("choices", "version https://git-lfs.github.com/spec/v1\n"), HasSubstr("git lfs pull"));
  EXPECT_THAT(run({.tasks = {"choices=" + folder_.file("nowhere")}}), HasSubstr("66 "));
  std::filesystem::create_directories(folder_.file("empty"));
  EXPECT_THAT(run({.tasks = {"mmlu=" + folder_.file("empty")}}), HasSubstr("66 "));
}

// So many bad lines are left out, told and counted; one more is an error. Another task has its own count.
TEST_F(EvalTasksErrors, SkipBad) {
  const std::string text = std::string(kGood) + "\nbad\n" + kGood + "\n{}\n";
  EvalTaskOptions o{.tasks = {"choices:a=" + folder_.write("a.jsonl", text), "choices:b=" + folder_.write("b.jsonl", text)}};
  o.skip_bad = 1;
  EXPECT_THAT(run(o), HasSubstr("a.jsonl:4:"));
  o.skip_bad = 2;
  EXPECT_EQ(run(o), "0");
  EXPECT_EQ(last_.result["tasks"][1]["data"]["bad_lines"], 2);
  EXPECT_EQ(last_.result["tasks"][1]["n"], 2);
  EXPECT_THAT(last_.table, HasSubstr("2 bad lines left out"));
}

// Scenario 33.
TEST_F(EvalTasksErrors, Strict) {
  const std::string path = folder_.write(
      "x.jsonl", std::string(kGood) + "\n" + R"({"prompt":"far too long","choices":["a","b"],"answer":0})" + "\n");
  EvalTaskOptions o{.tasks = {"choices=" + path}};
  o.strict = true;
  EXPECT_EQ(run(o), "0");
  EXPECT_THAT(run(o, hash_model(8)), HasSubstr("65 " + path + ":2: expected a context within the window, found 5 tokens"));
  o.strict = false;
  EXPECT_EQ(run(o, hash_model(8)), "0");
  EXPECT_EQ(last_.result["tasks"][0]["cut"]["items"], 1);
}

TEST_F(EvalTasksErrors, Options) {
  const auto with = [&](auto change) {
    EvalTaskOptions o = good();
    change(o);
    return run(o);
  };
  EXPECT_EQ(with([](EvalTaskOptions&) {}), "0");
  EXPECT_THAT(with([](auto& o) { o.tasks = {}; }), HasSubstr("2 expected --task NAME=FILE, found none"));
  EXPECT_THAT(with([](auto& o) { o.tasks = {"helaswag=x"}; }), HasSubstr("did you mean hellaswag?"));
  EXPECT_THAT(with([](auto& o) { o.tasks = {"choices"}; }), HasSubstr("found 'choices' without a file"));
  EXPECT_THAT(with([](auto& o) { o.files = {"x"}; }), HasSubstr("2 --file: expected one for each"));
  EXPECT_THAT(with([](auto& o) { o.tasks.push_back(o.tasks[0]); }), HasSubstr("found 'choices' twice"));
  EXPECT_THAT(with([](auto& o) { o.shots = -1; }), HasSubstr("2 --shots: expected 0 or more"));
  EXPECT_THAT(with([](auto& o) { o.limit = -1; }), HasSubstr("2 --limit"));
  EXPECT_THAT(with([](auto& o) { o.skip_bad = -1; }), HasSubstr("2 --skip-bad"));
  EXPECT_THAT(with([](auto& o) { o.shots = 1; }), HasSubstr("2 --shots 1: expected a file of examples for choices"));
  EXPECT_THAT(with([](auto& o) { o.shots_files = {"x"}; }), HasSubstr("2 --shots-file: expected --shots N"));
  EXPECT_THAT(with([](auto& o) { o.bos_token = 256; }), HasSubstr("an id below 256, found 256"));
  EXPECT_THAT(with([](auto& o) { o.bos_token = -2; }), HasSubstr("2 --bos-token"));
  EXPECT_THAT(with([](auto& o) { o.add_bos = true; }), HasSubstr("2 --add-bos"));
}

TEST_F(EvalTasksErrors, TooFewExamples) {
  const std::string other = R"({"prompt":"other","choices":["a","b"],"answer":0})";
  EvalTaskOptions o = good();
  o.shots = 2;
  o.shots_files = {"choices=" + folder_.write("s.jsonl", other)};
  EXPECT_THAT(run(o), HasSubstr("good.jsonl:1: expected 2 examples, found 1"));
  o.shots = 1;
  EXPECT_EQ(run(o), "0");
  EXPECT_EQ(last_.samples[0]["contexts"][0], "other a\n\np");
  o.shots_files = {folder_.file("good.jsonl")};  // nothing but the question itself, twice
  EXPECT_THAT(run(o), HasSubstr("good.jsonl:1: expected 1 examples, found 0"));
}

TEST_F(EvalTasksErrors, Scores) {
  const auto broken = [](double value, std::size_t missing) {
    return [=](std::span<const ScoreRequest> requests) {
      return std::vector<ScoreResult>(requests.size() - missing, ScoreResult{.log_likelihood = value});
    };
  };
  EXPECT_THAT(run(good(), broken(std::numeric_limits<double>::quiet_NaN(), 0)),
              HasSubstr("76 " + folder_.file("good.jsonl:1")));
  EXPECT_THAT(run(good(), broken(-std::numeric_limits<double>::infinity(), 0)), HasSubstr("76 "));
  EXPECT_THAT(run(good(), broken(-1, 1)), HasSubstr("1 "));
  const std::string one_token = folder_.write("w.jsonl", R"({"prompt":"","choices":["","b"],"answer":0})");
  EXPECT_THAT(run({.tasks = {"choices=" + one_token}}), HasSubstr("expected tokens to score"));
}

TEST_F(EvalTasksErrors, SamplesAreNotOverwritten) {
  EvalTaskOptions o = good();
  o.samples_output = folder_.write("samples.jsonl", "mine");
  EXPECT_THAT(run(o), HasSubstr("73 "));
  EXPECT_EQ(folder_.read("samples.jsonl"), "mine");
  CommonOptions common;
  common.force = true;
  EXPECT_EQ(run(o, hash_model(50), common), "0");
  EXPECT_EQ(last_.samples.size(), 2u);
}

}  // namespace
}  // namespace moe
