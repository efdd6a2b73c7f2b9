#include "lib/base/placement.h"

#include <algorithm>
#include <numeric>

namespace moe {

int LayerPlacement::num_slots() const {
  std::size_t n = 0;
  for (const auto& experts : rank2experts) n += experts.size();
  return static_cast<int>(n);
}

std::vector<int> LayerPlacement::slot2expert() const {
  std::vector<int> list;
  for (const auto& experts : rank2experts) list.insert(list.end(), experts.begin(), experts.end());
  return list;
}

std::vector<int> LayerPlacement::slot2rank() const {
  std::vector<int> list;
  for (int r = 0; r < num_ranks(); ++r) list.insert(list.end(), rank2experts[static_cast<std::size_t>(r)].size(), r);
  return list;
}

bool Placement::has_replicas() const {
  return std::any_of(placed.begin(), placed.end(), [this](const LayerPlacement& l) { return l.num_slots() > num_experts; });
}

LayerPlacement linear_layer(int num_experts, int num_ranks) {
  LayerPlacement layer;
  for (int r = 0; r < num_ranks; ++r) {
    const auto first = std::int64_t{num_experts} * r / num_ranks, last = std::int64_t{num_experts} * (r + 1) / num_ranks;
    layer.rank2experts.emplace_back(static_cast<std::size_t>(last - first));
    std::iota(layer.rank2experts.back().begin(), layer.rank2experts.back().end(), static_cast<int>(first));
  }
  return layer;
}

Placement linear_placement(std::span<const int> layers, int num_experts, int num_ranks) {
  return {num_experts, {layers.begin(), layers.end()}, {layers.size(), linear_layer(num_experts, num_ranks)}};
}

LayerPlacement layer_of_slots(std::span<const int> slot2expert, std::span<const int> num_slots_R) {
  LayerPlacement layer;
  for (const int n : num_slots_R) {
    const auto mine = slot2expert.first(static_cast<std::size_t>(n));
    layer.rank2experts.emplace_back(mine.begin(), mine.end());
    slot2expert = slot2expert.subspan(static_cast<std::size_t>(n));
  }
  return layer;
}

namespace {

void layer_faults(const std::string& where, const LayerPlacement& layer, int num_experts, std::vector<std::string>& faults) {
  std::vector<int> num_copies(static_cast<std::size_t>(num_experts));
  for (int r = 0; r < layer.num_ranks(); ++r) {
    std::vector<int> experts = layer.rank2experts[static_cast<std::size_t>(r)];
    std::sort(experts.begin(), experts.end());
    for (std::size_t i = 0; i < experts.size(); ++i) {
      const std::string what = where + ", rank " + std::to_string(r) + ": ";
      const int e = experts[i];
      if (e < 0 || e >= num_experts) {
        faults.push_back(what + "expected experts 0 to " + std::to_string(num_experts - 1) + ", found " + std::to_string(e));
        continue;
      }
      if (i > 0 && experts[i - 1] == e) faults.push_back(what + "expert " + std::to_string(e) + " is there more than once");
      ++num_copies[static_cast<std::size_t>(e)];
    }
  }
  for (int e = 0; e < num_experts; ++e)
    if (num_copies[static_cast<std::size_t>(e)] == 0)
      faults.push_back(where + ": expert " + std::to_string(e) + " is on no rank");
}

}  // namespace

std::vector<std::string> placement_faults(const Placement& p) {
  std::vector<std::string> faults;
  if (p.layers.size() != p.placed.size())
    return {"expected a placement for each of " + std::to_string(p.layers.size()) + " layers, found " +
            std::to_string(p.placed.size())};
  for (std::size_t i = 0; i < p.placed.size(); ++i) {
    const std::string where = "layer " + std::to_string(p.layers[i]);
    if (p.layers[i] < 0)
      faults.push_back(where + ": expected indices of layers from 0, found " + std::to_string(p.layers[i]));
    if (i > 0 && p.layers[i] <= p.layers[i - 1])
      faults.push_back(where + ": expected layers in ascending order, found it after layer " +
                       std::to_string(p.layers[i - 1]));
    if (p.placed[i].num_ranks() != p.num_ranks())
      faults.push_back(where + ": expected " + std::to_string(p.num_ranks()) + " ranks as in layer " +
                       std::to_string(p.layers[0]) + ", found " + std::to_string(p.placed[i].num_ranks()));
    layer_faults(where, p.placed[i], p.num_experts, faults);
  }
  return faults;
}

}  // namespace moe
