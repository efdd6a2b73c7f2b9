// Placement plans as files (kind moe-plan, man/moe-files.5). Not here: what is good (lib/place), text forms that people edit
// (lib/run/place_text.h).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/base/placement.h"

namespace moe {

struct PlanFile {
  Placement placement;
  std::vector<int> rank2node;                        // of the expert-parallel group
  std::vector<std::vector<std::uint8_t>> pinned_LS;  // per layer and slot: 1 keeps the expert on the rank of this slot
  nlohmann::json predicted;   // what the maker of the plan predicted (max_over_mean, ...); may be null
  nlohmann::json provenance;  // list, as in every file
};

// Refuses to overwrite without `force` (73). A placement with faults is Error(kInternal) if `strict`; without, it is written
// all the same (a plan on its way to be mended; EPLB's with two copies on a rank), and a strict reader refuses it.
void write_plan_file(const std::string& path, const PlanFile& plan, bool force, bool strict = true);
// 66; 65 naming the first of all faults and how many there are. `strict` false: a plan with placement_faults is returned,
// for moe-place check; the file itself must be whole all the same.
PlanFile read_plan_file(const std::string& path, bool strict = true);
// "FIRST (and 3 more faults)"; "" for none.
std::string faults_text(const std::vector<std::string>& faults);

}  // namespace moe
