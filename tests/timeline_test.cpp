// The file of --trace: JSON with every rank and row, spans that nest, names that are escaped, a cap that is told; and that
// a run is the same with it, bit for bit. Not here: what a rank collects (trace_test.cpp), MPI (timeline_mpi_test.sh).
#include "lib/run/timeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "lib/run/timeline_text.h"
#include "tests/train_on_mesh.h"
#include "tests/train_parsed.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

constexpr int kVocab = 37;
constexpr TraceRow kCompute = TraceRow::kCompute;

TrainOptions options() {
  TrainOptions o;
  o.common.seed = 5;
  ModelConfig& c = o.model;
  c.vocab_size = kVocab, c.num_layers = 2, c.num_dense_layers = 1, c.dense_ffn = 11;
  c.d_model = 12, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 4;
  c.num_experts = 4, c.top_k = 2, c.expert_ffn = 7, c.init_std = 0.2f, c.rope_theta = 100;
  o.batch = 8, o.seq = 9, o.steps = 4, o.lr = 4e-3f;
  return o;
}

std::string data_path() {
  static const std::string path = make_training_data("timeline", kVocab, 900);
  return path;
}
std::string file_path() { return ::testing::TempDir() + "/timeline_" + std::to_string(getpid()) + ".json"; }

struct TracedRun {
  nlohmann::json file;
  std::vector<double> losses;              // of rank 0, and gradient norms
  std::map<std::int64_t, double> exposed;  // of rank 0, by step
};

TracedRun traced(const MeshOptions& mesh, const StepRange& steps, std::size_t max_events = 0) {
  const TrainOptions o = options();
  TracedRun run;
  std::filesystem::remove(file_path());
  on_mesh(data_path(), o, {mesh}, [&](MeshRank& rank) {
    Timeline timeline(rank.world, {file_path(), steps, false, max_events}, {{"kind", "moe-timeline"}});
    for (int s = 1; s <= o.steps; ++s) {
      timeline.before_step(s);
      const StepResult step = rank.trainer.step(static_cast<double>(o.lr));
      if (rank.world.rank() > 0) continue;
      run.losses.insert(run.losses.end(), {step.loss, step.grad_norm});
      run.exposed[step.step] = step.exposed_seconds;
    }
    timeline.after_last_step();
    timeline.finish();
  });
  if (path_exists(file_path())) run.file = nlohmann::json::parse(read_text_file(file_path(), 1 << 26));
  return run;
}

std::vector<nlohmann::json> spans_of(const nlohmann::json& file, int rank, TraceRow row) {
  std::vector<nlohmann::json> spans;
  for (const auto& e : file.at("traceEvents"))
    if (e.at("ph") == "X" && e.at("pid") == timeline_pid(rank) && e.at("tid") == timeline_tid(rank, row)) spans.push_back(e);
  return spans;
}

// Nanoseconds, exactly.
std::int64_t ns(const nlohmann::json& micros) { return std::llround(micros.get<double>() * 1000); }

// In the order of the file a span lies inside the last one that is open, or behind it.
void expect_nested(const std::vector<nlohmann::json>& spans) {
  std::vector<std::int64_t> open_ends;
  std::int64_t last = 0;
  for (const auto& s : spans) {
    const std::int64_t begin = ns(s.at("ts")), end = begin + ns(s.at("dur"));
    EXPECT_GE(begin, last);
    EXPECT_GE(end, begin);
    while (!open_ends.empty() && open_ends.back() <= begin) open_ends.pop_back();
    EXPECT_TRUE(open_ends.empty() || end <= open_ends.back()) << s;
    open_ends.push_back(end);
    last = begin;
  }
}

std::set<std::string> names_in(const std::vector<nlohmann::json>& spans) {
  std::set<std::string> names;
  for (const auto& s : spans) names.insert(s.at("name").get<std::string>());
  return names;
}

