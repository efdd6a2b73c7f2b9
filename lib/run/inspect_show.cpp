// show: what the manifest of one checkpoint says, in words and tables. Not here: the bytes of tensors (verify).
#include <algorithm>

#include "lib/base/byte_size.h"
#include "lib/run/inspect.h"
#include "lib/run/inspect_parts.h"
#include "lib/run/result.h"
#include "lib/run/target_layout.h"
#include "lib/run/text_table.h"
#include "lib/tensor/param.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr std::size_t kMostFiles = 16;  // lines of the table of files, unless --verbose

json object_at(const json& object, const char* key) {
  return object.is_object() && object.contains(key) && object[key].is_object() ? object[key] : json::object();
}

// "name value, name value" of the members that are no objects or lists.
std::string members_text(const json& object) {
  std::string text;
  for (const auto& [name, value] : object.items()) {
    if (value.is_structured() || name == "options") continue;
    text += (text.empty() ? "" : ", ") + printable(name) + " " +
            (value.is_number_float() ? short_float(value.get<double>()) : value_text(value));
  }
  return text;
}

std::int64_t number_at(const json& object, const char* key) {
  return object.contains(key) && object[key].is_number_integer() ? object[key].get<std::int64_t>() : 0;
}

// Where in the data the run stood: samples and tokens of the global batch, and which share of one pass that is.
std::string data_text(const json& state) {
  const json data = object_at(state, "data"), options = object_at(state, "options");
  if (data.empty()) return "not recorded";
  const std::int64_t samples = number_at(state, "consumed_samples"), all = number_at(data, "num_tokens");
  const std::int64_t seq = std::atoll(text_at(options, "seq").c_str());
  const double tokens = static_cast<double>(samples) * static_cast<double>(seq);
  std::string text = thousands(samples) + " samples consumed";
  if (seq > 0 && all > 0)
    text += " x " + std::to_string(seq) + " tokens = " + short_float(tokens / static_cast<double>(all)) + " passes over " +
            thousands(all) + " tokens";
  return text + ", fingerprint " + text_at(data, "fingerprint");
}

// Modules of multi-token prediction are the blocks behind the model's own; "" without.
std::string modules_text(const Manifest& m) {
  const json options = object_at(m.state, "options");
  const int depth = std::atoi(text_at(options, "mtp-depth").c_str()), layers = std::atoi(text_at(options, "layers").c_str());
  if (depth <= 0) return "";
  std::int64_t elements = 0;
  for (const ManifestTensor& t : m.tensors)
    if ((t.role == "weight" || t.role == "bias") && ParamSpec{.name = t.name}.layer() >= layers)
      elements += elements_of(t.shape);
  return std::to_string(depth) + (depth == 1 ? " module" : " modules") + " of multi-token prediction from block " +
         std::to_string(layers) + ", " + thousands(elements) + " parameters (--drop-mtp leaves them out)";
}

// Which experts a file holds: the same in every layer, or how many if layers differ.
std::string experts_text(const FileShare& share) {
  std::set<std::set<std::int64_t>> kinds;
  std::size_t most = 0;
  for (const auto& [name, experts] : share.experts) {
    kinds.insert(experts);
    most = std::max(most, experts.size());
  }
  if (kinds.empty()) return "-";
  if (kinds.size() > 1) return "up to " + std::to_string(most) + ", other in each layer";
  return ranges_text({kinds.begin()->begin(), kinds.begin()->end()});
}

std::string files_text(const Manifest& m, bool all) {
  const std::vector<FileShare> shares = file_shares(m);
  double dense = 0;
  for (const FileShare& s : shares) dense += static_cast<double>(s.dense_bytes);
  TextTable table({"file", ">bytes", ">slices", "experts", ">of the others"});
  const std::size_t shown = all ? shares.size() : std::min(shares.size(), kMostFiles);
  for (std::size_t i = 0; i < shown; ++i) {
    const FileShare& s = shares[i];
    table.add({m.files[i].name, bytes_text(static_cast<double>(m.files[i].bytes)), thousands(s.num_slices), experts_text(s),
               short_float(dense > 0 ? 100 * static_cast<double>(s.dense_bytes) / dense : 0) + " %"});
  }
  const std::size_t left = shares.size() - shown;
  return table.text() +
         (left > 0 ? "  .. and " + thousands(static_cast<std::int64_t>(left)) + " more (-v shows all)\n" : "");
}

// Tensors that differ in their layer and role alone are one line.
struct Fold {
  std::vector<std::int64_t> layers;
  std::vector<std::string> roles;
  std::int64_t slices = 0, bytes = 0;
  std::size_t first = 0;  // place of the first of them
};

