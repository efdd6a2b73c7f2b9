// Plans as text, for people, sed and other programs, and loads as other programs write them. Each form is in
// man/moe-files.5. Not here: plans as HDF5 (lib/io/plan_file.h), the commands (place_edit.h), CSV tables of loads
// (place_loads_csv.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/io/plan_file.h"
#include "lib/place/loads.h"

namespace moe {

enum class PlanFormat : std::uint8_t {
  kCsv,     // a line per slot: everything but predictions and provenance
  kJson,    // everything
  kEplb,    // phy2log [layers][slots] and num_gpus; as CSV a line per layer
  kVllm,    // physical_to_logical_map of the MoE layers: [[...], ...]
  kSglang,  // {"physical_to_logical_map": [[...], ...]}, a row for every layer of the model
};

// Of `name`, else of the ending of `path` ("-" is csv) and, where `text` is that of a file, of what it holds. Error(kUsage).
PlanFormat plan_format(const std::string& name, const std::string& path, const std::string* text = nullptr);

// Error(kUsage) for a plan that the form cannot hold: maps need as many slots on each rank of each layer, eplb even nodes.
std::string plan_text(const PlanFile& plan, PlanFormat format, const std::string& path);

// What a text may not say itself; empty or 0: as the text says.
struct PlanFacts {
  std::vector<int> rank2node;
  int num_experts = 0;
  std::vector<int> layers;    // maps: the MoE layers
  bool allow_faults = false;  // experts out of range or twice on a rank are left to placement_faults()
};
// Error(kBadInput) naming path, line or member, what was expected and what was found. No provenance but in kJson.
PlanFile parse_plan_text(const std::string& text, const std::string& path, PlanFormat format, const PlanFacts& facts);

// Rows per layer and expert: JSON [layers][experts] or [steps][layers][experts] (summed), bare or as logical_count (SGLang's
// recorder), expert_load (vLLM) or weight (EPLB). Layers are 0, 1, ... Error(kBadInput) naming layer and expert.
Loads parse_loads_json(const std::string& text, const std::string& path);

}  // namespace moe
