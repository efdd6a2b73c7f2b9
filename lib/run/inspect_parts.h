// What ls, show, verify, diff and digest share: which checkpoint a path means, and what its manifest says in short words.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "lib/io/manifest.h"

namespace moe {

// True for a checkpoint directory, complete or not; false for a run directory. Error 66 if there is neither.
bool is_checkpoint(const std::string& path);

// A checkpoint and its manifest.
struct Opened {
  std::string path;
  Manifest manifest;
};
// `path`, or of a run directory the checkpoint that `latest` names; where its manifest is not good, the newest with a good
// one, with a warning. No file but manifests is looked at. Error 66, 65.
Opened open_manifest(const std::string& path);
// The same without passing over any: what a run would resume from, good or bad.
std::string newest_path(const std::string& path);

bool is_expert_tensor(const ManifestTensor& tensor);  // dimension 0 is the expert
std::int64_t bytes_of(const ManifestTensor& tensor);
std::int64_t bytes_of(const Manifest& manifest);  // of its files
// "layers.3.experts.down.weight" -> "layers.{}.experts.down.weight" and 3; a name without a number stays, with -1.
std::pair<std::string, std::int64_t> folded_name(const std::string& name);

// What one file holds.
struct FileShare {
  std::int64_t num_slices = 0, dense_bytes = 0, expert_bytes = 0;
  std::map<std::string, std::set<std::int64_t>> experts;  // of each expert tensor, by name
};
std::vector<FileShare> file_shares(const Manifest& manifest);
// The entry of the provenance chain that wrote the checkpoint; an empty object if there is none.
nlohmann::json last_entry(const Manifest& manifest);
// object[key] as text, "" where it is not there or not a text; files of strangers reach this.
std::string text_at(const nlohmann::json& object, const char* key);
// A text of a file as it may be shown on a terminal: without control characters.
std::string printable(const std::string& text);
std::string value_text(const nlohmann::json& value);  // the same of any value, a text without its quotes
// A line (or several) per entry of a provenance chain: "came from ...", "then ...".
std::string provenance_text(const nlohmann::json& chain);

}  // namespace moe
