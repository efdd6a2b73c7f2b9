#include "lib/run/inspect_parts.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/base/log.h"
#include "lib/io/files.h"
#include "lib/io/run_dir.h"
#include "lib/run/text_table.h"

namespace moe {

bool is_checkpoint(const std::string& path) {
  if (!is_directory(path))
    throw Error(Exit::kNoInput, path + ": expected a checkpoint or a directory with checkpoints, found " +
                                    (path_exists(path) ? "something else" : "nothing"));
  return path_exists(path + "/" + kManifestName) || step_of_name(base_name(path));
}

namespace {

// `latest` first, then the newest step first.
std::vector<std::string> candidates(const std::string& run_dir) {
  std::vector<std::string> names;
  if (const std::string latest = latest_name(run_dir); !latest.empty()) names.push_back(latest);
  for (const std::int64_t step : listed_steps(run_dir))
    if (names.empty() || step_name(step) != names[0]) names.push_back(step_name(step));
  if (names.empty())
    throw Error(Exit::kNoInput, run_dir + ": expected a checkpoint or a directory with checkpoints, found none");
  return names;
}

}  // namespace

std::string newest_path(const std::string& path) { return is_checkpoint(path) ? path : path + "/" + candidates(path)[0]; }

Opened open_manifest(const std::string& path) {
  if (is_checkpoint(path)) return {path, read_manifest(path)};
  std::string first;
  for (const std::string& name : candidates(path)) try {
      return {path + "/" + name, read_manifest(path + "/" + name)};
    } catch (const Error& e) {
      log_warning(std::string("passed over: ") + e.what());
      if (first.empty()) first = e.what();
    }
  throw Error(Exit::kBadInput, first);
}

bool is_expert_tensor(const ManifestTensor& t) {
  return t.name.find(".experts.") != std::string::npos && t.shape.size() > 1;
}

std::int64_t bytes_of(const ManifestTensor& t) { return elements_of(t.shape) * static_cast<std::int64_t>(size_of(t.dtype)); }

std::int64_t bytes_of(const Manifest& m) {
  std::int64_t bytes = 0;
  for (const ManifestFile& f : m.files) bytes += f.bytes;
  return bytes;
}

std::pair<std::string, std::int64_t> folded_name(const std::string& name) {
  for (std::size_t begin = 0; begin < name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    if (!part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos)
      return {name.substr(0, begin) + "{}" + name.substr(end), std::stoll(part)};
    begin = end + 1;
  }
  return {name, -1};
}

std::vector<FileShare> file_shares(const Manifest& m) {
  std::vector<FileShare> shares(m.files.size());
  for (const ManifestTensor& t : m.tensors)
    for (const ManifestSlice& s : t.slices) {
      FileShare& share = shares[s.file];
      const std::int64_t bytes = elements_of(s.box.extent) * static_cast<std::int64_t>(size_of(t.dtype));
      ++share.num_slices;
      (is_expert_tensor(t) ? share.expert_bytes : share.dense_bytes) += bytes;
      if (!is_expert_tensor(t)) continue;
      auto& experts = share.experts[t.name];
      for (std::int64_t e = s.box.offset[0]; e < s.box.offset[0] + s.box.extent[0]; ++e) experts.insert(e);
    }
  return shares;
}

nlohmann::json last_entry(const Manifest& m) {
  const bool has = m.provenance.is_array() && !m.provenance.empty() && m.provenance.back().is_object();
  return has ? m.provenance.back() : nlohmann::json::object();
}

std::string text_at(const nlohmann::json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_string()) return "";
  return printable(object[key].get<std::string>());
}

std::string printable(const std::string& text) {
  std::string out;
  for (const char c : text.substr(0, 4096)) out += static_cast<unsigned char>(c) < ' ' || c == 127 ? '?' : c;
  return out;
}

std::string value_text(const nlohmann::json& value) {
  return printable(value.is_string() ? value.get<std::string>() : value.dump());
}

namespace {

// One entry of the chain: when, which program, how it was called, from what.
std::string entry_text(const nlohmann::json& entry) {
  std::string text = text_at(entry, "utc") + " " + text_at(entry, "tool") + " " + text_at(entry, "version") + " (" +
                     text_at(entry, "git") + ")";
  if (entry.contains("argv") && entry["argv"].is_array())
    for (std::size_t i = 1; i < entry["argv"].size(); ++i) text += " " + value_text(entry["argv"][i]);
  if (entry.contains("inputs") && entry["inputs"].is_array())
    for (const nlohmann::json& input : entry["inputs"])
      text += ", from " + text_at(input, "path") + " " + text_at(input, "digest");
  return text;
}

}  // namespace

std::string provenance_text(const nlohmann::json& chain) {
  if (!chain.is_array() || chain.empty()) return labelled("came from", "not recorded");
  std::string text;
  for (std::size_t i = 0; i < chain.size(); ++i)
    text += labelled(i == 0 ? "came from" : "then", chain[i].is_object() ? entry_text(chain[i]) : "not recorded");
  return text;
}

}  // namespace moe
