#include "lib/run/train_options.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/io/run_lock.h"
#include "lib/model/presets.h"
#include "lib/run/mesh_plan.h"
#include "lib/run/save_interval.h"
#include "lib/run/train_state.h"

namespace moe {
namespace {

void add_data_options(Options& o, TrainOptions& t) {
  o.group("Data");
  o.add("data", t.data, "tokens to train on: a token file of moe-data, or plain text (bytes)").value = "FILE";
  o.add("eval-data", t.eval_data, "tokens to evaluate on").value = "FILE";
  o.add("epochs", t.epochs, "stop after so many passes over the data; 0 repeats it as the steps need");
  o.add("document-mask", t.document_mask, "tokens attend only inside their document");
  o.add("allow-data-change", t.allow_data_change, "resume although the data is not the checkpoint's");
}

void add_batch_options(Options& o, TrainOptions& t) {
  o.group("Batch");
  o.add("batch", t.batch, "sequences of a step, of all ranks");
  o.add("micro-batch", t.micro_batch,
        "sequences that a rank computes at a time; 0 takes its whole share of --batch (gradients accumulate)");
  o.add(
      "batch-ramp", t.batch_ramp,
      "the batch grows from FROM sequences to --batch within the first TOKENS (such as 469B) of the run, by STEP sequences "
      "at a time (left out: FROM)",
      "FROM:TOKENS[:STEP]");
  o.add("seq", t.seq, "tokens of a sequence");
}

void add_placement_options(Options& o, TrainOptions& t) {
  o.group("Placement while training");
  o.add(
      "replan-every", t.replan_every,
      "steps between looks at the routing since the last one; where other places bring 1 % or more experts move there, with "
      "masters and moments; 0 never looks");
  o.add("objective", t.objective, "of these plans: even rows per rank, or few rows that cross nodes",
        {"balance", "traffic"});
  o.add("replicas", t.replicas, "copies of experts, beyond one of each, that these plans may make in a layer");
}

void add_training_options(Options& o, TrainOptions& t) {
  o.group("Schedule and optimizer");
  o.add("steps", t.steps, "optimizer steps of the whole run; 0 leaves the end to --epochs or --time-limit");
  o.add("time-limit", t.time_limit, "seconds of wall time of the whole run; the schedule runs over it");
  o.add("schedule", t.schedule, "learning rate after the warm-up; phases: as --lr-phases says",
        {"cosine", "wsd", "constant", "phases"});
  o.add("lr-phases", t.lr_phases,
        "of --schedule phases, in turn: constant, cosine or linear to LEVEL (a fraction of --lr; of constant at once, left "
        "out: as it is) until POINT (a fraction of the run, or tokens such as 10T; of the last one the end)",
        "SHAPE[:LEVEL][@POINT],...");
  o.add("lr", t.lr, "highest learning rate");
  o.add("min-lr", t.min_lr, "last learning rate as a fraction of --lr");
  o.add("warmup", t.warmup, "steps of linear warm-up");
  o.add("decay-fraction", t.decay_fraction, "part of the run in which wsd decays");
  o.add("optimizer", t.optimizer,
        "muon: the momentum of each matrix of a block, made orthogonal (Newton-Schulz), at the size of AdamW's updates, so "
        "that --lr and --weight-decay are as for AdamW, which all else gets: embedding, head, norms, biases",
        {"adamw", "muon"});
  o.add("weight-decay", t.weight_decay, "decay of matrices; norms and biases do not decay");
  o.add("beta1", t.beta1, "AdamW decay of the first moment");
  o.add("beta2", t.beta2, "AdamW decay of the second moment");
  o.add("adam-eps", t.adam_eps, "AdamW epsilon");
  o.add("moments", t.moments,
        "dtype that the moments of the optimizer are kept in; bf16 takes half the memory, and --beta2 above 0.99 is then "
        "lost in rounding",
        {"fp32", "bf16"});
  o.add("ema", t.ema,
        "keep a moving average of the parameters with this decay, such as 0.999, in fp32 and in memory of the host (role "
        "ema of checkpoints); 0 keeps none");
  o.add("grad-clip", t.grad_clip, "largest global gradient norm; 0 does not clip");
  o.add(
      "mtp-weight", t.mtp_weight,
      "factor of the mean loss of the --mtp-depth modules in the total loss; 0.3,0.1@0.68 takes 0.1 from 68 % of the run on",
      "FLOAT,FLOAT@POINT,...");
  o.add("dtype", t.dtype, "weights and activations; masters and gradients are fp32", {"fp32", "bf16"});
  o.add("recompute", t.recompute,
        "what backward computes again: nothing; norms, SwiGLU and the up-projections of latent attention; whole blocks",
        {"none", "light", "full"});
  o.add("nonfinite", t.nonfinite, "loss or gradient not finite: skip the update, roll back to the last checkpoint, stop",
        {"skip", "rollback", "stop"});
  o.add("nonfinite-limit", t.nonfinite_limit, "so many in a row stop the run with exit code 76");
}

void add_output_options(Options& o, TrainOptions& t) {
  o.group("Output");
  o.add("output", t.output, "run directory: checkpoints, metrics.jsonl, routing.h5, run.svg").value = "DIR";
  o.add(
       "resume", t.resume,
       "auto: from --output if it holds a checkpoint; must; never; or a checkpoint or run directory. On as many ranks as it "
       "was saved by, its mesh is kept unless --ep, --shard or --replicate is given")
      .value = "auto|must|never|PATH";
  o.add("init-from", t.init_from, "start with the weights of this checkpoint or run directory, at step 0 with new moments")
      .value = "PATH";
  o.add("allow-change", t.allow_change,
        "resume although this option (batch, batch-ramp, seq, seed or document-mask) is not the checkpoint's; the samples "
        "that come next are then others")
      .value = "OPTION";
  o.add("save", t.save, "write checkpoints while training goes on (takes the memory of one), or let training wait",
        {"async", "sync"});
  o.add(
       "save-every", t.save_every,
       "steps between checkpoints; 0 saves at the end; auto takes the interval that costs least, from what a save costs and "
       "--mtbf")
      .value = "STEPS|auto";
  o.add("mtbf", t.mtbf, "hours between failures of the job, for --save-every auto");
  o.add("save-fail", t.save_fail,
        "a save that fails during the run: warn and go on, but end with exit code 74 after N in a row; or stop at once")
      .value = "warn:N|stop";
  o.add("keep-last", t.keep_last, "newest checkpoints that stay");
  o.add("keep-every", t.keep_every, "checkpoints of these steps stay for good; 0 keeps none");
  o.add("eval-every", t.eval_every, "steps between evaluations; 0 evaluates at the end");
  o.add("eval-tokens", t.eval_tokens, "tokens of an evaluation during the run; 0 takes all, as the last one does");
  o.add("log-every", t.log_every, "steps between lines of the log; 0 writes one about every two seconds");
  o.add("router-trace", t.router_trace,
        "record which experts the router chose for every token of the last steps, for moe-bench dispatch --replay and "
        "moe-place; a run that is resumed replaces the file")
      .value = "FILE";
  o.add("router-trace-steps", t.router_trace_steps, "so many last steps of this call; 0 records all");
  o.add("trace", t.trace,
        "write what every rank computed, communicated and saved in some steps, and when, for https://ui.perfetto.dev or "
        "chrome://tracing (on a GPU when the host put it into the queue; kernels are shown by nsys, in the same ranges); a "
        "run that is resumed replaces the file")
      .value = "FILE";
  o.add("trace-steps", t.trace_steps, "of --trace: from this step of this call to that one", "FIRST:LAST");
  o.add("sample", t.sample, "continue this text when the run ends").value = "PROMPT";
  o.add("sample-tokens", t.sample_tokens, "tokens of the sample");
  o.add("temperature", t.temperature, "temperature of the sample; 0 takes the likeliest token");
}

void need(bool ok, const std::string& option, const std::string& expected, const Options& options, const char* hint = "") {
  if (!ok)
    throw Error(Exit::kUsage, "--" + option + ": expected " + expected + ", found " + options.find(option).get(), hint);
}

// What the parts of a schedule say of each other.
void check_schedule(const Options& o, const TrainOptions& t) {
  need(!t.batch_ramp.grows() || t.batch_ramp.from <= t.batch, "batch-ramp", "no more than --batch to begin with", o);
  const bool phases = t.schedule == Schedule::kPhases;
  // A file of all options may name phases that are not used; who types them means them.
  const Origin said = o.find("lr-phases").origin;
  const bool unused =
      said < o.find("schedule").origin || (said != Origin::kCommandLine && said == o.find("schedule").origin);
  need(phases || t.lr_phases.empty() || unused, "schedule", "phases with --lr-phases", o);
  need(!phases || !t.lr_phases.empty(), "lr-phases", "phases with --schedule phases", o, "constant@0.8,cosine:0.1");
  need(!phases || !t.lr_phases.has_tokens() || t.steps > 0 || t.epochs > 0, "lr-phases",
       "points in fractions of the run where --time-limit alone ends it", o);
}

void check_run(const Options& o, const TrainOptions& t) {
  check_schedule(o, t);
  need(t.batch >= 1, "batch", "at least 1", o);
  need(t.micro_batch >= 0, "micro-batch", "at least 1, or 0 for the whole share", o);
  need(t.seq >= 1, "seq", "at least 1", o);
  need(t.steps >= 0, "steps", "at least 0", o);
  need(t.time_limit >= 0, "time-limit", "at least 0 seconds", o);
  need(t.steps > 0 || t.time_limit > 0 || t.epochs > 0, "steps", "more than 0", o, "give --steps, --time-limit or --epochs");
  need(t.epochs >= 0, "epochs", "at least 0", o);
  need(t.lr >= 0, "lr", "at least 0", o);
  need(t.min_lr >= 0 && t.min_lr <= 1, "min-lr", "a fraction of --lr in 0 to 1", o);
  need(t.warmup >= 0, "warmup", "at least 0", o);
  need(t.decay_fraction >= 0 && t.decay_fraction <= 1, "decay-fraction", "0 to 1", o);
  need(t.beta1 >= 0 && t.beta1 < 1, "beta1", "0 to below 1", o);
  need(t.beta2 >= 0 && t.beta2 < 1, "beta2", "0 to below 1", o);
  need(t.ema >= 0 && t.ema < 1, "ema", "0 to below 1", o);
  need(t.grad_clip >= 0, "grad-clip", "at least 0", o);
  need(t.keep_last >= 1, "keep-last", "at least 1", o);
  need(t.nonfinite_limit >= 1, "nonfinite-limit", "at least 1", o);
  need(t.sample_tokens >= 0, "sample-tokens", "at least 0", o);
  need(t.temperature >= 0, "temperature", "at least 0", o);
  need(t.weight_decay >= 0, "weight-decay", "at least 0", o);
  need(t.adam_eps > 0, "adam-eps", "more than 0", o);
  SaveEvery::parse(t.save_every);
  SaveFailPolicy::parse(t.save_fail);
  need(t.replan_every >= 0, "replan-every", "at least 0", o);
  need(t.replicas >= 0, "replicas", "at least 0", o);
  need(t.mtbf > 0, "mtbf", "more than 0 hours", o);
  need(t.keep_every >= 0, "keep-every", "at least 0", o);
  need(t.eval_every >= 0, "eval-every", "at least 0", o);
  need(t.eval_tokens >= 0, "eval-tokens", "at least 0", o);
  need(t.log_every >= 0, "log-every", "at least 0", o);
  need(t.router_trace_steps >= 0, "router-trace-steps", "at least 1, or 0 for all", o);
  const bool ends_before = t.steps > 0 && t.trace_steps.first > t.steps && !t.resume_from;
  need(t.trace.empty() || !ends_before, "trace-steps", "steps of the " + std::to_string(t.steps) + " of --steps", o,
       "--trace-steps 1:1 takes the first");
  need(t.trace.empty() || t.trace != t.router_trace, "trace", "another file than --router-trace", o);
  need(t.balance.aux >= 0, "aux-loss", "at least 0", o);
  need(t.balance.seq_aux >= 0, "seq-aux-loss", "at least 0", o);
  need(t.balance.global_aux >= 0, "global-aux-loss", "at least 0", o);
  need(t.balance.z >= 0, "z-loss", "at least 0", o);
  need(t.balance.bias_update_speed.least() >= 0, "bias-update-speed", "at least 0", o);
  need(t.mtp_weight.least() >= 0, "mtp-weight", "at least 0", o);
  need(t.balance.capacity_factor >= 0, "capacity-factor", "0 (dropless) or more", o);
  need(t.balance.bias_update_speed.most() == 0 || t.model.router_bias, "bias-update-speed", "0 without --router-bias", o,
       "add --router-bias");
}

// Cheap: the manifest is parsed and the sizes of the files are looked at. Their bytes are checked as they are loaded.
std::optional<CheckpointInfo> find_checkpoint(TrainOptions& t) {
  if (t.resume == "never") return std::nullopt;
  const bool own = t.resume == "auto" || t.resume == "must";
  if (t.resume == "auto" && (t.output.empty() || t.common.force || !has_checkpoint(t.output))) return std::nullopt;
  if (own && t.output.empty()) throw Error(Exit::kUsage, "--resume must: expected --output, found none");
  const bool writes = own && !t.common.dry_run && !t.common.print_config;
  if (writes) RunLock::refuse_held(t.output);  // its keeper may remove what is being read
  const std::string path = own ? t.output : t.resume;
  CheckpointInfo info = open_checkpoint(path, CheckpointCheck::kSizes);
  if (info.path != path) t.resume_dir = path;
  return info;
}

// A checkpoint of weights alone (imported, or made with moe-reshard --weights-only) cannot be gone on from.
void need_moments(const CheckpointInfo& info) {
  for (const CheckpointInfo::Tensor& t : info.tensors)
    if (t.role == "m") return;
  throw Error(Exit::kBadInput, info.path + ": expected the moments of the optimizer to resume, found weights alone",
              "--init-from " + info.path + " starts a run with these weights; give it another --output");
}

// Its plan, and the checkpoint's mesh, for as many ranks, unless the user says something about it: sums then round as they
// did.
void go_on_with_mesh(const Options& options, TrainOptions& t) {
  t.ranks.resumed_plan = plan_of_state(t.resume_from->state);
  for (const char* const side : {"ep", "shard", "replicate"})
    if (options.find(side).origin > Origin::kCheckpoint) return;
  t.ranks.resumed = mesh_of_state(t.resume_from->state);
}

}  // namespace

void finish_train_options(Options& options, TrainOptions& train) {
  while (train.output.size() > 1 && train.output.ends_with('/')) train.output.pop_back();
  train.resume_from = find_checkpoint(train);
  if (train.resume_from) {
    need_moments(*train.resume_from);
    apply_checkpoint_options(options, train.resume_from->state);
    go_on_with_mesh(options, train);
  } else if (!train.init_from.empty()) {
    train.weights_from = open_checkpoint(train.init_from);
    apply_model_options(options, train.weights_from->state);
  }
  apply_preset(options, train.preset);
  // A time limit that the user gave replaces the steps that only a preset or default gave.
  if (train.time_limit > 0 && options.find("steps").origin < options.find("time-limit").origin &&
      options.find("steps").origin <= Origin::kPreset)
    train.steps = 0;
  // So do epochs: --epochs 20 means twenty, though the preset has fewer steps.
  if (train.epochs > 0 && options.find("steps").origin <= Origin::kPreset) train.steps = 0;
  check_rank_options(options, train.ranks);
  check_run(options, train);
}

TrainingState training_state(const TrainOptions& t) {
  return {.moments = t.moments, .muon = t.optimizer == Optimizer::kMuon, .ema = t.ema > 0};
}

Options train_options(TrainOptions& train) {
  Options o(
      "moe-train", "train a Mixture-of-Experts language model",
      {"moe-train --data text.txt --steps 200 -o run",
       "moe-train --preset tiny --data tokens.h5 --steps 300 -o run --resume must",
       "moe-train --data text.txt --steps 200 --router-trace trace.h5 --router-trace-steps 4",
       "moe-train --data text.txt --steps 200 --trace step.json --trace-steps 1:2",
       "moe-train --preset olmoe-1b-7b --dry-run", "moe-train --data text.txt --steps 20 --experts 16 --top-k 4 --json -"});
  o.group("Model");
  o.add(
       "preset", train.preset,
       "named set of options: " +
           [] {
             std::string all;
             for (const std::string& n : preset_names()) all += (all.empty() ? "" : ", ") + n;
             return all;
           }())
      .value = "NAME";
  o.add("list-presets", train.list_presets, "list the presets with their parameters and work, and end");
  add_model_options(o, train.model);
  add_balance_options(o, train.balance);
  add_data_options(o, train);
  add_batch_options(o, train);
  add_rank_options(o, train.ranks);
  add_placement_options(o, train);
  add_training_options(o, train);
  add_output_options(o, train);
  add_common_options(o, train.common);
  o.after_parse([&train](Options& parsed) { finish_train_options(parsed, train); });
  return o;
}

}  // namespace moe
