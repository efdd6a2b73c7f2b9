#include "lib/model/presets.h"

#include "lib/base/error.h"

namespace moe {
namespace {

using Values = std::vector<std::pair<std::string, std::string>>;

// What the published models share: training as their reports do where they say so.
Values published(Values model) {
  Values v = {{"batch", "256"},   {"micro-batch", "1"}, {"steps", "100000"},
              {"warmup", "2000"}, {"lr", "4e-4"},       {"dtype", "bf16"}};
  v.insert(v.end(), model.begin(), model.end());
  return v;
}

std::vector<Preset> make_presets() {
  return {
      {"tiny",
       "learns a book in three minutes on two cores",
       {{"layers", "4"},
        {"d-model", "128"},
        {"heads", "4"},
        {"kv-heads", "4"},
        {"head-dim", "32"},
        {"experts", "8"},
        {"top-k", "2"},
        {"expert-ffn", "192"},
        {"qk-norm", "head"},
        {"aux-loss", "0.01"},
        {"seq", "128"},
        {"batch", "16"},
        {"lr", "3e-3"},
        {"warmup", "100"},
        {"steps", "2500"}}},
      {"small",
       "twenty minutes on two cores",
       {{"layers", "4"},
        {"d-model", "256"},
        {"heads", "4"},
        {"kv-heads", "4"},
        {"head-dim", "64"},
        {"experts", "8"},
        {"top-k", "2"},
        {"expert-ffn", "512"},
        {"qk-norm", "head"},
        {"aux-loss", "0.01"},
        {"seq", "256"},
        {"batch", "8"},
        {"lr", "1.5e-3"},
        {"warmup", "200"},
        {"steps", "4000"}}},
      {"medium",
       "a day on a small server",
       {{"layers", "8"},
        {"d-model", "512"},
        {"heads", "8"},
        {"kv-heads", "8"},
        {"head-dim", "64"},
        {"experts", "16"},
        {"top-k", "2"},
        {"expert-ffn", "1024"},
        {"qk-norm", "head"},
        {"aux-loss", "0.01"},
        {"seq", "512"},
        {"batch", "16"},
        {"micro-batch", "4"},
        {"lr", "8e-4"},
        {"warmup", "500"},
        {"steps", "20000"}}},
      {"mixtral-8x7b", "46.7 B parameters, 12.9 B active",
       published({{"layers", "32"},
                  {"d-model", "4096"},
                  {"heads", "32"},
                  {"kv-heads", "8"},
                  {"head-dim", "128"},
                  {"experts", "8"},
                  {"top-k", "2"},
                  {"expert-ffn", "14336"},
                  {"vocab-size", "32000"},
                  {"rope-theta", "1e6"},
                  {"norm-eps", "1e-5"},
                  {"aux-loss", "0.02"},
                  {"seq", "4096"}})},
      {"mixtral-8x22b", "141 B parameters, 39 B active",
       published({{"layers", "56"},
                  {"d-model", "6144"},
                  {"heads", "48"},
                  {"kv-heads", "8"},
                  {"head-dim", "128"},
                  {"experts", "8"},
                  {"top-k", "2"},
                  {"expert-ffn", "16384"},
                  {"vocab-size", "32000"},
                  {"rope-theta", "1e6"},
                  {"norm-eps", "1e-5"},
                  {"aux-loss", "0.001"},
                  {"seq", "4096"}})},
      {"deepseek-moe-16b", "16.4 B parameters, 2.8 B active",
       published({{"layers", "28"},
                  {"d-model", "2048"},
                  {"heads", "16"},
                  {"kv-heads", "16"},
                  {"head-dim", "128"},
                  {"dense-layers", "1"},
                  {"dense-ffn", "10944"},
                  {"experts", "64"},
                  {"top-k", "6"},
                  {"expert-ffn", "1408"},
                  {"shared-experts", "2"},
                  {"router-renormalize", "false"},
                  {"vocab-size", "102400"},
                  {"rope-theta", "1e4"},
                  {"norm-eps", "1e-6"},
                  {"aux-loss", "0.001"},
                  {"seq", "4096"}})},
      {"olmoe-1b-7b", "6.9 B parameters, 1.3 B active",
       published({{"layers", "16"},
                  {"d-model", "2048"},
                  {"heads", "16"},
                  {"kv-heads", "16"},
                  {"head-dim", "128"},
                  {"qk-norm", "full"},
                  {"experts", "64"},
                  {"top-k", "8"},
                  {"expert-ffn", "1024"},
                  {"router-renormalize", "false"},
                  {"vocab-size", "50304"},
                  {"rope-theta", "1e4"},
                  {"norm-eps", "1e-5"},
                  {"aux-loss", "0.01"},
                  {"z-loss", "0.001"},
                  {"seq", "4096"}})},
      {"qwen3-30b-a3b", "30.5 B parameters, 3.3 B active",
       published({{"layers", "48"},
                  {"d-model", "2048"},
                  {"heads", "32"},
                  {"kv-heads", "4"},
                  {"head-dim", "128"},
                  {"qk-norm", "head"},
                  {"experts", "128"},
                  {"top-k", "8"},
                  {"expert-ffn", "768"},
                  {"vocab-size", "151936"},
                  {"rope-theta", "1e6"},
                  {"norm-eps", "1e-6"},
                  {"global-aux-loss", "0.001"},
                  {"seq", "4096"}})},
      {"qwen3-235b-a22b", "235 B parameters, 22 B active",
       published({{"layers", "94"},
                  {"d-model", "4096"},
                  {"heads", "64"},
                  {"kv-heads", "4"},
                  {"head-dim", "128"},
                  {"qk-norm", "head"},
                  {"experts", "128"},
                  {"top-k", "8"},
                  {"expert-ffn", "1536"},
                  {"vocab-size", "151936"},
                  {"rope-theta", "1e6"},
                  {"norm-eps", "1e-6"},
                  {"global-aux-loss", "0.001"},
                  {"seq", "4096"}})},
  };
}

// Published models that need layers which this version does not have.
const char* missing_layer(const std::string& name) {
  if (name == "deepseek-v2-lite" || name == "deepseek-v2" || name == "deepseek-v3" || name == "kimi-k2")
    return "multi-head latent attention";
  if (name == "gpt-oss-20b" || name == "gpt-oss-120b") return "attention sinks and sliding windows";
  return nullptr;
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> list = make_presets();
  return list;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& p : presets()) names.push_back(p.name);
  return names;
}

void apply_preset(Options& options, const std::string& name) {
  for (const Preset& p : presets()) {
    if (p.name != name) continue;
    for (const auto& [option, value] : p.options) options.set(option, {value}, Origin::kPreset);
    return;
  }
  if (const char* layer = missing_layer(name))
    throw Error(Exit::kUnavailable, "--preset: " + name + " needs " + layer + ", which this version does not have");
  const std::string near = nearest_name(name, preset_names());
  std::string all;
  for (const std::string& n : preset_names()) all += (all.empty() ? "" : ", ") + n;
  throw Error(Exit::kUsage, "--preset: expected one of " + all + "; found " + name,
              near.empty() ? "" : "did you mean " + near + "?");
}

}  // namespace moe
