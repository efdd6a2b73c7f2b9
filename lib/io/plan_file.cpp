#include "lib/io/plan_file.h"

#include <algorithm>
#include <numeric>

#include "lib/base/error.h"
#include "lib/io/digest.h"
#include "lib/io/files.h"
#include "lib/io/h5.h"
#include "lib/io/manifest.h"

namespace moe {
namespace {

constexpr const char* kKind = "moe-plan";
constexpr int kVersion = 1;
constexpr std::int64_t kMost = 1 << 20;         // layers, experts, ranks, slots of a rank
constexpr std::int64_t kTextLimit = 256 << 20;  // bytes of predicted and provenance

using Numbers = std::vector<std::int64_t>;

// The datasets of a file, in its order; letters as in man/moe-files.5.
struct Stored {
  std::int64_t num_experts = 0;
  Numbers layer_L, rank_node_R, num_slots_LR, slot_expert_S;
  std::vector<std::uint8_t> pinned_S;
  std::string predicted, provenance;

  // Of everything, with the sizes, so that no number can pass from one dataset into the next.
  std::string digest() const {
    Xxh3 d;
    const auto size = [](const auto& list) { return static_cast<std::int64_t>(list.size()); };
    const Numbers sizes = {num_experts,         size(layer_L),   size(rank_node_R),
                           size(slot_expert_S), size(predicted), size(provenance)};
    for (const Numbers* numbers : {&sizes, &layer_L, &rank_node_R, &num_slots_LR, &slot_expert_S})
      d.update(std::as_bytes(std::span(*numbers)));
    d.update(std::as_bytes(std::span(pinned_S)));
    for (const std::string* text : {&predicted, &provenance}) d.update(std::as_bytes(std::span(*text)));
    return d.digest().hex();
  }
};

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Error(Exit::kBadInput, path + ": " + what);
}

std::string json_text(const nlohmann::json& j) { return j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace); }

// What makes a plan unfit for any file, whatever it places: a bug of the caller.
void need_shape(const std::string& path, const PlanFile& plan) {
  const Placement& p = plan.placement;
  const auto need = [&](bool good, const char* what) {
    if (!good) throw Error(Exit::kInternal, path + ": a plan to be written has " + what);
  };
  need(!p.layers.empty() && p.layers.size() == p.placed.size(), "no layers, or not a placement for each");
  need(plan.rank2node.size() == static_cast<std::size_t>(p.num_ranks()), "a topology of another number of ranks");
  need(plan.pinned_LS.size() == p.placed.size(), "pins of another number of layers");
  for (std::size_t l = 0; l < p.placed.size(); ++l) {
    need(p.placed[l].num_ranks() == p.num_ranks(), "another number of ranks in one layer");
    need(plan.pinned_LS[l].size() == static_cast<std::size_t>(p.placed[l].num_slots()), "pins of another number of slots");
  }
}

Stored stored_of(const PlanFile& plan) {
  Stored s;
  s.num_experts = plan.placement.num_experts;
  s.layer_L.assign(plan.placement.layers.begin(), plan.placement.layers.end());
  s.rank_node_R.assign(plan.rank2node.begin(), plan.rank2node.end());
  for (const LayerPlacement& layer : plan.placement.placed)
    for (const std::vector<int>& experts : layer.rank2experts) {
      s.num_slots_LR.push_back(static_cast<std::int64_t>(experts.size()));
      s.slot_expert_S.insert(s.slot_expert_S.end(), experts.begin(), experts.end());
    }
  for (const auto& pinned : plan.pinned_LS) s.pinned_S.insert(s.pinned_S.end(), pinned.begin(), pinned.end());
  s.predicted = json_text(plan.predicted);
  s.provenance = json_text(plan.provenance);
  return s;
}

std::int64_t length_of(const H5Reader& h5, const std::string& path, const char* name, std::int64_t most) {
  const H5Dataset d = h5.dataset(name);
  if (d.dims.size() != 1 || d.dims[0] < 1 || d.dims[0] > most)
    refuse(path, std::string("dataset ") + name + ": expected one dimension of 1 to " + std::to_string(most) + ", found " +
                     (d.dims.size() == 1 ? std::to_string(d.dims[0]) : std::to_string(d.dims.size()) + " dimensions"));
  return d.dims[0];
}

// The sizes that follow from the dimensions must be those of the file before anything is allocated.
Stored read_stored(const H5Reader& h5, const std::string& path) {
  Stored s;
  s.num_experts = h5.attribute_int("num_experts");
  const std::int64_t num_layers = length_of(h5, path, "layer", kMost), num_ranks = length_of(h5, path, "rank_node", kMost),
                     num_slots = length_of(h5, path, "slot_expert", std::int64_t{1} << 32);
  const auto read = [&](const char* name, H5Type type, const Numbers& dims, auto& out) {
    const H5Dataset found = h5.dataset(name);
    if (found.dims != dims || found.type != type)
      refuse(path, std::string("dataset ") + name + ": expected " + std::to_string(num_layers) + " layers, " +
                       std::to_string(num_ranks) + " ranks, " + std::to_string(num_slots) + " slots in all, found others");
    out.resize(static_cast<std::size_t>(found.elements()));
    h5.read(name, type, dims, out.data());
  };
  read("layer", H5Type::kI64, {num_layers}, s.layer_L);
  read("rank_node", H5Type::kI64, {num_ranks}, s.rank_node_R);
  read("num_slots", H5Type::kI64, {num_layers, num_ranks}, s.num_slots_LR);
  read("slot_expert", H5Type::kI64, {num_slots}, s.slot_expert_S);
  read("pinned", H5Type::kU8, {num_slots}, s.pinned_S);
  s.predicted = h5.read_text("predicted", kTextLimit);
  s.provenance = h5.read_text("provenance", kTextLimit);
  if (const std::string want = h5.attribute_text("digest"), found = s.digest(); want != found)
    refuse(path, "expected digest " + want + ", found " + found);
  return s;
}

