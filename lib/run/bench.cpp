#include "lib/run/bench.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/base/byte_size.h"
#include "lib/base/provenance.h"
#include "lib/comm/collectives.h"
#include "lib/model/presets.h"
#include "lib/run/bench_table.h"
#include "lib/run/gpu_comm.h"

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
  // Of 600 M active parameters and more no cache holds the weights of a step.
  const Values large = {{"vocab-size", "32000"}, {"layers", "8"},    {"d-model", "1024"}, {"heads", "16"},
                        {"kv-heads", "4"},       {"head-dim", "64"}, {"experts", "8"},    {"top-k", "2"},
                        {"expert-ffn", "2560"},  {"seq", "512"},     {"batch", "1"}};
  if (name == "S") return small;
  if (name == "M") return medium;
  if (name == "L") return large;
  for (const Preset& p : presets())
    if (p.name == name) return p.options;
  std::vector<std::string> names = preset_names();
  const std::string near = nearest_name(name, names);
  throw Error(Exit::kUsage, "--shape: expected S, M, L or a preset of moe-train, found " + name,
              near.empty() ? "moe-train --help lists the presets" : "did you mean " + near + "?");
}

bool has_option(const Options& options, const std::string& name) {
  return std::any_of(options.all().begin(), options.all().end(), [&](const auto& o) { return o->name == name; });
}

void need(bool ok, const char* option, const char* expected, const Options& o) {
  if (!ok)
    throw Error(Exit::kUsage, std::string("--") + option + ": expected " + expected + ", found " + o.find(option).get());
}

// What a trace says cannot be said again.
void refuse_beside_replay(const Options& options, const BenchOptions& bench) {
  if (bench.replay.empty()) return;
  for (const char* name : {"workload", "tokens", "experts", "top-k"})
    if (options.find(name).origin > Origin::kPreset)
      throw Error(Exit::kUsage,
                  std::string("--") + name + ": expected none beside --replay, found " + options.find(name).get(),
                  "the trace says it");
}

// Of a preset the options that make the model and its batch; the schedule is not ours.
void finish_bench_options(Options& options, BenchOptions& bench) {
  if (bench.command == BenchCommand::kGenerate && !options.is_set("shape")) options.set("shape", {"L"}, Origin::kPreset);
  for (const auto& [name, value] : shape_values(bench.shape))
    if (has_option(options, name)) options.set(name, {value}, Origin::kPreset);
  if (bench.model.vocab_size == 0) bench.model.vocab_size = 256;
  need(bench.batch >= 1, "batch", "at least 1", options);
  need(bench.micro_batch >= 0, "micro-batch", "at least 1, or 0 for the whole share", options);
  need(bench.seq >= 1, "seq", "at least 1", options);
  need(bench.seconds >= 0, "seconds", "at least 0", options);
  need(bench.prompt_tokens >= 1, "prompt-tokens", "at least 1", options);
  need(bench.new_tokens >= 1, "new-tokens", "at least 1", options);
  batch_list(bench);
  need(bench.tokens >= 1, "tokens", "at least 1", options);
  need(bench.link_gbits >= 0, "link-gbits", "at least 0", options);
  need(bench.min_bytes >= 1, "min-bytes", "at least 1", options);
  need(bench.max_bytes >= bench.min_bytes, "max-bytes", "at least --min-bytes", options);
  need(bench.layer >= -1, "layer", "at least 0, or -1", options);
  refuse_beside_replay(options, bench);
  bench.file_bytes = parse_byte_size(bench.bytes, "--bytes");
  check_rank_options(options, bench.ranks);
  check_config(bench.model);
}

const std::vector<std::string> kIsaNames = {"auto", "amx", "avx512", "avx2", "generic"};

