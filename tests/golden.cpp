// Reader of golden files: see golden.h.
#include "tests/golden.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "lib/base/error.h"

namespace moe {
namespace {

static_assert(std::endian::native == std::endian::little, "golden files are little-endian");

[[noreturn]] void fail(const std::string& thing, const std::string& expected_found) {
  throw Error(Exit::kBadInput, thing + ": " + expected_found, "make it anew with scripts/golden/make_golden.py");
}

struct Declared {
  std::string name, dtype;
  std::vector<std::int64_t> dims;
};

// The text before the data; leaves the file at the first byte of data.
std::vector<Declared> read_header(std::istream& file, const std::string& path, Golden& golden) {
  std::vector<Declared> tensors;
  std::string line;
  if (!std::getline(file, line) || line != "moe-golden 1")
    fail(path, "expected first line 'moe-golden 1', found '" + line + "'");
  while (std::getline(file, line) && line != "end") {
    std::istringstream words(line);
    std::string kind, key, word;
    words >> kind >> key >> word;
    if (kind == "set") {
      golden.settings[key] = word;
    } else if (kind == "tensor") {
      tensors.push_back({key, word, {}});
      for (std::int64_t d; words >> d;) tensors.back().dims.push_back(d);
    } else {
      fail(path, "expected a line 'set' or 'tensor', found '" + line + "'");
    }
  }
  if (line != "end") fail(path, "expected a line 'end' after the header, found the end of the file");
  return tensors;
}

template <class T>
std::vector<double> read_values(std::istream& file, std::size_t n, const std::string& thing) {
  std::vector<T> raw(n);
  const auto bytes = static_cast<std::streamsize>(n * sizeof(T));
  file.read(reinterpret_cast<char*>(raw.data()), bytes);
  if (file.gcount() != bytes)
    fail(thing, "expected " + std::to_string(bytes) + " bytes, found " + std::to_string(file.gcount()));
  return {raw.begin(), raw.end()};
}

GoldenTensor read_tensor(std::istream& file, const Declared& d, const std::string& thing) {
  std::size_t n = 1;
  for (const std::int64_t dim : d.dims) n *= static_cast<std::size_t>(dim);
  if (d.dtype == "f32") return {d.dims, read_values<float>(file, n, thing)};
  if (d.dtype == "f64") return {d.dims, read_values<double>(file, n, thing)};
  if (d.dtype == "i32") return {d.dims, read_values<std::int32_t>(file, n, thing)};
  fail(thing, "expected type f32, f64 or i32, found '" + d.dtype + "'");
}

// One field of ModelConfig per line; `take` looks a setting up. The second list is that of latent attention.
template <class Take>
void fill_latent(Take take, ModelConfig& c) {
  const auto whole = [&](const char* key, int& field) { field = std::stoi(take(key)); };
  const auto real = [&](const char* key, float& field) { field = static_cast<float>(std::stod(take(key))); };
  c.attention = take("attention") == "mla" ? AttentionKind::kMla : AttentionKind::kGqa;
  whole("q_lora_rank", c.q_lora_rank);
  whole("kv_lora_rank", c.kv_lora_rank);
  whole("qk_nope_head_dim", c.qk_nope_head_dim);
  whole("qk_rope_head_dim", c.qk_rope_head_dim);
  whole("v_head_dim", c.v_head_dim);
  c.rope_interleaved = take("rope_interleaved") == "true";
  real("rope_factor", c.yarn.factor);
  whole("rope_original_length", c.yarn.original_length);
  real("rope_beta_fast", c.yarn.beta_fast);
  real("rope_beta_slow", c.yarn.beta_slow);
  real("rope_mscale", c.yarn.mscale);
  real("rope_mscale_all_dim", c.yarn.mscale_all_dim);
}

// The third list: gpt-oss.
template <class Take>
void fill_gpt_oss(Take take, ModelConfig& c) {
  const auto whole = [&](const char* key, int& field) { field = std::stoi(take(key)); };
  const auto real = [&](const char* key, float& field) { field = static_cast<float>(std::stod(take(key))); };
  const auto flag = [&](const char* key, bool& field) { field = take(key) == "true"; };
  flag("attention_bias", c.attention_bias);
  flag("attention_sinks", c.attention_sinks);
  flag("router_logit_bias", c.router_logit_bias);
  flag("expert_bias", c.expert_bias);
  whole("sliding_window", c.sliding_window);
  c.layer_types = take("layer_types");
  real("swiglu_limit", c.swiglu_limit);
  real("rope_factor", c.yarn.factor);
  whole("rope_original_length", c.yarn.original_length);
  real("rope_beta_fast", c.yarn.beta_fast);
  real("rope_beta_slow", c.yarn.beta_slow);
  flag("rope_truncate", c.yarn.truncate);
}

template <class Take>
ModelConfig fill(Take take, bool latent, bool gpt_oss) {
  ModelConfig c;
  if (latent) fill_latent(take, c);
  if (gpt_oss) fill_gpt_oss(take, c);
  const auto whole = [&](const char* key, int& field) { field = std::stoi(take(key)); };
  const auto real = [&](const char* key, float& field) { field = static_cast<float>(std::stod(take(key))); };
  const auto flag = [&](const char* key, bool& field) { field = take(key) == "true"; };
  whole("vocab_size", c.vocab_size);
  whole("num_layers", c.num_layers);
  whole("d_model", c.d_model);
  whole("num_heads", c.num_heads);
  whole("num_kv_heads", c.num_kv_heads);
  whole("head_dim", c.head_dim);
  real("rope_theta", c.rope_theta);
  real("norm_eps", c.norm_eps);
  const std::string qk_norm = take("qk_norm");
  c.qk_norm = qk_norm == "head" ? QkNorm::kHead : qk_norm == "full" ? QkNorm::kFull : QkNorm::kNone;
  whole("num_dense_layers", c.num_dense_layers);
  whole("dense_ffn", c.dense_ffn);
  whole("num_experts", c.num_experts);
  whole("top_k", c.top_k);
  whole("expert_ffn", c.expert_ffn);
  whole("num_shared_experts", c.num_shared_experts);
  c.router_score = take("router_score") == "sigmoid" ? Score::kSigmoid : Score::kSoftmax;
  flag("router_renormalize", c.router_renormalize);
  real("router_scale", c.router_scale);
  whole("num_expert_groups", c.num_expert_groups);
  whole("num_groups_kept", c.num_groups_kept);
  c.group_score = take("group_score") == "max" ? GroupScore::kMax : GroupScore::kTop2Sum;
  flag("router_bias", c.router_bias);
  flag("tied_embeddings", c.tied_embeddings);
  return c;
}

}  // namespace

ModelConfig Golden::config() const {
  std::size_t num_taken = 0;
  const auto take = [&](const std::string& key) {
    const auto found = settings.find("model." + key);
    if (found == settings.end()) fail(name, "expected a setting model." + key + ", found none");
    ++num_taken;
    return found->second;
  };
  ModelConfig c = fill(take, settings.contains("model.attention"), settings.contains("model.swiglu_limit"));
  if (settings.contains("model.num_mtp_layers")) c.num_mtp_layers = std::stoi(take("num_mtp_layers"));
  const auto num_given = static_cast<std::size_t>(
      std::count_if(settings.begin(), settings.end(), [](const auto& s) { return s.first.starts_with("model."); }));
  if (num_given != num_taken)
    fail(name, "expected " + std::to_string(num_taken) + " settings model.*, found " + std::to_string(num_given));
  return c;
}

double Golden::number(const std::string& key) const {
  const auto found = settings.find(key);
  if (found == settings.end()) fail(name, "expected a setting " + key + ", found none");
  return std::stod(found->second);
}

std::map<std::string, GoldenTensor> Golden::all(const std::string& prefix) const {
  std::map<std::string, GoldenTensor> rest;
  for (const auto& [tensor, t] : tensors)
    if (tensor.starts_with(prefix)) rest[tensor.substr(prefix.size())] = t;
  return rest;
}

const std::vector<double>& Golden::values(const std::string& tensor) const {
  const auto found = tensors.find(tensor);
  if (found == tensors.end()) fail(name, "expected a tensor " + tensor + ", found none");
  return found->second.values;
}

std::vector<float> Golden::floats(const std::string& tensor) const {
  const std::vector<double>& v = values(tensor);
  return {v.begin(), v.end()};
}

std::vector<std::int32_t> Golden::ints(const std::string& tensor) const {
  const std::vector<double>& v = values(tensor);
  return {v.begin(), v.end()};
}

std::vector<std::int32_t> Golden::step_ints(const std::string& tensor, int step) const {
  if (!has("step/" + tensor)) return {};
  const std::vector<std::int32_t> all_steps = ints("step/" + tensor);
  const auto n = static_cast<std::ptrdiff_t>(all_steps.size()) / integer("data.num_steps");
  return {all_steps.begin() + step * n, all_steps.begin() + (step + 1) * n};
}

Golden read_golden(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(Exit::kNoInput, path + ": expected a golden file, found none");
  Golden golden;
  golden.name = std::filesystem::path(path).stem().string();
  for (const Declared& d : read_header(file, path, golden))
    golden.tensors[d.name] = read_tensor(file, d, path + ": " + d.name);
  if (file.peek() != std::ifstream::traits_type::eof()) fail(path, "expected the end of the file, found more bytes");
  return golden;
}

std::vector<std::string> golden_names(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (entry.path().extension() == ".golden") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace moe