// Weights and what they are made from first.
int rank_of(const std::string& role) { return role == "weight" ? 0 : role == "master" ? 1 : 2; }

std::string tensors_text(const Manifest& m) {
  std::map<std::tuple<std::string, DType, std::vector<std::int64_t>>, Fold> folds;
  for (std::size_t i = 0; i < m.tensors.size(); ++i) {
    const ManifestTensor& t = m.tensors[i];
    const auto [name, layer] = folded_name(t.name);
    Fold& f = folds.try_emplace({name, t.dtype, t.shape}, Fold{{}, {}, 0, 0, i}).first->second;
    f.layers.push_back(layer);
    f.roles.push_back(t.role);
    f.slices += static_cast<std::int64_t>(t.slices.size());
    f.bytes += bytes_of(t);
  }
  TextTable table({"tensor", "roles", "dtype", "shape", ">slices", ">bytes"});
  std::map<std::size_t, std::vector<std::string>> rows;  // in the order of the manifest
  for (auto& [key, f] : folds) {
    auto [name, dtype, shape] = key;
    const auto unique = [](auto list) {
      std::sort(list.begin(), list.end());
      list.erase(std::unique(list.begin(), list.end()), list.end());
      return list;
    };
    const std::size_t at = name.find("{}");
    if (at != std::string::npos) {
      const std::string layers = ranges_text(unique(f.layers));
      const bool one = layers.find_first_not_of("0123456789") == std::string::npos;
      name.replace(at, 2, one ? layers : "{" + layers + "}");
    }
    std::string roles, extents;
    std::vector<std::string> sorted = unique(f.roles);
    std::stable_sort(sorted.begin(), sorted.end(), [](const auto& x, const auto& y) { return rank_of(x) < rank_of(y); });
    for (const std::string& role : sorted) roles += (roles.empty() ? "" : " ") + role;
    for (const std::int64_t n : shape) extents += (extents.empty() ? "" : " x ") + std::to_string(n);
    rows[f.first] = {name, roles, name_of(dtype), extents, thousands(f.slices), bytes_text(static_cast<double>(f.bytes))};
  }
  for (auto& [first, row] : rows) table.add(row);
  return table.text();
}

json json_of(const Opened& o, const std::string& fault) {
  json files = json::array(), tensors = json::array();
  for (const ManifestFile& f : o.manifest.files)
    files.push_back({{"name", f.name}, {"bytes", f.bytes}, {"digest", f.digest}});
  for (const ManifestTensor& t : o.manifest.tensors) tensors.push_back(tensor_json(t));
  return {{"kind", "moe-reshard show"},
          {"path", o.path},
          {"step", o.manifest.step},
          {"digest", o.manifest.digest},
          {"state", o.manifest.state},
          {"provenance", o.manifest.provenance},
          {"layout", layout_text(o.manifest)},
          {"files", files},
          {"tensors", tensors},
          {"fault", fault}};
}

std::string text_of(const Opened& o, const std::string& fault, bool verbose) {
  const Manifest& m = o.manifest;
  std::string text = o.path + "\n" + labelled("step", thousands(m.step)) + labelled("digest", m.digest);
  text += labelled("size", bytes_text(static_cast<double>(bytes_of(m))) + " in " +
                               thousands(static_cast<std::int64_t>(m.files.size())) + " files, " +
                               thousands(static_cast<std::int64_t>(m.tensors.size())) + " tensors");
  text += labelled("files", fault.empty() ? "all there, of the right sizes (verify reads them)" : fault);
  text += labelled("layout", layout_text(m));
  if (const std::string modules = modules_text(m); !modules.empty()) text += labelled("prediction", modules);
  text += labelled("counters", members_text(m.state)) + labelled("data", data_text(m.state));
  if (const json tokenizer = object_at(m.state, "tokenizer"); !tokenizer.empty())
    text += labelled("tokenizer", text_at(tokenizer, "name"));
  text += labelled("options", members_text(object_at(m.state, "options"))) + provenance_text(m.provenance);
  return text + "\n" + files_text(m, verbose) + "\n" + tensors_text(m);
}

}  // namespace

Exit show_checkpoint(const std::vector<std::string>& paths, const CommonOptions& common) {
  json all = json::array();
  std::string text;
  for (const std::string& path : paths) {
    const Opened o = open_manifest(path);
    std::string fault;
    try {
      check_files(o.manifest, o.path);
    } catch (const Error& e) {
      fault = e.what();
    }
    all.push_back(json_of(o, fault));
    text += (text.empty() ? "" : "\n") + text_of(o, fault, common.verbose);
  }
  print_result(common, paths.size() == 1 ? all[0] : json{{"kind", "moe-reshard show"}, {"checkpoints", all}}, text);
  return Exit::kOk;
}

}  // namespace moe