TEST(Timeline, HasEveryRankAndRowAndTheStepsAskedFor) {
  const TracedRun run = traced({.shape = {1, 2, 2}}, {2, 3});
  EXPECT_EQ(run.file.at("otherData").at("kind"), "moe-timeline");
  EXPECT_EQ(run.file.at("otherData").at("num_left_out"), 0);
  EXPECT_GE(run.file.at("otherData").at("clock_error_us").get<double>(), 0);
  std::map<int, std::string> processes;
  std::set<std::pair<int, std::string>> rows;
  for (const auto& e : run.file.at("traceEvents")) {
    if (e.at("name") == "process_name") processes[e.at("pid").get<int>() - 1] = e.at("args").at("name");
    if (e.at("name") == "thread_name") rows.emplace(e.at("pid").get<int>(), e.at("args").at("name").get<std::string>());
  }
  ASSERT_EQ(processes.size(), 4u);
  EXPECT_EQ(rows.size(), 4 * kNumHostRows);
  for (int r = 0; r < 4; ++r) {
    EXPECT_THAT(processes[r], HasSubstr("rank " + std::to_string(r)));
    const auto compute = spans_of(run.file, r, kCompute), communication = spans_of(run.file, r, TraceRow::kCommunication);
    EXPECT_THAT(names_in(compute),
                IsSupersetOf({"step", "data", "forward", "pre forward", "experts forward", "head forward", "backward",
                              "experts backward input", "experts backward weight", "totals", "update", "wait"}));
    EXPECT_THAT(names_in(communication), IsSupersetOf({"dispatch forward", "combine forward", "dispatch backward",
                                                       "combine backward", "gather", "reduce", "step totals"}));
    expect_nested(compute);
    expect_nested(communication);
    std::vector<int> steps;
    for (const auto& s : compute)
      if (s.at("name") == "step") steps.push_back(s.at("args").at("step"));
    EXPECT_EQ(steps, (std::vector<int>{2, 3}));
    for (const auto& s : communication)
      EXPECT_TRUE(s.at("name") != "dispatch forward" || s.at("args").at("layer") == 1) << "layer 0 is dense: " << s;
  }
}

// The rank's own figure is what its file says: waits of a step.
TEST(Timeline, WaitsAreTheExposedSecondsOfTheMetrics) {
  const TracedRun run = traced({.shape = {1, 1, 2}}, {1, 4});
  std::map<std::int64_t, double> waited;
  double step_begin = -1, step_end = -1;
  std::int64_t step = 0;
  for (const auto& s : spans_of(run.file, 0, kCompute)) {
    const double begin = s.at("ts"), end = begin + s.at("dur").get<double>();
    if (s.at("name") == "step") step_begin = begin, step_end = end, step = s.at("args").at("step");
    if (s.at("name") == "wait" && begin >= step_begin && end <= step_end) waited[step] += 1e-6 * (end - begin);
  }
  ASSERT_EQ(waited.size(), 4u);
  for (const auto& [s, seconds] : waited) {
    EXPECT_GT(seconds, 0);
    EXPECT_GE(seconds, run.exposed.at(s) - 1e-9) << "step " << s;  // a span lies around what is measured
  }
}

TEST(Timeline, TheRunIsTheSameBitForBit) {
  for (const MeshOptions& mesh : {MeshOptions{}, MeshOptions{.shape = {1, 1, 2}}}) {
    const TracedRun with = traced(mesh, {1, 4});
    const TrainedModel without = train_on_mesh(data_path(), options(), {mesh});
    EXPECT_EQ(with.losses, without.rank2losses.at(0));
    EXPECT_EQ(with.file.at("otherData").at("num_events").get<std::size_t>() > 0, true);
  }
}

