#include "lib/run/reshard_content.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <set>

#include "lib/base/error.h"
#include "lib/base/text_list.h"
#include "lib/model/params.h"
#include "lib/run/mesh_plan.h"
#include "lib/run/tensor_cut.h"
#include "lib/run/train_options.h"
#include "lib/run/train_state.h"

namespace moe {
namespace {

[[noreturn]] void refuse(const std::string& option, const std::string& what, const std::string& hint = "") {
  throw Error(Exit::kUsage, "--" + option + ": " + what, hint);
}

bool has_role(const std::vector<ContentTensor>& list, const std::string& role) {
  return std::any_of(list.begin(), list.end(), [&](const ContentTensor& t) { return t.target.role == role; });
}

std::string& option_of(nlohmann::json& state, const std::string& name, const std::string& wanted_by) {
  if (!state.is_object() || !state.contains("options") || !state["options"].contains(name))
    throw Error(Exit::kBadInput,
                "state of the checkpoint: expected the option " + name + " for --" + wanted_by + ", found none",
                "moe-train and moe-reshard import write it");
  return state["options"][name].get_ref<std::string&>();
}

// The model that a state describes; checked.
ModelConfig config_of(const nlohmann::json& state) {
  TrainOptions train;
  Options options = train_options(train);
  apply_checkpoint_options(options, state);
  check_config(train.model);
  return train.model;
}

std::vector<ContentTensor> all_of(const Manifest& input) {
  std::vector<ContentTensor> list;
  for (const ManifestTensor& t : input.tensors)
    list.push_back({{t.name, t.role, t.dtype, t.shape, "", {}}, t.name, t.role, RowsFrom::kSame, 0, true});
  return list;
}

// ---- several checkpoints

void check_same(const Manifest& a, const Manifest& b, const std::string& path) {
  for (std::size_t i = 0; i < std::max(a.tensors.size(), b.tensors.size()); ++i) {
    if (i < a.tensors.size() && i < b.tensors.size() && a.tensors[i].identity() == b.tensors[i].identity()) continue;
    const ManifestTensor& t = i < a.tensors.size() ? a.tensors[i] : b.tensors[i];
    throw Error(Exit::kBadInput, "--average " + path +
                                     ": expected the tensors of the first checkpoint, found a difference at " + t.label() +
                                     " [" + joined(t.shape) + "]");
  }
}

// A rounded weight is the rounded mean of the masters, as training keeps it.
void average(const LayoutOptions& o, const std::vector<Manifest>& inputs, ReshardContent& c) {
  for (std::size_t i = 1; i < inputs.size(); ++i) check_same(inputs[0], inputs[i], o.average[i - 1]);
  const bool has_master = has_role(c.tensors, "master");
  for (ContentTensor& t : c.tensors) {
    t.untouched = false;
    if (has_master && t.target.role == "weight") t.from_role = "master";
  }
  c.changes.push_back("mean of " + std::to_string(inputs.size()) + " checkpoints");
}

// ---- the moving average in the place of the weights

// Of a mean of checkpoints the averages are averaged. Moments are of the weights that were.
void take_average(const LayoutOptions& o, ReshardContent& c) {
  if (o.weights != "model" && o.weights != "ema") refuse("weights", "expected model or ema, found " + o.weights);
  if (o.weights == "model") return;
  if (o.upcycle != 0) refuse("weights", "expected no --upcycle beside it, found one", "take the average first");
  if (!has_role(c.tensors, "ema"))
    throw Error(Exit::kBadInput, o.input + ": expected a moving average of the parameters (role ema), found none",
                "moe-train --ema keeps one");
  const auto is_left_out = [](const ContentTensor& t) {
    return t.target.role == "m" || t.target.role == "v" || t.target.role == "ema";
  };
  std::erase_if(c.tensors, is_left_out);
  for (ContentTensor& t : c.tensors)
    if (t.target.role == "weight" || t.target.role == "master") t.from_role = "ema", t.untouched = false;
  c.changes.push_back("the moving average for weights, without moments");
}

// ---- experts

bool is_router(const std::string& name) { return name.ends_with(".router.weight") || name.ends_with(".router.bias"); }

void select_experts(const LayoutOptions& o, ReshardContent& c) {
  std::string& experts = option_of(c.state, "experts", "experts");
  c.experts = parse_expert_list(o.experts, std::stoi(experts));
  const auto kept = static_cast<std::int64_t>(c.experts.size());
  if (option_of(c.state, "expert-groups", "experts") != "1")
    refuse("experts", "expected a model without groups of experts, found " + option_of(c.state, "expert-groups", "experts"));
  bool any = false;
  for (ContentTensor& t : c.tensors) {
    if (!is_expert_name(t.target.name) && !is_router(t.target.name)) continue;
    if (t.target.shape.empty() || t.target.shape[0] != std::stoi(experts))
      throw Error(Exit::kBadInput, "tensor " + t.target.label() + ": expected " + experts + " experts, found [" +
                                       joined(t.target.shape) + "]");
    any = true;
    t.rows = RowsFrom::kSelect;
    t.target.shape[0] = kept;
    t.untouched = false;
  }
  if (!any) refuse("experts", "expected a model with experts, found none");
  experts = std::to_string(kept);
  std::string& top_k = option_of(c.state, "top-k", "experts");
  top_k = std::to_string(std::min<std::int64_t>(std::stoi(top_k), kept));
  config_of(c.state);
  c.changes.push_back("experts " + o.experts);
}

// ---- dense layers become experts (sparse upcycling, arXiv 2212.05055)

// The options of the new model. Layers with experts, if there are some, must have experts of that size already.
void upcycle_state(int num_experts, nlohmann::json& state) {
  const ModelConfig c = config_of(state);
  if (c.num_dense_layers == 0) refuse("upcycle", "expected a checkpoint with --dense-layers, found none");
  if (c.num_moe_layers() > 0 && (c.num_experts != num_experts || c.expert_ffn != c.dense_ffn || c.num_shared_experts != 0))
    refuse("upcycle", "expected the experts of the other layers (" + std::to_string(c.num_experts) + " of width " +
                          std::to_string(c.expert_ffn) + ", " + std::to_string(c.num_shared_experts) + " shared), found " +
                          std::to_string(num_experts) + " of width " + std::to_string(c.dense_ffn) + ", 0 shared");
  const auto set = [&](const char* name, std::int64_t v) { option_of(state, name, "upcycle") = std::to_string(v); };
  set("dense-layers", 0);
  if (c.num_moe_layers() > 0) return;
  set("experts", num_experts);
  set("top-k", std::min(2, num_experts));
  set("expert-ffn", c.dense_ffn);
  set("shared-experts", 0);
  set("expert-groups", 1);
  set("groups-kept", 1);
}

ContentTensor upcycled(const ParamSpec& spec, const std::string& role, DType dtype) {
  ContentTensor t{{spec.name, role, dtype, spec.shape, "", {}}, "", role, RowsFrom::kZero, 0, false};
  if (spec.is_expert) {
    t.rows = RowsFrom::kRepeat;
    t.from_name = spec.name;
    t.from_name.replace(t.from_name.find(".experts."), 9, ".mlp.");
  } else if (role == "weight" || role == "master" || role == "ema") {
    t.rows = RowsFrom::kNormal;
    t.std = spec.init_std;
  }
  return t;
}

void upcycle(const LayoutOptions& o, ReshardContent& c) {
  if (o.upcycle < 1) refuse("upcycle", "expected at least 1 expert, found " + std::to_string(o.upcycle));
  upcycle_state(o.upcycle, c.state);
  c.seed = std::stoull(option_of(c.state, "seed", "upcycle"));
  std::set<std::pair<std::string, std::string>> there;
  std::vector<std::pair<std::string, DType>> roles;
  for (const ContentTensor& t : c.tensors) {
    there.insert({t.target.name, t.target.role});
    if (t.target.name == "final_norm.weight") roles.emplace_back(t.target.role, t.target.dtype);
  }
  const ModelConfig config = config_of(c.state);
  const bool is_muon = c.state["options"].value("optimizer", "adamw") == "muon";
  std::erase_if(c.tensors, [](const ContentTensor& t) { return t.target.name.find(".mlp.") != std::string::npos; });
  for (const ParamSpec& spec : parameter_specs(config))
    for (const auto& [role, dtype] : roles)
      if (!there.contains({spec.name, role}) && !(role == "v" && is_muon && !spec.matrix_rows.empty()))
        c.tensors.push_back(upcycled(spec, role, dtype));
  for (int layer = 0; config.router_bias && layer < config.num_blocks(); ++layer) {
    const std::string name = "layers." + std::to_string(layer) + ".router.bias";
    if (!there.contains({name, "bias"}))
      c.tensors.push_back(
          {{name, "bias", DType::kF32, {config.num_experts}, "", {}}, "", "bias", RowsFrom::kZero, 0, false});
  }
  c.changes.push_back(std::to_string(o.upcycle) + " experts of each dense layer");
}

// ---- dtype of the weights

// In fp32 the weight is its own master; in bf16 it is the rounded master, which is kept beside it for training.
void change_dtype(const LayoutOptions& o, ReshardContent& c) {
  const DType dtype = o.dtype == "fp32" ? DType::kF32 : DType::kBF16;
  const bool has_master = has_role(c.tensors, "master");
  std::vector<ContentTensor> masters;
  for (ContentTensor& t : c.tensors) {
    if (t.target.role != "weight" || t.target.dtype == dtype) continue;
    if (dtype == DType::kBF16 && !has_master && !o.weights_only) {
      masters.push_back(t);
      masters.back().target.role = "master";
      masters.back().untouched = false;
    }
    if (dtype == DType::kF32 && has_master && t.from_role == "weight") t.from_role = "master";
    t.target.dtype = dtype;
    t.untouched = false;
  }
  if (dtype == DType::kF32) std::erase_if(c.tensors, [](const ContentTensor& t) { return t.target.role == "master"; });
  c.tensors.insert(c.tensors.end(), masters.begin(), masters.end());
  if (c.state.is_object() && c.state.contains("options")) c.state["options"]["dtype"] = o.dtype;
  c.changes.push_back("weights in " + o.dtype);
}

// The blocks behind the model's, with what the state says of them: the option, places of experts, counts between two looks.
void drop_mtp(ReshardContent& c) {
  option_of(c.state, "mtp-depth", "drop-mtp");
  const ModelConfig config = config_of(c.state);
  const int count = config.num_mtp_layers;
  if (count == 0)
    refuse("drop-mtp", "expected modules of multi-token prediction, found none", "moe-reshard show tells what is there");
  std::erase_if(c.tensors,
                [&](const ContentTensor& t) { return ParamSpec{.name = t.target.name}.layer() >= config.num_layers; });
  option_of(c.state, "mtp-depth", "drop-mtp") = "0";
  if (const Placement plan = plan_of_state(c.state); !plan.layers.empty())
    c.state["layout"]["plan"] = plan_json(plan_of_blocks(plan, config.num_layers));
  if (c.state.contains("counts_since_look") && config.num_moe_layers() > 0)
    for (int k = 0; k < count && !c.state["counts_since_look"].empty(); ++k)
      c.state["counts_since_look"].erase(c.state["counts_since_look"].size() - 1);
  c.changes.push_back("without " + std::to_string(count) + (count == 1 ? " module" : " modules") +
                      " of multi-token prediction");
}

void drop(const LayoutOptions& o, ReshardContent& c) {
  if (o.drop_mtp) drop_mtp(c);
  if (o.weights_only) {
    std::erase_if(c.tensors, [](const ContentTensor& t) { return t.target.role != "weight" && t.target.role != "bias"; });
    c.changes.push_back("weights only");
  } else if (o.drop_optimizer) {
    std::erase_if(c.tensors, [](const ContentTensor& t) { return t.target.role == "m" || t.target.role == "v"; });
    c.changes.push_back("without moments");
  }
}

}  // namespace

std::vector<ManifestTensor> ReshardContent::targets() const {
  std::vector<ManifestTensor> list;
  for (const ContentTensor& t : tensors) list.push_back(t.target);
  return list;
}

ReshardContent make_content(const LayoutOptions& o, const std::vector<Manifest>& inputs) {
  if (o.dtype != "keep" && o.dtype != "fp32" && o.dtype != "bf16")
    refuse("dtype", "expected keep, fp32 or bf16, found " + o.dtype);
  if (o.upcycle != 0 && !o.experts.empty()) refuse("upcycle", "expected no --experts beside it, found " + o.experts);
  ReshardContent c{.tensors = all_of(inputs[0]), .state = inputs[0].state};
  if (inputs.size() > 1) average(o, inputs, c);
  take_average(o, c);
  if (!o.experts.empty()) select_experts(o, c);
  if (o.upcycle != 0) upcycle(o, c);
  if (o.dtype != "keep") change_dtype(o, c);
  drop(o, c);
  std::sort(c.tensors.begin(), c.tensors.end(), [](const ContentTensor& a, const ContentTensor& b) {
    return std::tie(a.target.name, a.target.role) < std::tie(b.target.name, b.target.role);
  });
  return c;
}

std::vector<int> parse_expert_list(const std::string& text, int num_experts) {
  std::vector<int> list;
  const auto number = [&](const std::string& word) {
    int v = -1;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), v);
    if (error != std::errc() || end != word.data() + word.size() || v < 0 || v >= num_experts)
      refuse("experts", "expected ids from 0 to " + std::to_string(num_experts - 1) + " as 0-3,7, found '" + text + "'");
    return v;
  };
  for (const std::string& word : split_list(text)) {
    const std::size_t dash = word.find('-');
    const int first = number(word.substr(0, dash)), last = dash == std::string::npos ? first : number(word.substr(dash + 1));
    if (last < first) refuse("experts", "expected a range that rises, found " + word);
    for (int e = first; e <= last; ++e) list.push_back(e);
  }
  if (std::set<int>(list.begin(), list.end()).size() != list.size())
    refuse("experts", "expected each id once, found " + text);
  return list;
}

}  // namespace moe
