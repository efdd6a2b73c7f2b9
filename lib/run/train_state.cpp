#include "lib/run/train_state.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "lib/base/error.h"
#include "lib/run/mesh_plan.h"
#include "lib/run/tensor_cut.h"

namespace moe {
namespace {

void add_slices(const Param& p, const std::vector<ShardBox>& boxes, const std::string& role, DType dtype, void* shard,
                std::vector<TensorSlice>& list) {
  for (const ShardBox& b : boxes)
    list.push_back({p.spec.name, role, dtype, p.spec.shape, b.box.offset, b.box.extent,
                    static_cast<std::byte*>(shard) + static_cast<std::size_t>(b.at) * size_of(dtype)});
}

void add_bias_slices(Model& model, bool owns_replicated, std::vector<TensorSlice>& list) {
  for (const int layer : model.moe_layers())
    if (std::vector<float>& bias = model.router_bias(layer); !bias.empty()) {
      const auto n = static_cast<std::int64_t>(bias.size());
      list.push_back({"layers." + std::to_string(layer) + ".router.bias",
                      "bias",
                      DType::kF32,
                      {n},
                      {0},
                      {owns_replicated ? n : 0},
                      bias.data()});
    }
}

// Options that a checkpoint keeps, by group; of these, the model and what decides the order of the data may not change.
constexpr std::array kKeptGroups = {"Model", "Expert balance", "Batch", "Schedule and optimizer"};
constexpr std::array kOrderOptions = {"batch", "batch-ramp", "seq", "seed", "document-mask"};  // the samples that come next
constexpr std::array kFixedOptions = {"batch", "batch-ramp", "seq", "dtype", "optimizer", "seed", "document-mask"};

bool is_kept(const Option& o) {
  const bool in_group = std::find(kKeptGroups.begin(), kKeptGroups.end(), o.group) != kKeptGroups.end();
  return in_group || o.name == "seed" || o.name == "document-mask";
}
bool is_fixed(const Option& o) {
  const bool listed = std::find(kFixedOptions.begin(), kFixedOptions.end(), o.name) != kFixedOptions.end();
  return listed || o.group == "Model";
}

std::string to_hex(const std::string& bytes) {
  static const char* digits = "0123456789abcdef";
  std::string hex;
  for (unsigned char c : bytes) hex += {digits[c >> 4], digits[c & 15]};
  return hex;
}
std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

// BF16 to F32, or back.
void convert(const std::byte* in, bool from_narrow, std::int64_t n, void* out) {
  if (from_narrow)
    std::transform(reinterpret_cast<const BF16*>(in), reinterpret_cast<const BF16*>(in) + n, static_cast<float*>(out),
                   to_float);
  else
    std::transform(reinterpret_cast<const float*>(in), reinterpret_cast<const float*>(in) + n, static_cast<BF16*>(out),
                   to_bf16);
}

// JSON has no NaN: the loss of a step that was not finite is stored as null.
double number_or_nan(const nlohmann::json& value) { return value.is_null() ? std::nan("") : value.get<double>(); }

}  // namespace

std::vector<TensorSlice> state_slices(Model& model, bool with_optimizer, bool owns_replicated) {
  std::vector<TensorSlice> list;
  const bool has_master = model.dtype() != DType::kF32;
  for (const Param& p : model.params().all()) {
    const std::vector<ShardBox> boxes = shard_boxes(model.params(), p, owns_replicated);
    add_slices(p, boxes, "weight", model.dtype(), p.weight_shard, list);
    if (!with_optimizer) continue;
    if (has_master) add_slices(p, boxes, "master", DType::kF32, p.master, list);
    add_slices(p, boxes, "m", p.m.dtype, p.m.data, list);
    if (!p.is_muon) add_slices(p, boxes, "v", p.v.dtype, p.v.data, list);
    if (model.params().state().ema) add_slices(p, boxes, "ema", DType::kF32, p.ema, list);
  }
  add_bias_slices(model, owns_replicated, list);
  return list;
}

void load_weights(Model& model, const CheckpointInfo& info, WeightsFrom from_role, bool drops_modules) {
  const auto with_role = [&](const std::string& role) {
    return std::find_if(info.tensors.begin(), info.tensors.end(), [&](const auto& t) { return t.role == role; });
  };
  const bool has_master = with_role("master") != info.tensors.end(), averages = from_role == WeightsFrom::kEma;
  const std::string role = averages ? "ema" : has_master ? "master" : "weight";
  const auto first = with_role(role);
  const bool narrow = first != info.tensors.end() && first->dtype == DType::kBF16;
  const DType from = narrow ? DType::kBF16 : DType::kF32;
  const DType to = model.training() ? DType::kF32 : model.dtype();
  const auto target = [&](const Param& p) { return model.training() ? static_cast<void*>(p.master) : p.weight_shard; };
  std::vector<TensorSlice> list;
  std::vector<std::vector<std::byte>> read;  // of each parameter's shard, where it is to be converted
  for (const Param& p : model.params().all()) {
    if (from != to) read.emplace_back(static_cast<std::size_t>(p.shard_size()) * size_of(from));
    add_slices(p, shard_boxes(model.params(), p), role, from, from == to ? target(p) : read.back().data(), list);
  }
  add_bias_slices(model, true, list);
  for (const CheckpointInfo::Tensor& t : info.tensors)
    if (drops_modules && ParamSpec{.name = t.name}.layer() >= model.config().num_blocks())
      list.push_back({t.name, t.role, t.dtype, t.shape, std::vector<std::int64_t>(t.shape.size()),
                      std::vector<std::int64_t>(t.shape.size()), nullptr});
  if (averages && first == info.tensors.end())
    throw Error(Exit::kBadInput, info.path + ": expected a moving average of the parameters (role ema), found none",
                "moe-train --ema keeps one");
  std::vector<std::string> ignored = {"m", "v", "ema", "counter", "master", "weight"};
  std::erase(ignored, role);
  if (with_role("bias") == info.tensors.end()) ignored.push_back("bias");
  load_checkpoint(info, list, ignored);
  for (std::size_t i = 0; i < read.size(); ++i)
    convert(read[i].data(), narrow, model.params().all()[i].shard_size(), target(model.params().all()[i]));
  Stream stream;
  if (model.training()) model.params().round_masters({stream, cpu_kernels()});
}

LoadedState::LoadedState(Model& model, const std::vector<ManifestTensor>& tensors)
    : model_(model), slices_(state_slices(model, true)) {
  const TrainingState& kept = model.params().state();
  const auto first = [&](const char* role) {
    return std::find_if(tensors.begin(), tensors.end(), [&](const ManifestTensor& t) { return t.role == role; });
  };
  const bool has_ema = first("ema") != tensors.end();
  starts_ema_ = kept.ema && !has_ema;
  if (kept.ema != has_ema) ignored_.emplace_back("ema");
  if (starts_ema_) notes_.emplace_back("the moving average begins at the parameters of the checkpoint, which has none");
  if (has_ema && !kept.ema) notes_.emplace_back("the moving average of the checkpoint is left out");
  if (const auto m = first("m"); m != tensors.end() && m->dtype != kept.moments) read_moments_as(m->dtype);
}

void LoadedState::read_moments_as(DType saved) {
  for (TensorSlice& s : slices_) {
    if (s.role != "m" && s.role != "v") continue;
    const std::int64_t n = elements_of(s.extent);
    converted_.push_back({std::vector<std::byte>(static_cast<std::size_t>(n) * size_of(saved)), n, s.data});
    s.dtype = saved;
    s.data = converted_.back().read.data();
  }
  const char* const how = saved == DType::kF32 ? "moments are rounded from fp32 to bf16" : "moments in bf16 become fp32";
  notes_.emplace_back(how);
}

void LoadedState::finish() {
  for (const Converted& c : converted_)
    convert(c.read.data(), model_.params().state().moments == DType::kF32, c.count, c.target);
  Stream stream;
  if (starts_ema_) model_.params().start_ema(stream);
}

nlohmann::json make_state(const Options& options, const RunCounters& c, const TokenFileInfo& data) {
  nlohmann::json kept;
  for (const auto& o : options.all())
    if (is_kept(*o)) kept[o->name] = o->get();
  nlohmann::json state = {
      {"options", kept},
      {"step", c.step},
      {"updates", c.updates},
      {"consumed_samples", c.consumed_samples},
      {"skipped", c.skipped},
      {"seconds", c.seconds},
      {"first_loss", c.first_loss},
      {"last_loss", c.last_loss},
      {"data", {{"fingerprint", data.fingerprint}, {"num_tokens", data.num_tokens}, {"vocab_size", data.vocab_size}}},
      {"tokenizer", {{"name", data.tokenizer}, {"model", to_hex(data.tokenizer_model)}}}};
  if (!c.counts_since_look_LE.empty()) state["counts_since_look"] = c.counts_since_look_LE;
  return state;
}

RunCounters counters_of(const nlohmann::json& state) {
  try {
    RunCounters counters{.step = state.at("step"),
                         .updates = state.at("updates"),
                         .consumed_samples = state.at("consumed_samples"),
                         .skipped = state.at("skipped"),
                         .seconds = state.at("seconds"),
                         .first_loss = number_or_nan(state.at("first_loss")),
                         .last_loss = number_or_nan(state.at("last_loss"))};
    if (state.contains("counts_since_look"))
      counters.counts_since_look_LE = state.at("counts_since_look").get<std::vector<std::vector<std::int64_t>>>();
    for (const auto& counts_E : counters.counts_since_look_LE)
      for (const std::int64_t n : counts_E)
        if (n < 0)
          throw Error(Exit::kBadInput,
                      "manifest.json: state: counts_since_look: expected counts, found " + std::to_string(n));
    return counters;
  } catch (const nlohmann::json::exception& e) {
    throw Error(Exit::kBadInput, std::string("manifest.json: state: ") + e.what(),
                "this checkpoint was not written by moe-train");
  }
}

void apply_checkpoint_options(Options& options, const nlohmann::json& state) {
  for (const auto& [name, value] : state.at("options").items())
    options.set(name, {value.get<std::string>()}, Origin::kCheckpoint);
}

void apply_model_options(Options& options, const nlohmann::json& state) {
  for (const auto& [name, value] : state.at("options").items())
    if (name == "dtype" || (name != "preset" && options.find(name).group == "Model"))
      options.set(name, {value.get<std::string>()}, Origin::kCheckpoint);
}

nlohmann::json layout_json(const MeshContext& mesh) {
  const MeshOptions& m = mesh.options();
  const char* const kDispatch[] = {"auto", "flat", "two-level"};
  nlohmann::json layout = {{"replicate", m.shape.replicate},
                           {"shard", m.shape.shard},
                           {"ep", m.shape.ep},
                           {"zero", m.zero},
                           {"nodes", mesh.world().num_nodes()},
                           {"dispatch", kDispatch[static_cast<int>(m.dispatch)]}};
  if (!m.plan.layers.empty()) layout["plan"] = plan_json(m.plan);
  return layout;
}

std::string layout_text(const nlohmann::json& l) try {
  const MeshShape shape{l.at("replicate"), l.at("shard"), l.at("ep")};
  const int nodes = l.at("nodes");
  return mesh_text(shape) + " (zero " + l.at("zero").dump() + ", " + std::to_string(nodes) +
         (nodes == 1 ? " node" : " nodes") + ", dispatch " + l.at("dispatch").get<std::string>() +
         (l.contains("plan") ? ", " + plan_text(plan_of_layout(l)) : "") + ")";
} catch (const nlohmann::json::exception&) {
  return "a layout that it does not say";
}

std::optional<MeshShape> mesh_of_state(const nlohmann::json& state) try {
  const auto& l = state.at("layout");
  std::int64_t num_ranks = 1;
  for (const char* const side : {"replicate", "shard", "ep"}) {
    const auto n = l.at(side).get<std::int64_t>();
    if (n < 1 || n > (1 << 30) / num_ranks) return std::nullopt;
    num_ranks *= n;
  }
  return MeshShape{l.at("replicate"), l.at("shard"), l.at("ep")};
} catch (const nlohmann::json::exception&) {
  return std::nullopt;
}

std::vector<std::string> resume_differences(const Options& options, const nlohmann::json& state,
                                            const std::vector<std::string>& allowed) {
  const auto listed = [](const auto& list, const std::string& name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  for (const std::string& name : allowed)
    if (!listed(kOrderOptions, name))
      throw Error(Exit::kUsage, "--allow-change: expected batch, batch-ramp, seq, seed or document-mask, found " + name,
                  "the model and its dtype are the checkpoint's; other options may change freely");
  std::vector<std::string> differences;
  std::string refused;
  for (const auto& o : options.all()) {
    // A checkpoint from before there was a choice of the optimizer is AdamW's.
    if (!is_kept(*o) || (!state.at("options").contains(o->name) && o->name != "optimizer")) continue;
    const std::string before = state.at("options").value(o->name, "adamw"), now = o->get();
    if (before == now) continue;
    differences.push_back(o->name + ": checkpoint " + before + ", now " + now);
    if (is_fixed(*o) && !listed(allowed, o->name)) refused += (refused.empty() ? "" : "; ") + differences.back();
  }
  if (!refused.empty())
    throw Error(
        Exit::kUsage, "resume: " + refused,
        "leave these options as the checkpoint has them, allow one of them (--allow-change batch), or start anew with "
        "--resume never");
  return differences;
}

TokenizerText tokenizer_text_of(const nlohmann::json& state) {
  if (!state.is_object() || !state.contains("tokenizer")) return {};
  const auto& t = state.at("tokenizer");
  return {t.at("name"), from_hex(t.at("model"))};
}

std::unique_ptr<Tokenizer> tokenizer_of(const nlohmann::json& state) {
  const TokenizerText text = tokenizer_text_of(state);
  return restore_tokenizer(text.name, text.model);
}

}  // namespace moe
