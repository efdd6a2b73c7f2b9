// The rules of moe-eval tasks one by one: text as Python sees it, prompts to the letter, the cut between tokens, ties,
// standard errors, CSV. Not here: all of them together (eval_tasks_golden_test.cpp), files that are wrong
// (eval_tasks_errors_test.cpp).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "lib/run/eval_tasks_read.h"
#include "lib/run/eval_tasks_score.h"
#include "lib/run/eval_tasks_text.h"
#include "tests/eval_case.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

EvalItem item_of(const std::string& task, const std::string& line) {
  return task_format(task).read(json::parse(line), "f:1");
}

TEST(EvalText, IsPythons) {
  EXPECT_EQ(strip("\u00a0\t a b\u3000\n"), "a b");
  EXPECT_EQ(strip_left("\x1f\u2003x "), "x ");
  EXPECT_EQ(strip_right(" x\u0085"), " x");
  EXPECT_EQ(strip("\u200b"), "\u200b");  // a space of no width is no space
  EXPECT_EQ(strip(" \n"), "");
  EXPECT_EQ(num_characters("naïve 東京 \U0001F600"), 10u);
  EXPECT_EQ(capitalize("then He SAYS ÄÖ 東"), "Then he says äö 東");
  EXPECT_EQ(capitalize("éCLAIR"), "Éclair");
  EXPECT_EQ(capitalize(""), "");
  EXPECT_TRUE(is_utf8("a\u00e9\u6771\U0001F600"));
  for (const std::string bad : {"\x80", "\xC3", "\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF"})
    EXPECT_FALSE(is_utf8(bad));
}

TEST(EvalText, HellaSwagCleanUp) {
  EXPECT_EQ(clean_hellaswag(" Cook: [header] Make soup [title] Cut [step] it.  "), "Cook: Make soup. Cut it.");
  EXPECT_EQ(clean_hellaswag("a    b"), "a  b");                      // pairs once, not again
  EXPECT_EQ(clean_hellaswag("[title] a [x[y] z]"), " a z]");         // to the first closing bracket, and strip came before
  EXPECT_EQ(clean_hellaswag("a [b\nc] [d] e [f"), "a [b\nc] e [f");  // not over a line end
}

TEST(EvalFormat, PromptsToTheLetter) {
  const EvalItem arc =
      item_of("arc_easy", R"({"question":"Why?","choices":{"text":["x","y"],"label":["1","2"]},"answerKey":"2"})");
  EXPECT_EQ(arc.context(0), "Question: Why?\nAnswer:");
  EXPECT_THAT(arc.continuations, ElementsAre(" x", " y"));
  EXPECT_EQ(arc.gold, 1);
  EXPECT_EQ(shot_text(arc), "Question: Why?\nAnswer: y");
  const EvalItem sciq = item_of(
      "sciq",
      R"({"support":"  S. ","question":"Q?","distractor1":"a","distractor2":"b","distractor3":"c","correct_answer":"d"})");
  EXPECT_EQ(sciq.context(0), "S. \nQuestion: Q?\nAnswer:");
  EXPECT_THAT(sciq.continuations, ElementsAre(" a", " b", " c", " d"));
  EXPECT_EQ(sciq.gold, 3);
  const EvalItem wino =
      item_of("winogrande", R"({"sentence":"The _ is _ big . ","option1":"cat","option2":"dog","answer":"2"})");
  EXPECT_THAT(wino.contexts, ElementsAre("The cat", "The dog"));
  EXPECT_THAT(wino.continuations, ElementsAre(" is _ big ."));
  EXPECT_EQ(shot_text(wino), "The dog is _ big .");
  const EvalItem lambada = item_of("lambada_openai", R"({"text":"He said  hi"})");
  EXPECT_EQ(lambada.context(0), "He said ");
  EXPECT_EQ(lambada.continuation(0), " hi");
  EXPECT_EQ(shot_text(lambada), "He said   hi");
  const EvalItem mmlu =
      item_of("mmlu", R"({"question":" Q ","choices":["w","x","y","z"],"answer":2,"subject":"us_foreign_policy"})");
  EXPECT_EQ(mmlu.description + mmlu.context(0),
            "The following are multiple choice questions (with answers) about us foreign policy.\n\n"
            "Q\nA. w\nB. x\nC. y\nD. z\nAnswer:");
  EXPECT_THAT(mmlu.continuations, ElementsAre(" A", " B", " C", " D"));
  const EvalItem boolq = item_of("boolq", R"({"passage":"P.","question":"is it","answer":true})");
  EXPECT_EQ(boolq.context(0), "P.\nQuestion: is it?\nAnswer:");
  EXPECT_THAT(boolq.continuations, ElementsAre(" no", " yes"));
  EXPECT_EQ(boolq.gold, 1);
}

