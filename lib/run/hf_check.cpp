// Are the tensors on disk those of the model: hf_layout_of and check_hf_tensors of hf_names.h.
#include <algorithm>
#include <map>
#include <set>

#include "lib/base/error.h"
#include "lib/base/options.h"
#include "lib/run/hf_names.h"

namespace moe {
namespace {

constexpr std::size_t kMostListed = 12;

std::string listed(const char* what, const std::vector<std::string>& items) {
  if (items.empty()) return "";
  std::string text;
  for (std::size_t i = 0; i < std::min(items.size(), kMostListed); ++i) text += (i == 0 ? "" : ", ") + items[i];
  if (items.size() > kMostListed) text += " and " + std::to_string(items.size() - kMostListed) + " more";
  return "; " + std::string(what) + " (" + std::to_string(items.size()) + "): " + text;
}

// The nearest of the names that nothing expects, for the few that will be read.
std::string with_nearest(const std::string& name, const std::vector<std::string>& unexpected, std::size_t position) {
  if (position >= kMostListed || unexpected.size() > 1000) return name;
  const std::string near = nearest_name(name, unexpected);
  return near.empty() ? name : name + " (nearest: " + near + ")";
}

}  // namespace

HfLayout hf_layout_of(const std::vector<HfFound>& found, const std::string& path) {
  std::string fused, single;
  for (const auto& [name, shape] : found) {
    const std::size_t at = name.find(".experts.");
    if (at == std::string::npos) continue;
    const char next = name.size() > at + 9 ? name[at + 9] : '\0';
    (next >= '0' && next <= '9' ? single : fused) = name;
  }
  if (!fused.empty() && !single.empty())
    throw Error(Exit::kBadInput, path + ": expected experts in one layout, found both: " + fused + " and " + single,
                "two versions of a model lie in one directory");
  return fused.empty() ? HfLayout::kPerExpert : HfLayout::kFused;
}

void check_hf_tensors(const std::vector<HfTensor>& expected, const std::vector<HfFound>& found, const std::string& path) {
  std::map<std::string, const HfFound*> there;
  for (const HfFound& f : found) there[f.name] = &f;
  std::set<std::string> wanted, seen;
  for (const HfTensor& t : expected) wanted.insert(t.name);
  std::vector<std::string> missing, unexpected, different;
  for (const HfFound& f : found)
    if (!wanted.contains(f.name)) unexpected.push_back(f.name);
  for (const HfTensor& t : expected) {
    if (!seen.insert(t.name).second) continue;
    const auto it = there.find(t.name);
    if (it == there.end() && !t.duplicate)
      missing.push_back(with_nearest(t.name, unexpected, missing.size()));
    else if (it != there.end() && it->second->shape != t.shape)
      different.push_back(t.name + " expected [" + joined(t.shape) + "], found [" + joined(it->second->shape) + "]");
  }
  if (missing.empty() && unexpected.empty() && different.empty()) return;
  throw Error(Exit::kBadInput,
              path + ": expected exactly the tensors of config.json" + listed("missing", missing) +
                  listed("unexpected", unexpected) + listed("different", different),
              "the files are of another model, or of one that this version does not know");
}

}  // namespace moe
