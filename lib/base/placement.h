// Who holds which expert, as plain data: lib/place makes it, lib/io writes it, the mesh of a run follows it. A slot holds
// one copy of a logical expert (EPLB: physical expert) on one rank of the expert-parallel group; slots are numbered rank by
// rank. Not here: files (lib/io/plan_file.h), what is good (lib/place/score.h), what a rank does with it
// (lib/comm/expert_map.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace moe {

struct LayerPlacement {
  std::vector<std::vector<int>> rank2experts;  // logical experts in the order of their slots; a rank may have none

  int num_ranks() const { return static_cast<int>(rank2experts.size()); }
  int num_slots() const;
  std::vector<int> slot2expert() const;  // EPLB's phy2log
  std::vector<int> slot2rank() const;
  bool operator==(const LayerPlacement&) const = default;
};

// Which copy of an expert a token takes. kSpread: the copies in turn, token by token, so that each gets an equal part.
// kNearest: the one on the own rank, else those of the own node in turn, else all in turn.
enum class ReplicaChoice : std::uint8_t { kSpread, kNearest };

// Of all MoE layers of a model.
struct Placement {
  int num_experts = 0;                 // logical, of a layer
  std::vector<int> layers;             // indices of the MoE layers in the model, ascending
  std::vector<LayerPlacement> placed;  // one per entry of `layers`, all of the same number of ranks

  int num_ranks() const { return placed.empty() ? 0 : placed[0].num_ranks(); }
  bool has_replicas() const;
  bool operator==(const Placement&) const = default;
};

// Rank r holds experts [E r / ranks, E (r+1) / ranks): contiguous, sizes that differ by at most one; more ranks than experts
// leaves some without. What a run does without a plan.
LayerPlacement linear_layer(int num_experts, int num_ranks);
Placement linear_placement(std::span<const int> layers, int num_experts, int num_ranks);

// Rank r holds the next num_slots_R[r] experts of slot2expert.
LayerPlacement layer_of_slots(std::span<const int> slot2expert, std::span<const int> num_slots_R);

// Everything that makes it no placement of num_experts experts, a line each, naming layer, expert and rank: an expert
// without a slot, an id out of range, an expert twice on one rank, layers not ascending, ranks that differ between layers.
std::vector<std::string> placement_faults(const Placement& placement);

}  // namespace moe
