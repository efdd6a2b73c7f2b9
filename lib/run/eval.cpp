#include "lib/run/eval.h"

#include <algorithm>
#include <climits>
#include <map>

#include "lib/base/log.h"
#include "lib/run/compute.h"
#include "lib/run/eval_speculate.h"
#include "lib/run/result.h"

namespace moe {
namespace {

using Words = std::vector<std::string>;

void need_models(const std::string& command, const Words& models, std::size_t count) {
  if (models.size() == count) return;
  throw Error(Exit::kUsage, command + ": expected " +
                                (count == 1 ? "one checkpoint" : std::to_string(count) + " checkpoints") + ", found " +
                                std::to_string(models.size()));
}

// All that a command needs, with the threads of this rank.
struct Call {
  EvalOptions& o;
  const Words& models;
  const Invocation& invocation;
  World& world;
  Env env;
};

Exit tasks(const Call& c) {
  EvalModel model(c.models[0], c.o.model, c.world, c.env);
  std::unique_ptr<Tokenizer> tokenizer;
  c.world.agree([&] { tokenizer = model.tokenizer(); });
  return eval_tasks(c.o.tasks, c.o.common, c.invocation, score_function(model), *tokenizer, c.world);
}

constexpr const char *kScaling = "scaling", *kCurves = "curves";  // those without a model

struct Command {
  std::size_t num_models;
  int num_modules;  // of multi-token prediction, that it uses at most; generate: without --speculate
  Exit (*run)(const Call&);
};
const std::map<std::string, Command>& commands() {
  static const std::map<std::string, Command> all = {
      {"perplexity",
       {1, kPerplexityModules,
        [](const Call& c) { return eval_perplexity(c.models[0], c.o.data, c.o.model, c.o.common, c.world, c.env); }}},
      {"compare",
       {2, 0,
        [](const Call& c) {
          return eval_compare(c.models[0], c.models[1], c.o.data, c.o.model, c.o.common, c.world, c.env);
        }}},
      {"routing",
       {1, INT_MAX,
        [](const Call& c) {
          return eval_routing(c.models[0], c.o.output, c.o.data, c.o.model, c.o.common, c.invocation, c.world, c.env);
        }}},
      {"generate",
       {1, 0,
        [](const Call& c) { return eval_generate(c.models[0], c.o.generate, c.o.model, c.o.common, c.world, c.env); }}},
      {"tasks", {1, 0, tasks}},
  };
  return all;
}

const Command& find_command(const Words& words) {
  const std::string names = "perplexity, compare, tasks, generate, routing, scaling or curves";
  if (words.empty()) throw Error(Exit::kUsage, "expected a command: " + names + "; found none", "see --help");
  const auto found = commands().find(words[0]);
  if (found != commands().end()) return found->second;
  Words known;
  for (const auto& [name, unused] : commands()) known.push_back(name);
  known.insert(known.end(), {kScaling, kCurves});
  const std::string near = nearest_name(words[0], known);
  throw Error(Exit::kUsage, "expected a command: " + names + "; found '" + words[0] + "'",
              near.empty() ? "see --help" : "did you mean " + near + "?");
}

void add_data_options(Options& o, EvalOptions& e) {
  o.group("Data");
  o.add("data", e.data.data, "token file of moe-data, or plain text (bytes); routing takes several").value = "FILE";
  o.add("stride", e.data.stride,
        "tokens between the beginnings of windows: a token is scored with at least --seq - --stride before it; 0: --seq");
  o.add("max-tokens", e.data.max_tokens, "score about so many tokens, in windows spread over the data; 0 scores all");
  o.add("output", e.output, "routing: statistics for moe-place; generate: continuations as JSONL").value = "FILE";
}

void check_options(const Options& o, EvalOptions& e) {
  check_eval_model_options(o, e.model);
  check_generate_options(o, e.generate);
  check_eval_scaling_options(o, e.scaling);
  if (e.data.stride < 0)
    throw Error(Exit::kUsage, "--stride: expected at least 1, or 0 for --seq, found " + o.find("stride").get());
  if (e.data.max_tokens < 0)
    throw Error(Exit::kUsage, "--max-tokens: expected at least 0, found " + o.find("max-tokens").get());
}

// One option, several commands.
void share_options(EvalOptions& e) {
  e.generate.output = e.output;
  e.generate.skip_bad = e.tasks.skip_bad;
  e.generate.strict = e.tasks.strict;
}

Exit say_what_would_be_done(const EvalOptions& e, const Words& models, World& world, int num_modules) {
  std::string text;
  for (const std::string& path : models) text += EvalModel::describe(path, e.model, world, num_modules);
  if (world.rank() == 0) print_result(e.common, {{"dry_run", true}, {"models", models}}, text);
  return Exit::kOk;
}

// Of what runs wrote, without a model: rank 0 does it.
Exit report(const EvalOptions& e, World& world) {
  const Words files(e.arguments.begin() + 1, e.arguments.end());
  world.agree([&] {
    if (world.rank() != 0) return;
    e.arguments[0] == kScaling ? eval_scaling(files, e.scaling, e.common) : eval_curves(files, e.scaling.svg, e.common);
  });
  return Exit::kOk;
}

}  // namespace

Options eval_options(EvalOptions& e) {
  Options o("moe-eval", "say how good a model is, what it writes and how it routes",
            {
                "moe-eval perplexity run --data tokens.h5 --stride 64 --max-tokens 4096",
                "moe-eval generate run --prompt \"The tool\" --tokens 40 --temperature 0.8 --top-p 0.95",
                "moe-eval routing run --data text.txt --max-tokens 8192 -o eval-routing.h5",
                "moe-eval curves run --svg curves.svg",
            });
  o.group("Commands");
  o.add("command", e.arguments,
        "perplexity MODEL, compare A B, tasks MODEL, generate MODEL, routing MODEL, scaling RESULT..., curves RUN... A "
        "model is a checkpoint or a run directory, whose latest is taken; a result is what moe-train --json wrote")
      .positional = true;
  add_data_options(o, e);
  add_eval_task_options(o, e.tasks);
  add_generate_options(o, e.generate);
  add_eval_scaling_options(o, e.scaling);
  add_eval_model_options(o, e.model);
  add_common_options(o, e.common);
  o.after_parse([&e](Options& parsed) { check_options(parsed, e); });
  return o;
}

Exit run_eval(EvalOptions& e, const Invocation& invocation, World& world) {
  if (!e.arguments.empty() && (e.arguments[0] == kScaling || e.arguments[0] == kCurves)) return report(e, world);
  const Command* command = nullptr;
  Words models;
  world.agree([&] {
    command = &find_command(e.arguments);
    models.assign(e.arguments.begin() + 1, e.arguments.end());
    need_models(e.arguments[0], models, command->num_models);
  });
  share_options(e);
  if (!world.alone()) world.start_watchdog(e.model.ranks.watchdog);
  const int num_modules = std::max(command->num_modules, modules_for_drafts(e.generate));
  if (e.common.dry_run) return say_what_would_be_done(e, models, world, num_modules);
  const Compute compute = choose_compute(e.common, world);
  Stream stream = compute_stream(compute, e.common);
  return command->run({e, models, invocation, world, {stream, compute.kernels}});
}

}  // namespace moe
