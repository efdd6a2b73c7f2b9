#include "lib/model/presets.h"

#include <algorithm>
#include <sstream>

#include "lib/base/error.h"
#include "lib/model/presets_list.h"

namespace moe {

std::vector<std::pair<std::string, std::string>> preset_options(const std::string& words) {
  std::vector<std::pair<std::string, std::string>> options;
  std::istringstream in(words);
  for (std::string name, value; in >> name >> value;) {
    const auto same = std::find_if(options.begin(), options.end(), [&](const auto& o) { return o.first == name; });
    same == options.end() ? options.emplace_back(name, value).second : same->second = value;
  }
  return options;
}

const std::vector<Preset>& presets() {
  static const std::vector<Preset> list = [] {
    std::vector<Preset> all = small_presets();
    for (Preset& p : published_presets()) all.push_back(std::move(p));
    return all;
  }();
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
  const std::string near = nearest_name(name, preset_names());
  std::string all;
  for (const std::string& n : preset_names()) all += (all.empty() ? "" : ", ") + n;
  throw Error(Exit::kUsage, "--preset: expected one of " + all + "; found " + name,
              near.empty() ? "" : "did you mean " + near + "?");
}

}  // namespace moe
