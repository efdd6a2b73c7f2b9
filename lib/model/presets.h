// Named sets of options: our small models, the published ones, and a small model of each published family.
// Sources of the published values: each model's config.json (field values), report or model card.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lib/base/options.h"

namespace moe {

struct Preset {
  std::string name, about;
  std::vector<std::pair<std::string, std::string>> options;  // option name -> value
};
const std::vector<Preset>& presets();
std::vector<std::string> preset_names();

// Sets the options of a preset with Origin::kPreset. Throws Error(kUsage) for an unknown name with the nearest one.
void apply_preset(Options& options, const std::string& name);

}  // namespace moe
