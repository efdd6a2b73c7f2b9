// The lists that presets.cpp puts together; nobody else includes this.
#pragma once

#include <string>
#include <vector>

#include "lib/model/presets.h"

namespace moe {

// "layers 4  d-model 128": option and value in turn, any white space between; a later word replaces an earlier one.
std::vector<std::pair<std::string, std::string>> preset_options(const std::string& words);

std::vector<Preset> small_presets();      // of our own, and of each family for a laptop
std::vector<Preset> published_presets();  // at their published sizes

}  // namespace moe
