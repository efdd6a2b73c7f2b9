// Where the search begins: how many copies each expert gets, and a first place for each. Not here: making it better
// (solve_search.h).
#pragma once

#include <vector>

#include "lib/place/packing.h"

namespace moe {

// The numbers of copies that make the heaviest copy as light as num_slots allows: one more for the expert with the most
// load per copy, never fewer than `least_E` (at least 1), nor more than most_copies. Lowest index on ties.
std::vector<int> water_fill(const std::vector<double>& load_E, const std::vector<int>& least_E, int num_slots,
                            int most_copies);

// Pins first, then copies by descending load, each on the lightest rank that has room and not this expert.
// num_copies_E: their sum is the problem's number of slots. Error(kUsage) if there is no room.
Packing longest_first(const LayerProblem& problem, const std::vector<int>& num_copies_E);

// The old placement, changed as little as slots and pins of the problem ask for: copies added where load per copy is
// largest, taken where smallest.
Packing from_old(const LayerProblem& problem);

}  // namespace moe