TEST(Timeline, KeepsTheFirstEventsAndSaysHowManyItLeftOut) {
  const TracedRun run = traced({.shape = {1, 1, 2}}, {1, 2}, 10);
  EXPECT_EQ(run.file.at("otherData").at("num_events"), 20);
  EXPECT_GT(run.file.at("otherData").at("num_left_out").get<int>(), 20);
  for (int r = 0; r < 2; ++r)
    EXPECT_EQ(spans_of(run.file, r, kCompute).size() + spans_of(run.file, r, TraceRow::kCommunication).size(), 10u);
  EXPECT_LT(max_timeline_events(1000), max_timeline_events(1));
  EXPECT_GT(max_timeline_events(1'000'000), 0u);
}

TEST(Timeline, WithoutItsStepsThereIsNoFileAndWithFewerWhatThereIs) {
  EXPECT_TRUE(traced({}, {5, 9}).file.is_null());
  const TracedRun run = traced({}, {4, 9});
  EXPECT_EQ(names_in(spans_of(run.file, 0, kCompute)).count("step"), 1u);
}

TEST(Timeline, IsNotWrittenOverAnotherFile) {
  write_text_file(file_path() + ".old", "mine");
  World world;
  EXPECT_THROW(Timeline(world, {file_path() + ".old", {1, 1}}, {}), Error);
  EXPECT_FALSE(world.trace().is_on());
  EXPECT_EQ(read_text_file(file_path() + ".old", 100), "mine");
  Timeline replacing(world, {file_path() + ".old", {1, 1}, true}, {});
  replacing.before_step(1);
  replacing.after_last_step();
  EXPECT_THAT(read_text_file(file_path() + ".old", 10000), HasSubstr("rank 0"));
}

TEST(TimelineText, EscapesNames) {
  const std::string name = "a \"quoted\" \\ name\n\t\x01 of \xff";
  TraceEvent event{.name = "x\"y\\z\n", .step = 3, .begin_ns = 1'000, .end_ns = 1'234'567};
  const std::string of = "of\"\x02";
  of.copy(event.of, kTraceOfChars);
  const std::string text = timeline_head({{"argv", {name}}}) +
                           timeline_of_rank(7, name, {event}, [](std::int64_t t) { return t; }) + kTimelineTail;
  EXPECT_EQ(text.find('\x01'), std::string::npos);
  const auto file = nlohmann::json::parse(text);
  EXPECT_EQ(file.at("traceEvents").front().at("args").at("name"), "a \"quoted\" \\ name\n\t\x01 of \xEF\xBF\xBD");
  const auto& span = file.at("traceEvents").back();
  EXPECT_EQ(span.at("name"), "x\"y\\z\n");
  EXPECT_EQ(span.at("args").at("of"), of);
  EXPECT_EQ(span.at("pid"), 8);
  EXPECT_EQ(span.at("tid"), 80);
  EXPECT_EQ(ns(span.at("ts")), 1'000);
  EXPECT_EQ(ns(span.at("dur")), 1'233'567);
}

std::string refusal(const std::vector<std::string>& words) {
  try {
    const Parsed parsed(words);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Exit::kUsage);
    return e.what();
  }
  return "";
}

TEST(TimelineOptions, NonsenseIsRefused) {
  for (const char* const steps : {"", "0", "0:3", "5:3", "-1:3", "a:b", "3:5:7", "3:", ":5", "3,5", "1e2"})
    EXPECT_THAT(refusal({"--steps", "9", "--trace", "t.json", "--trace-steps", steps}), HasSubstr("expected FIRST:LAST"))
        << steps;
  EXPECT_THAT(refusal({"--steps", "2", "--trace", "t.json"}), HasSubstr("--trace-steps: expected steps of the 2"));
  EXPECT_THAT(refusal({"--steps", "9", "--trace", "t", "--router-trace", "t"}), HasSubstr("--trace: expected another file"));
  EXPECT_EQ(refusal({"--steps", "2"}), "") << "the default range is no matter without --trace";
  const Parsed one({"--steps", "9", "--trace", "t.json", "--trace-steps", "4"});
  EXPECT_EQ(one.train.trace_steps.text(), "4:4");
}

}  // namespace
}  // namespace moe