// All that a reader of numbers relies on; which experts are where is for placement_faults().
void check_numbers(const std::string& path, const Stored& s) {
  if (s.num_experts < 1 || s.num_experts > kMost)
    refuse(path, "num_experts: expected 1 to " + std::to_string(kMost) + ", found " + std::to_string(s.num_experts));
  for (std::size_t l = 0; l < s.layer_L.size(); ++l)
    if (s.layer_L[l] < 0 || s.layer_L[l] >= kMost || (l > 0 && s.layer_L[l] <= s.layer_L[l - 1]))
      refuse(path, "dataset layer: expected ascending indices from 0, found " + std::to_string(s.layer_L[l]));
  for (std::size_t r = 0; r < s.rank_node_R.size(); ++r)
    if (const std::int64_t before = r == 0 ? 0 : s.rank_node_R[r - 1], node = s.rank_node_R[r];
        node != before && (r == 0 || node != before + 1))
      refuse(path, "dataset rank_node: expected nodes 0, 1, ... in order, found node " + std::to_string(node) + " at rank " +
                       std::to_string(r));
  std::int64_t sum = 0;
  for (const std::int64_t n : s.num_slots_LR) {
    if (n < 0 || n > kMost)
      refuse(path, "dataset num_slots: expected 0 to " + std::to_string(kMost) + ", found " + std::to_string(n));
    sum += n;
  }
  if (sum != static_cast<std::int64_t>(s.slot_expert_S.size()))
    refuse(path, "expected " + std::to_string(sum) + " slots, as num_slots says, found " +
                     std::to_string(s.slot_expert_S.size()) + " in slot_expert");
  for (const std::int64_t e : s.slot_expert_S)
    if (e < INT32_MIN || e > INT32_MAX) refuse(path, "dataset slot_expert: expected an expert, found " + std::to_string(e));
  for (const std::uint8_t p : s.pinned_S)
    if (p > 1) refuse(path, "dataset pinned: expected 0 or 1, found " + std::to_string(p));
}

PlanFile plan_of(const Stored& s, const std::string& path) {
  PlanFile plan;
  plan.placement.num_experts = static_cast<int>(s.num_experts);
  plan.placement.layers.assign(s.layer_L.begin(), s.layer_L.end());
  plan.rank2node.assign(s.rank_node_R.begin(), s.rank_node_R.end());
  const std::vector<int> slot2expert(s.slot_expert_S.begin(), s.slot_expert_S.end());
  const std::size_t num_ranks = s.rank_node_R.size();
  std::size_t at = 0;
  for (std::size_t l = 0; l < s.layer_L.size(); ++l) {
    const auto of_layer = std::span(s.num_slots_LR).subspan(l * num_ranks, num_ranks);
    const std::vector<int> num_slots_R(of_layer.begin(), of_layer.end());
    const auto n = static_cast<std::size_t>(std::accumulate(of_layer.begin(), of_layer.end(), std::int64_t{0}));
    plan.placement.placed.push_back(layer_of_slots(std::span(slot2expert).subspan(at, n), num_slots_R));
    const auto pins = std::span(s.pinned_S).subspan(at, n);
    plan.pinned_LS.emplace_back(pins.begin(), pins.end());
    at += n;
  }
  plan.predicted = parse_strict_json(s.predicted, path + ": dataset predicted");
  plan.provenance = parse_strict_json(s.provenance, path + ": dataset provenance");
  return plan;
}

}  // namespace

std::string faults_text(const std::vector<std::string>& faults) {
  if (faults.empty()) return "";
  return faults[0] + (faults.size() == 1 ? "" : " (and " + std::to_string(faults.size() - 1) + " more faults)");
}

void write_plan_file(const std::string& path, const PlanFile& plan, bool force, bool strict) {
  need_shape(path, plan);
  if (const auto faults = placement_faults(plan.placement); strict && !faults.empty())
    throw Error(Exit::kInternal, path + ": a plan to be written has a fault: " + faults_text(faults));
  const Stored s = stored_of(plan);
  const auto size = [](const auto& list) { return static_cast<std::int64_t>(list.size()); };
  PendingFile out(path, force);
  H5Writer h5(out.temporary_path(), kKind, kVersion);
  h5.write("layer", H5Type::kI64, {size(s.layer_L)}, s.layer_L.data());
  h5.write("rank_node", H5Type::kI64, {size(s.rank_node_R)}, s.rank_node_R.data());
  h5.write("num_slots", H5Type::kI64, {size(s.layer_L), size(s.rank_node_R)}, s.num_slots_LR.data());
  h5.write("slot_expert", H5Type::kI64, {size(s.slot_expert_S)}, s.slot_expert_S.data());
  h5.write("pinned", H5Type::kU8, {size(s.pinned_S)}, s.pinned_S.data());
  h5.write_text("predicted", s.predicted);
  h5.write_text("provenance", s.provenance);
  h5.attribute("num_experts", s.num_experts);
  h5.attribute("digest", s.digest());
  h5.finish();
  out.commit();
}

PlanFile read_plan_file(const std::string& path, bool strict) {
  const H5Reader h5(path, kKind, kVersion);
  const Stored s = read_stored(h5, path);
  check_numbers(path, s);
  PlanFile plan = plan_of(s, path);
  if (const auto faults = placement_faults(plan.placement); strict && !faults.empty())
    throw Error(Exit::kBadInput, path + ": " + faults_text(faults), "moe-place check lists all faults of a plan");
  return plan;
}

}  // namespace moe