// What the command runs on. checkpoint and reshard measure files; --isa asks for the CPU.
Compute compute_of(const BenchOptions& o, World& world) {
  const bool knows_devices = o.command != BenchCommand::kCheckpoint && o.command != BenchCommand::kReshard;
  CommonOptions common = o.common;
  if (common.device == DeviceChoice::kAuto && (!knows_devices || o.isa != BenchIsa::kAuto))
    common.device = DeviceChoice::kCpu;
  if (common.device == DeviceChoice::kCuda && !knows_devices)
    throw AgreedError(Exit::kUnavailable,
                      std::string("--device cuda: expected a command that computes, found ") +
                          (o.command == BenchCommand::kReshard ? "reshard" : "checkpoint"),
                      "use --device cpu", 0);
  const Compute compute = choose_compute(common, world);
  if (o.isa == BenchIsa::kAuto) return compute;
  const std::string name = kIsaNames.at(static_cast<std::size_t>(o.isa));
  if (!compute.on_cpu())
    throw Error(Exit::kUsage, "--isa: expected none with --device cuda, found " + name, "instruction sets are the CPU's");
  if (const Kernels* k = cpu_kernels_by_isa(name)) return {compute.device, *k};
  throw Error(Exit::kUnavailable, "--isa " + name + ": this processor or this build does not have it", "use --isa auto");
}

}  // namespace

Options bench_options(BenchOptions& b) {
  Options o(
      "moe-bench",
      "measure kernels, training steps, the exchange of rows and collectives: each figure with its check, unit and "
      "share of a peak",
      {"moe-bench kernels --shape S --filter gemm/qkv --seconds 0.1",
       "moe-bench kernels --filter adamw,swiglu --dtype bf16 --json -", "moe-bench step --shape S --seconds 1",
       "moe-bench step --layers 2 --experts 16 --top-k 4 --seconds 1 --json step.json",
       "moe-bench dispatch --workload W2 --tokens 256 --experts 32 --top-k 4 --json dispatch.json",
       "moe-bench dispatch --replay trace.h5 --seconds 0.1 --json -",
       "moe-bench collectives --filter all_reduce --max-bytes 65536 --seconds 0.02", "moe-bench checkpoint --bytes 16M",
       "moe-bench reshard --bytes 16M", "moe-bench generate --shape S --batches 1,4 --prompt-tokens 16 --new-tokens 8"});
  o.group("What to measure");
  Option& command = o.add(
      "command", b.command,
      "kernels: each kernel by itself, in one process; step: forward, backward and optimizer of a model on random tokens; "
      "dispatch: rows of tokens to the ranks of their experts and back; collectives: sums, gathers and broadcasts over all "
      "ranks; these three run on the ranks of mpirun or srun and on their GPUs, which reach each other by --gpu-comm. "
      "checkpoint: saving, loading and verifying one, against raw writes and reads; reshard: one into another layout, "
      "against cp; generate: tokens a second with a cache, against the time that reading the weights takes; these three in "
      "one process",
      {"kernels", "step", "dispatch", "collectives", "checkpoint", "reshard", "generate"});
  command.positional = command.needed = true;
  o.add("shape", b.shape,
        "S, M and L (d 256, 4 layers, 8 experts; d 512, 8 layers, 16 experts; d 1024, 8 layers, 8 experts, what generate "
        "takes if nobody chooses: its active weights are larger than caches) or a preset of moe-train; the options of "
        "model and batch change it")
      .value = "NAME";
  o.add("filter", b.filter,
        "kernels, collectives: only rows whose name contains this; kernels: or one of several, with commas between, or the "
        "shape as --dry-run lists it")
      .value = "TEXT";
  o.add("seconds", b.seconds,
        "time of measuring: of each row of kernels and collectives (0: 0.3) or dispatch (0: 1), of all steps (0: 5)");
  o.add("isa", b.isa, "instruction set of the kernels; auto takes the widest", kIsaNames);
  o.group("Batch");
  o.add("batch", b.batch, "sequences of a step, of all ranks together");
  o.add("micro-batch", b.micro_batch,
        "step: sequences that a rank computes at a time; 0 takes its whole share of --batch (gradients accumulate)");
  o.add("seq", b.seq, "tokens of a sequence");
  o.add("dtype", b.dtype,
        "step, kernels: weights and activations; masters, gradients and moments are fp32; dispatch: the rows that travel",
        {"fp32", "bf16"});
  o.add("recompute", b.recompute, "step: what backward computes again", {"none", "light", "full"});
  o.group("Exchange of rows (dispatch)");
  o.add("tokens", b.tokens, "tokens of a rank");
  o.add("workload", b.workload,
        "which experts they choose: W0 balanced, W1 a hot set of experts, W2 a hot rank, W3 one hot expert on each rank, W4 "
        "ranks with different numbers of tokens, W5 a rank without tokens, W6 a hot rank that moves, W7 a hot rank now and "
        "then",
        {"W0", "W1", "W2", "W3", "W4", "W5", "W6", "W7", "all"});
  o.add("replay", b.replay,
        "the recorded decisions of a router trace (moe-train --router-trace) instead of a workload, a row for each layer; "
        "experts, choices and tokens are those of the trace, its tokens cut onto the ranks as training does")
      .value = "FILE";
  o.add("record", b.record, "write what the workload chooses as a router trace, for moe-place solve and --replay").value =
      "FILE";
  o.add("layer", b.layer, "layer of the trace or the plan; -1: all of a trace, the first of a plan for the workloads");
  o.add("link-gbits", b.link_gbits, "speed of a node's network link in Gbit/s, to show how much of it was used; 0: unknown");
  o.group("Generation (generate)");
  o.add("batches", b.batches, "sequences at a time, one after the other").value = "N,N,...";
  o.add("prompt-tokens", b.prompt_tokens, "tokens of each prompt");
  o.add("new-tokens", b.new_tokens, "tokens that follow");
  o.group("Collectives");
  o.add("min-bytes", b.min_bytes, "smallest size; each next one is 4 times as large");
  o.add("max-bytes", b.max_bytes, "largest size");
  o.group("Files (checkpoint, reshard)");
  o.add("bytes", b.bytes, "size of the checkpoint, as 512M or 4G; twice as much is written").value = "SIZE";
  o.add("directory", b.directory, "where the files are made, and removed again").value = "DIR";
  add_rank_options(o, b.ranks);
  add_model_options(o, b.model);
  add_balance_options(o, b.balance);
  add_common_options(o, b.common);
  o.after_parse([&b](Options& parsed) { finish_bench_options(parsed, b); });
  return o;
}

