#include "lib/run/eval_model.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/base/log.h"
#include "lib/base/stopwatch.h"
#include "lib/model/params.h"
#include "lib/run/eval_windows.h"
#include "lib/run/gpu_comm.h"
#include "lib/run/hf_stream.h"
#include "lib/run/mesh_load.h"
#include "lib/run/mesh_plan.h"
#include "lib/run/summary.h"
#include "lib/run/text_table.h"
#include "lib/run/world_text.h"

namespace moe {
namespace {

constexpr int kSeqUnknown = 1024;

// As rank 0 finds it; its sizes are right. Loading checks the bytes.
CheckpointInfo find_on_mesh(World& world, const std::string& path) {
  std::string found;
  world.agree([&] {
    if (world.rank() == 0) found = open_checkpoint(path, CheckpointCheck::kSizes).path;
  });
  broadcast_text(world, "load", found);
  return info_of(manifest_on_mesh(world, found), found);
}

// What the training options of the checkpoint say; "" if nothing.
std::string trained_with(const nlohmann::json& state, const std::string& option) {
  if (!state.is_object() || !state.contains("options") || !state["options"].is_object()) return "";
  const auto value = state["options"].find(option);
  return value != state["options"].end() && value->is_string() ? value->get<std::string>() : "";
}

int seq_of(const EvalModelOptions& o, const nlohmann::json& state) {
  const std::string trained = trained_with(state, "seq");
  const bool is_number =
      !trained.empty() && trained.size() < 10 && trained.find_first_not_of("0123456789") == std::string::npos;
  return o.seq > 0 ? o.seq : is_number ? std::max(1, std::stoi(trained)) : kSeqUnknown;
}

DType dtype_of(const EvalModelOptions& o, const nlohmann::json& state) {
  if (o.dtype != EvalDType::kKeep) return o.dtype == EvalDType::kF32 ? DType::kF32 : DType::kBF16;
  return trained_with(state, "dtype") == "bf16" ? DType::kBF16 : DType::kF32;
}

ModelConfig config_of(const CheckpointInfo& info) {
  if (!info.state.is_object() || !info.state.contains("options"))
    throw Error(Exit::kBadInput, info.path + ": expected a checkpoint that says which model it is of, found one without",
                "moe-train and moe-reshard import write what is missing");
  return model_of_state(info.state, info.path);
}

// The checkpoint's mesh and plan where the ranks are as many and the user says nothing.
MeshOptions mesh_for(const EvalModelOptions& o, const CheckpointInfo& info, const ModelConfig& config, const World& world,
                     bool dry_run) {
  RankOptions ranks = o.ranks;
  ranks.resumed = mesh_of_state(info.state);
  ranks.resumed_plan = plan_of_state(info.state);
  return choose_mesh(ranks, world, config, dry_run);
}

// The modules of multi-token prediction from most_modules on.
void drop_modules(ModelConfig& config, Placement& plan, int most_modules) {
  config.num_mtp_layers = std::min(config.num_mtp_layers, most_modules);
  plan = plan_of_blocks(std::move(plan), config.num_blocks());
}

const char* name(DType dtype) { return dtype == DType::kBF16 ? "bf16" : "fp32"; }

}  // namespace

void add_eval_model_options(Options& o, EvalModelOptions& m) {
  o.group("Model");
  o.add("seq", m.seq, "tokens of a window, which the model sees at a time; 0 takes the sequence length of its training");
  o.add("batch", m.batch, "windows that a rank computes at a time; 0 takes about 2048 tokens, generate up to 16 texts");
  o.add("dtype", m.dtype, "weights and activations: as the checkpoint's, or one of them", {"keep", "fp32", "bf16"});
  o.add("weights", m.weights, "model: the parameters as trained; ema: their moving average (moe-train --ema)",
        {"model", "ema"});
  o.add("document-mask", m.document_mask, "tokens see only their own document; auto: as the model was trained",
        {"auto", "off", "on"});
  add_rank_options(o, m.ranks);
}

void check_eval_model_options(const Options& o, const EvalModelOptions& m) {
  const auto need = [&](bool ok, const char* option, const char* expected) {
    if (!ok)
      throw Error(Exit::kUsage, std::string("--") + option + ": expected " + expected + ", found " + o.find(option).get());
  };
  need(m.seq >= 0, "seq", "at least 1, or 0 for that of the training");
  need(m.batch >= 0, "batch", "at least 1, or 0 to choose");
  check_rank_options(o, m.ranks);
}

EvalModel::EvalModel(const std::string& path, const EvalModelOptions& o, World& world, Env env, int most_modules)
    : world_(world),
      env_(env),
      info_(find_on_mesh(world, path)),
      weights_(o.weights),
      seq_(seq_of(o, info_.state)),
      batch_(o.batch) {
  const Stopwatch watch;
  MeshOptions mesh;
  world.agree([&] {
    config_ = config_of(info_);
    mesh = mesh_for(o, info_, config_, world, false);
    drop_modules(config_, mesh.plan, most_modules);
  });
  mesh.gpu_comm = choose_gpu_comm(o.ranks.gpu_comm, world, env.stream.device());
  const std::string trained_mask = trained_with(info_.state, "document-mask");
  document_mask_ = o.document_mask == MaskChoice::kAuto ? trained_mask == "true" : o.document_mask == MaskChoice::kOn;
  mesh_ = std::make_unique<MeshContext>(world, mesh, config_.num_experts, env.kernels, env.stream.device());
  mesh_->check_node_limit(config_);
  model_ = std::make_unique<Model>(config_, dtype_of(o, info_.state), false, *mesh_);
  load_weights_on_mesh(*model_, info_, weights_, true);
  log_info("loaded " + std::string(weights_ == WeightsFrom::kEma ? "the moving average of " : "") + info_.path +
           " (digest " + info_.digest + ") on " + mesh_text(mesh.shape) + " in " + short_float(watch.seconds()) + " s");
}

std::string EvalModel::describe(const std::string& path, const EvalModelOptions& o, World& world, int most_modules) {
  const CheckpointInfo info = find_on_mesh(world, path);
  std::string text;
  world.agree([&] {
    ModelConfig config = config_of(info);
    MeshOptions mesh = mesh_for(o, info, config, world, true);
    drop_modules(config, mesh.plan, most_modules);
    const int seq = seq_of(o, info.state), batch = o.batch > 0 ? o.batch : windows_at_a_time(1 << 30, seq, 1);
    const PassOptions pass{.shape = {batch, seq}, .training = false, .num_modules = most_modules};
    const DType dtype = dtype_of(o, info.state);
    const auto bytes = [&](const MeshPlace& place) {
      return static_cast<double>(predict_memory(config, dtype, pass, mesh, place).total());
    };
    text = labelled("checkpoint", info.path + ", step " + std::to_string(info.step)) +
           labelled("parameters", thousands(count_parameters(config).total) + ", " + name(dtype)) +
           labelled("windows", std::to_string(batch) + " of " + std::to_string(seq) + " tokens a rank at a time") +
           mesh_picture(mesh, rank_hosts(o.ranks, world, mesh.shape), config.num_experts, bytes) + "\n";
  });
  return text;
}

PassOptions EvalModel::pass_options(std::int64_t num_windows, int seq_len) const {
  const int batch = batch_ > 0 ? batch_ : windows_at_a_time(num_windows, seq_len, world_.size());
  return {.shape = {batch, seq_len}, .training = false, .num_modules = config_.num_mtp_layers};
}

std::unique_ptr<Tokenizer> EvalModel::tokenizer() const {
  std::unique_ptr<Tokenizer> tokenizer = tokenizer_of(info_.state);
  if (!tokenizer)
    throw Error(Exit::kBadInput, info_.path + ": expected a checkpoint that says its tokenizer, found an unknown one",
                "token files (--data) need none");
  return tokenizer;
}

void EvalModel::check_data(const TokenFileInfo& data) const {
  const auto refuse = [&](const std::string& expected, const std::string& found, const char* hint) {
    throw Error(Exit::kBadInput, data.path + ": expected " + expected + ", found " + found, hint);
  };
  if (data.num_tokens < 2) refuse("at least 2 tokens", std::to_string(data.num_tokens), "");
  if (data.vocab_size > config_.vocab_size)
    refuse("a vocabulary of at most " + std::to_string(config_.vocab_size) + ", the model's",
           std::to_string(data.vocab_size), "encode the text with the tokenizer of the model (moe-data encode --tokenizer)");
  const TokenizerText mine = tokenizer_text_of(info_.state);
  const bool known = mine.name != "unknown" && data.tokenizer != "unknown";
  const bool same = mine.model.empty() ? mine.name == data.tokenizer : mine.model == data.tokenizer_model;
  if (known && !same)
    refuse("tokens of the model's tokenizer, " + mine.name, "those of " + data.tokenizer,
           "encode the text with the tokenizer of the model (moe-data encode --tokenizer)");
}

nlohmann::json EvalModel::json() const {
  const MeshShape& shape = mesh_->options().shape;
  return {{"path", info_.path},
          {"step", info_.step},
          {"digest", info_.digest},
          {"dtype", name(model_->dtype())},
          {"weights", weights_ == WeightsFrom::kEma ? "ema" : "model"},
          {"seq", seq_},
          {"document_mask", document_mask_},
          {"mesh", {{"replicate", shape.replicate}, {"shard", shape.shard}, {"ep", shape.ep}}}};
}

std::string EvalModel::text() const {
  return info_.path + ", step " + std::to_string(info_.step) + (weights_ == WeightsFrom::kEma ? ", moving average" : "");
}

}  // namespace moe