// As AI2 publishes ARC and OpenBookQA.
TEST(EvalFormat, ReadsNestedQuestions) {
  const std::string line =
      R"({"question":{"stem":"Why ","choices":[{"text":"x","label":"A"},{"text":"y","label":"B"}]},"answerKey":"B"})";
  EXPECT_EQ(item_of("arc_challenge", line).context(0), "Question: Why \nAnswer:");
  const EvalItem book = item_of("openbookqa", line);
  EXPECT_EQ(book.context(0), "Why ");
  EXPECT_EQ(book.gold, 1);
}

TEST(EvalScore, SpacesMoveToTheContinuationAndTokensAreCutOnce) {
  const PieceTokenizer tokenizer({"a ", " x"});
  EvalItem item;
  item.contexts = {"a \n"};
  item.continuations = {" x"};
  std::vector<ScoreRequest> r = requests_of(item, "", tokenizer, {});
  EXPECT_THAT(r[0].context, ElementsAre('a'));             // alone: one byte
  EXPECT_THAT(r[0].continuation, ElementsAre('\n', 257));  // together: "a ", "\n", " x"; the piece took the context's place
  r = requests_of(item, "b", tokenizer, {.bos_token = 7, .add_bos = true});
  EXPECT_THAT(r[0].context, ElementsAre(7, 'b', 'a'));
  item.contexts = {""};
  EXPECT_THAT(requests_of(item, "", tokenizer, {.bos_token = 7})[0].context, ElementsAre(7));
  item.continuations = {" xa"};
  r = requests_of(item, "", tokenizer, {});
  EXPECT_TRUE(r[0].context.empty());
  EXPECT_THAT(r[0].continuation, ElementsAre(257, 'a'));
  r = requests_of(item, "", tokenizer, {.bos_token = 257});  // it is there already
  EXPECT_TRUE(r[0].context.empty());
}

TEST(EvalScore, TiesGoToTheFirstAndLengthsAreCharacters) {
  EvalItem item;
  item.contexts = {"c"};
  item.choices = {"東京", "abcd", ""};
  item.continuations = {" 東京", " abcd", " "};
  const auto scores = [&](double a, double b, double c) {
    return score_item(item, std::vector<ScoreResult>{{.log_likelihood = a}, {.log_likelihood = b}, {.log_likelihood = c}});
  };
  EXPECT_EQ(scores(-2, -2, -2).chosen, 0);
  EXPECT_EQ(scores(-3, -2, -2).chosen, 1);
  EXPECT_EQ(scores(-2, -4, -9).chosen_norm, 0);  // -1 a character each
  EXPECT_EQ(scores(-2, -3.9, -9).chosen_norm, 1);
  EXPECT_EQ(scores(-2, -1.6, -9).chosen_bytes, 0);  // 6 bytes against 4
  EXPECT_EQ(scores(-2, -1.6, -0.1).chosen_norm, 1);
}

TEST(EvalScore, StandardErrors) {
  const std::vector<double> v = {1, 0, 0, 1, 1};
  EXPECT_DOUBLE_EQ(mean_metric("acc", v).value, 0.6);
  EXPECT_DOUBLE_EQ(*mean_metric("acc", v).stderror, std::sqrt(0.3) / std::sqrt(5.0));
  EXPECT_FALSE(mean_metric("acc", std::vector<double>{1}).stderror.has_value());
  // One subject: pooled is its own. Two: against the formula, by hand.
  const std::vector<Metric> acc = {{"acc", 0.5, 0.1}, {"acc", 0.2, 0.2}};
  const std::vector<std::size_t> sizes = {10, 30};
  const auto one = metrics_over_subjects(std::span(acc).first(1), std::span(sizes).first(1));
  EXPECT_DOUBLE_EQ(*one[0].stderror, 0.1);
  EXPECT_DOUBLE_EQ(one[1].value, 0.5);
  const auto two = metrics_over_subjects(acc, sizes);
  EXPECT_DOUBLE_EQ(two[0].value, 11.0 / 40);
  EXPECT_DOUBLE_EQ(*two[0].stderror, std::sqrt((9 * 0.01 * 10 + 29 * 0.04 * 30) / 38 / 40));
  EXPECT_DOUBLE_EQ(two[1].value, 0.35);
  EXPECT_DOUBLE_EQ(*two[1].stderror, std::sqrt(0.05) / 2);
}