std::FILE* table_file(const BenchOptions& options) { return options.common.json == "-" ? stderr : stdout; }

Exit bench(const BenchOptions& options, const Invocation& invocation, World& world) {
  const Compute compute = compute_of(options, world);
  world.start_watchdog(options.ranks.watchdog);
  const bool sends = options.command == BenchCommand::kDispatch || options.command == BenchCommand::kCollectives ||
                     (options.command == BenchCommand::kStep && !world.alone());
  const GpuComm way = sends ? choose_gpu_comm(options.ranks.gpu_comm, world, compute.device) : GpuComm::kAuto;
  switch (options.command) {
    case BenchCommand::kDispatch:
      return bench_dispatch(options, world, compute, way, provenance_chain(invocation, nullptr, {}));
    case BenchCommand::kCollectives:
      return bench_collectives(options, world, compute, way);
    case BenchCommand::kStep:
      return world.alone() ? bench_step(options, compute) : bench_mesh_step(options, world, compute, way);
    case BenchCommand::kReshard:
      return bench_reshard(options, invocation, world);
    case BenchCommand::kKernels:
    case BenchCommand::kCheckpoint:
    case BenchCommand::kGenerate:
      break;
  }
  if (!world.alone())
    throw AgreedError(Exit::kUsage,
                      std::string(options.command == BenchCommand::kKernels    ? "kernels"
                                  : options.command == BenchCommand::kGenerate ? "generate"
                                                                               : "checkpoint") +
                          ": expected one process, found " + std::to_string(world.size()) + " ranks",
                      "start it without mpirun; moe-bench step measures all ranks at once", 0);
  if (options.command == BenchCommand::kGenerate) return bench_generate(options, compute);
  if (options.command == BenchCommand::kCheckpoint) return bench_checkpoint(options);
  Stream stream = compute_stream(compute, options.common);
  return bench_kernels(options, {stream, compute.kernels});
}

}  // namespace moe
