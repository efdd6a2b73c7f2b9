// moe-train --list-presets: a line for each preset. Not here: the presets (lib/model/presets.h).
#pragma once

#include "lib/base/common_options.h"

namespace moe {

// Parameters, active ones without the input embedding, and work of a token at the preset's sequence length; JSON where
// --json says. A vocabulary that is the data's counts as bytes.
void list_presets(const CommonOptions& common);

}  // namespace moe