TEST(EvalRead, CsvRows) {
  const std::string text = "a,\"b,\n\"\"c\"\"\",\r\nd\"e,f";
  std::size_t at = 0;
  std::int64_t line = 1;
  EXPECT_THAT(read_csv_row(text, at, line, "f"), ElementsAre("a", "b,\n\"c\"", ""));
  EXPECT_EQ(line, 3);
  EXPECT_THAT(read_csv_row(text, at, line, "f"), ElementsAre("d\"e", "f"));
  EXPECT_GE(at, text.size());
}

// Lines are counted with those that are empty; a byte-order mark is no text; the digest is that of the bytes.
TEST(EvalRead, LinesAndDigest) {
  const Folder folder;
  const std::string text = "\xEF\xBB\xBF\n{\"text\":\"a b\"}\r\n\n{\"text\":\"c d\"}";
  const std::string path = folder.write("x.jsonl", text);
  const EvalData data = read_eval_data(path, task_format("lambada_openai"), 0);
  ASSERT_EQ(data.items.size(), 2u);
  EXPECT_EQ(data.items[0].where, path + ":2");
  EXPECT_EQ(data.items[1].where, path + ":4");
  EXPECT_EQ(data.digest.size(), 32u);
  EXPECT_NE(data.digest, read_eval_data(folder.write("y.jsonl", text + "\n"), task_format("lambada_openai"), 0).digest);
}

TEST(EvalTasks, TableTellsProtocolDigestAndCuts) {
  const Folder folder;
  const std::string path = folder.write("x.jsonl", "{\"text\":\"one two three\"}\n{\"text\":\"word\"}\n");
  EvalTaskOptions o;
  o.tasks = {"lambada_openai", "lambada_openai:again=" + path};
  o.files = {path};
  o.limit = 1;
  EvalRun run = run_eval_tasks(o, hash_model(8), PieceTokenizer({}));
  EXPECT_THAT(run.table, HasSubstr("lambada_openai:again"));
  EXPECT_THAT(run.table, HasSubstr("lm-evaluation-harness 0.4, limit 1, no BOS token"));
  EXPECT_THAT(run.table, HasSubstr("1 of 1 contexts longer than the window"));
  EXPECT_EQ(run.result["tasks"][0]["metrics"]["acc"]["stderr"], nullptr);  // of one item
  EXPECT_EQ(run.result["limit"], 1);
  const std::string digest = run.result["tasks"][0]["data"]["xxh3_128"];
  EXPECT_THAT(run.table, HasSubstr(digest));
  o.limit = 0;
  run = run_eval_tasks(o, hash_model(100), PieceTokenizer({}));
  EXPECT_THAT(run.table, HasSubstr("1 continuations without a context"));
  EXPECT_THAT(run.table, Not(HasSubstr("window")));
}

TEST(EvalTasks, DryRunScoresAndWritesNothing) {
  const Folder folder;
  EvalTaskOptions o;
  o.tasks = {"lambada_openai=" + folder.write("x.jsonl", "{\"text\":\"one two\"}\n")};
  o.samples_output = folder.file("samples.jsonl");
  CommonOptions common;
  common.dry_run = true;
  const auto never = [](std::span<const ScoreRequest>) -> std::vector<ScoreResult> { throw std::logic_error("scored"); };
  const EvalRun run = run_eval_tasks(o, never, PieceTokenizer({}), common);
  EXPECT_EQ(run.result["tasks"][0]["tokens"], 7);
  EXPECT_THAT(run.table, HasSubstr("tokens to read"));
  EXPECT_FALSE(std::filesystem::exists(o.samples_output));
}

}  // namespace
}  // namespace moe
