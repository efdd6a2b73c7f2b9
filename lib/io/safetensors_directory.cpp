#include "lib/io/safetensors_directory.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/base/error.h"
#include "lib/base/log.h"
#include "lib/io/manifest.h"

namespace moe {
namespace {

using nlohmann::json;
using WeightMap = std::map<std::string, std::string>;  // tensor -> file

constexpr std::int64_t kMostIndexBytes = std::int64_t{1} << 28;

[[noreturn]] void refuse(const std::string& path, const std::string& what, const std::string& hint = "") {
  throw Error(Exit::kBadInput, path + ": " + what, hint);
}

// A file of the same directory, not hidden.
bool is_file_name(const std::string& name) {
  const auto bad = [](char c) { return c <= ' ' || c > '~' || c == '/' || c == '\\'; };
  return !name.empty() && name.size() <= 255 && name[0] != '.' && std::none_of(name.begin(), name.end(), bad) &&
         name.ends_with(".safetensors");
}

struct Index {
  WeightMap file_of_tensor;
  double total_bytes = -1;  // -1: not said
};

Index read_index(const std::string& path) {
  const std::string text = read_text_file(path, kMostIndexBytes);
  if (text.starts_with("version https://git-lfs"))
    refuse(path, "expected an index, found a git-lfs pointer", "run git lfs pull in that directory");
  const json root = parse_strict_json(text, path);
  Index index;
  if (!root.is_object() || !root.contains("weight_map") || !root["weight_map"].is_object())
    refuse(path, "expected a JSON object with a weight_map");
  for (const auto& [tensor, file] : root["weight_map"].items()) {
    if (!file.is_string() || !is_file_name(file.get<std::string>()))
      refuse(path, "weight_map: tensor " + tensor.substr(0, 80) + ": expected the name of a .safetensors file beside it");
    index.file_of_tensor[tensor] = file.get<std::string>();
  }
  if (index.file_of_tensor.empty()) refuse(path, "weight_map: expected tensors, found none");
  if (!root.contains("metadata") || !root["metadata"].is_object() || !root["metadata"].contains("total_size")) return index;
  const json& total = root["metadata"]["total_size"];
  if (!total.is_number()) refuse(path, "metadata.total_size: expected a number");
  index.total_bytes = total.get<double>();
  return index;
}

std::string listed(const std::set<std::string>& names) {
  constexpr std::size_t kMost = 10;
  std::string text;
  std::size_t n = 0;
  for (const std::string& name : names) {
    if (++n > kMost) return text + " and " + std::to_string(names.size() - kMost) + " more";
    text += (text.empty() ? "" : ", ") + name;
  }
  return text;
}

std::set<std::string> files_of(const Index& index) {
  std::set<std::string> files;
  for (const auto& [tensor, file] : index.file_of_tensor) files.insert(file);
  return files;
}

void require_files(const std::string& directory, const std::set<std::string>& files) {
  std::set<std::string> missing;
  for (const std::string& file : files)
    if (!path_exists(directory + "/" + file)) missing.insert(file);
  if (!missing.empty())
    throw Error(Exit::kNoInput, directory + ": expected the files of its index, missing: " + listed(missing),
                "download them again");
}

// Index and files name the same tensors in the same files.
void check_index(const Index& index, const std::map<std::string, SafetensorsDirectory::Entry>& tensors,
                 const std::string& path) {
  std::set<std::string> missing, unlisted, elsewhere;
  std::int64_t bytes = 0;
  for (const auto& [tensor, file] : index.file_of_tensor) {
    const auto it = tensors.find(tensor);
    if (it == tensors.end())
      missing.insert(tensor);
    else if (base_name(it->second.file->path()) != file)
      elsewhere.insert(tensor);
  }
  for (const auto& [tensor, entry] : tensors) {
    if (!index.file_of_tensor.contains(tensor)) unlisted.insert(tensor);
    bytes += entry.tensor->bytes();
  }
  if (!missing.empty() || !unlisted.empty() || !elsewhere.empty())
    refuse(path, "expected exactly the tensors of the files" + (missing.empty() ? "" : "; in no file: " + listed(missing)) +
                     (unlisted.empty() ? "" : "; not in weight_map: " + listed(unlisted)) +
                     (elsewhere.empty() ? "" : "; in another file: " + listed(elsewhere)));
  // Some published models have it wrong, and it says nothing that the files do not.
  if (index.total_bytes >= 0 && index.total_bytes != static_cast<double>(bytes))
    log_warning(path + ": metadata.total_size: expected " + std::to_string(bytes) + " (the tensors of the files), found " +
                json(index.total_bytes).dump());
}

}  // namespace

SafetensorsDirectory::SafetensorsDirectory(const std::string& directory) {
  if (!is_directory(directory))
    throw Error(Exit::kNoInput, directory + ": expected a directory with config.json and safetensors files, found " +
                                    (path_exists(directory) ? "something else" : "nothing"));
  const std::string index_path = directory + "/" + kSafetensorsIndexName;
  const bool has_index = path_exists(index_path);
  if (!has_index && !path_exists(directory + "/" + kSafetensorsName))
    throw Error(Exit::kNoInput, directory + ": expected model.safetensors or model.safetensors.index.json, found neither",
                "files of PyTorch (.bin) are not read: convert them to safetensors");
  const Index index = has_index ? read_index(index_path) : Index{};
  const std::set<std::string> names = has_index ? files_of(index) : std::set<std::string>{kSafetensorsName};
  require_files(directory, names);
  for (const std::string& name : list_directory(directory)) {
    if (!name.ends_with(".safetensors") || names.contains(name)) continue;
    if (name.starts_with("model"))
      refuse(directory, "expected the files of its index alone, found " + name + " too", "two models lie in one directory");
    others_.push_back(name);
  }
  files_.reserve(names.size());
  for (const std::string& name : names) files_.emplace_back(directory + "/" + name);
  for (const SafetensorsFile& file : files_)
    for (const SafeTensor& t : file.tensors())
      if (!tensors_.try_emplace(t.name, Entry{&file, &t}).second) refuse(directory, "tensor " + t.name + " is in two files");
  if (has_index) check_index(index, tensors_, index_path);
}

std::string safetensors_index_text(const WeightMap& file_of_tensor, std::int64_t total_bytes) {
  return json{{"metadata", {{"total_size", total_bytes}}}, {"weight_map", file_of_tensor}}.dump(2) + "\n";
}

std::string safetensors_file_name(std::size_t index, std::size_t count) {
  if (count == 1) return kSafetensorsName;
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

}  // namespace moe
