// Loads as a table of text: a line per layer, a column per expert. Not here: files that tools of this house record
// (place_input.h).
#pragma once

#include <string>

#include "lib/place/loads.h"

namespace moe {

// Numbers from 0 separated by commas, as many in every line. A first line of names is passed over; if its first name is
// "layer", the first column holds the model's layers (ascending), else they count from 0. Empty lines and those that
// begin with # say nothing. Error(kBadInput) naming line and column; `path` is for messages.
Loads parse_loads_csv(const std::string& text, const std::string& path);

}  // namespace moe
