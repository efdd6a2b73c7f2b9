// Texts between all ranks of a world: from rank 0 to all, and from all to rank 0. Collective calls. Not here: what every
// rank gives to every other (all_gather, lib/comm/collectives.h).
#pragma once

#include <string>
#include <vector>

#include "lib/comm/world.h"

namespace moe {

// `text` (=) rank 0's, on every rank.
void broadcast_text(World& world, const char* what, std::string& text);
// For a task of the lane. On rank 0 what every rank gave, in rank order; on the others nothing.
std::vector<std::string> gather_texts_at_first(Comm& comm, const char* what, const std::string& mine);

}  // namespace moe
