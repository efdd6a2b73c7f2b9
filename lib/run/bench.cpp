#include "lib/run/bench.h"

#include <algorithm>

#include "lib/model/presets.h"
#include "lib/run/bench_table.h"

namespace moe {
namespace {

using Values = std::vector<std::pair<std::string, std::string>>;

// What both configurations of the baselines share is the default of BenchOptions and ModelConfig.
Values shape_values(const std::string& name) {
  const Values small = {{"vocab-size", "256"}, {"layers", "4"},      {"d-model", "256"}, {"heads", "4"},
                        {"kv-heads", "4"},     {"head-dim", "64"},   {"experts", "8"},   {"top-k", "2"},
                        {"expert-ffn", "512"}, {"aux-loss", "0.01"}, {"seq", "256"},     {"batch", "8"}};
  const Values medium = {{"vocab-size", "256"},  {"layers", "8"},      {"d-model", "512"}, {"heads", "8"},
                         {"kv-heads", "8"},      {"head-dim", "64"},   {"experts", "16"},  {"top-k", "2"},
                         {"expert-ffn", "1024"}, {"aux-loss", "0.01"}, {"seq", "512"},     {"batch", "4"}};
  if (name == "S") return small;
  if (name == "M") return medium;
  for (const Preset& p : presets())
    if (p.name == name) return p.options;
  std::vector<std::string> names = preset_names();
  const std::string near = nearest_name(name, names);
  throw Error(Exit::kUsage, "--shape: expected S, M or a preset of moe-train, found " + name,
              near.empty() ? "moe-train --help lists the presets" : "did you mean " + near + "?");
}

bool has_option(const Options& options, const std::string& name) {
  return std::any_of(options.all().begin(), options.all().end(), [&](const auto& o) { return o->name == name; });
}

void need(bool ok, const char* option, const char* expected, const Options& o) {
  if (!ok)
    throw Error(Exit::kUsage, std::string("--") + option + ": expected " + expected + ", found " + o.find(option).get());
}

// Of a preset the options that make the model and its batch; the schedule is not ours.
void finish_bench_options(Options& options, BenchOptions& bench) {
  for (const auto& [name, value] : shape_values(bench.shape))
    if (has_option(options, name)) options.set(name, {value}, Origin::kPreset);
  if (bench.model.vocab_size == 0) bench.model.vocab_size = 256;
  need(bench.batch >= 1, "batch", "at least 1", options);
  need(bench.seq >= 1, "seq", "at least 1", options);
  need(bench.seconds >= 0, "seconds", "at least 0", options);
  check_config(bench.model);
}

const Kernels& kernels_of(BenchIsa isa) {
  if (isa == BenchIsa::kAuto) return cpu_kernels();
  const std::string name = isa == BenchIsa::kAvx512 ? "avx512" : isa == BenchIsa::kAvx2 ? "avx2" : "generic";
  if (const Kernels* k = cpu_kernels_by_isa(name)) return *k;
  throw Error(Exit::kUnavailable, "--isa " + name + ": this processor or this build does not have it", "use --isa auto");
}

}  // namespace

Options bench_options(BenchOptions& b) {
  Options o("moe-bench",
            "measure kernels and training steps: each figure with its check, unit and share of this machine's peak",
            {"moe-bench kernels --shape S --filter gemm/qkv --seconds 0.1", "moe-bench kernels --filter adamw --json -",
             "moe-bench step --shape S --seconds 1",
             "moe-bench step --layers 2 --experts 16 --top-k 4 --seconds 1 --json step.json"});
  o.group("What to measure");
  Option& command =
      o.add("command", b.command,
            "kernels: each kernel by itself; step: forward, backward and optimizer of a model on random tokens",
            {"kernels", "step"});
  command.positional = command.needed = true;
  o.add("shape", b.shape,
        "S and M (d 256, 4 layers, 8 experts; d 512, 8 layers, 16 experts) or a preset of moe-train; the options of "
        "model and batch change it")
      .value = "NAME";
  o.add("filter", b.filter, "kernels: only rows whose name contains this").value = "TEXT";
  o.add("seconds", b.seconds, "time of measuring: of each row of kernels (0: 0.3), of all steps (0: 5)");
  o.add("isa", b.isa, "instruction set of the kernels; auto takes the widest", {"auto", "avx512", "avx2", "generic"});
  o.group("Batch");
  o.add("batch", b.batch, "sequences of a step");
  o.add("seq", b.seq, "tokens of a sequence");
  o.add("dtype", b.dtype, "step: weights and activations; masters, gradients and moments are fp32", {"fp32", "bf16"});
  o.add("recompute", b.recompute, "step: what backward computes again", {"none", "light", "full"});
  o.group("Model");
  add_model_options(o, b.model);
  add_balance_options(o, b.balance);
  add_common_options(o, b.common);
  o.after_parse([&b](Options& parsed) { finish_bench_options(parsed, b); });
  return o;
}

std::FILE* table_file(const BenchOptions& options) { return options.common.json == "-" ? stderr : stdout; }

Exit bench(const BenchOptions& options, const Invocation&) {
  const Kernels& kernels = kernels_of(options.isa);
  if (options.command == BenchCommand::kStep) return bench_step(options, kernels);
  Stream stream(options.common.threads);
  return bench_kernels(options, {stream, kernels});
}

}  // namespace moe
