// Plans as physical-to-logical maps, [layers][slots] with the slots of all ranks in order and as many on each: what EPLB
// returns, vLLM calls physical_to_logical_map (a row per MoE layer) and SGLang reads with --init-expert-location (a row per
// layer of the model; it takes no other member). They say nothing of nodes (but for ours of eplb) and of pins.
#include <algorithm>

#include "lib/base/error.h"
#include "lib/io/manifest.h"
#include "lib/run/place_text_parts.h"

namespace moe::place_text {

using nlohmann::json;

namespace {

using Rows = std::vector<std::vector<int>>;

const char* name_of(PlanFormat format) {
  return format == PlanFormat::kEplb ? "eplb" : format == PlanFormat::kVllm ? "vllm" : "sglang";
}

[[noreturn]] void refuse_plan(PlanFormat format, const std::string& expected, const std::string& found) {
  throw Error(Exit::kUsage, std::string("--format ") + name_of(format) + ": expected " + expected + ", found " + found,
              "csv and json hold any plan");
}

void need_even(const PlanFile& plan, PlanFormat format) {
  const std::size_t want = plan.placement.placed[0].rank2experts[0].size();
  for (std::size_t l = 0; l < plan.placement.placed.size(); ++l)
    for (std::size_t r = 0; r < plan.rank2node.size(); ++r)
      if (const std::size_t n = plan.placement.placed[l].rank2experts[r].size(); n != want)
        refuse_plan(
            format, std::to_string(want) + " slots on every rank of every layer",
            std::to_string(n) + " on rank " + std::to_string(r) + " of layer " + std::to_string(plan.placement.layers[l]));
}

std::vector<int> even_nodes(int num_ranks, int num_nodes) {
  std::vector<int> rank2node;
  for (int r = 0; r < num_ranks; ++r) rank2node.push_back(r / (num_ranks / num_nodes));
  return rank2node;
}

std::string rows_text(const Rows& rows) {
  std::string text = "[\n";
  for (std::size_t l = 0; l < rows.size(); ++l) text += (l == 0 ? "" : ",\n") + json(rows[l]).dump();
  return text + "\n]";
}

std::string csv_rows(const Rows& rows) {
  std::string text;
  for (const std::vector<int>& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) text += (i == 0 ? "" : ",") + std::to_string(row[i]);
    text += "\n";
  }
  return text;
}

// Numbers between commas or blanks, a line per layer.
json parse_csv_rows(const std::string& text, const std::string& path) {
  json rows = json::array();
  int number = 0;
  for (std::size_t at = 0; at < text.size(); ++number) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    std::replace_if(
        line.begin(), line.end(), [](char c) { return c == ',' || c == '\t' || c == '\r'; }, ' ');
    json row = json::array();
    for (std::size_t i = 0; (i = line.find_first_not_of(' ', i)) != std::string::npos;) {
      const std::size_t stop = std::min(line.find(' ', i), line.size());
      const std::string word = line.substr(i, stop - i);
      if (word.size() > 9 || word.find_first_not_of("-0123456789") != std::string::npos)
        refuse(path + ": line " + std::to_string(number + 1), "experts as numbers", "'" + word.substr(0, 40) + "'");
      row.push_back(std::atoi(word.c_str()));
      i = stop;
    }
    if (!row.empty()) rows.push_back(std::move(row));
  }
  return rows;
}

// What a text says beside its rows.
struct Said {
  json rows;
  int num_gpus = 0, num_nodes = 0, num_experts = 0;
  std::vector<int> layers;
};

Said said_by(const json& root, const std::string& path) {
  Said said;
  if (!root.is_object()) {
    said.rows = root;
    return said;
  }
  const auto number = [&](const char* name) {
    return root.contains(name) ? int_of(root.at(name), path + ": " + name, 1, kMost) : 0;
  };
  said.num_gpus = number("num_gpus");
  said.num_nodes = number("num_nodes");
  said.num_experts = number("num_logical_experts");
  if (root.contains("layers")) said.layers = ints_of(root.at("layers"), path + ": layers", 0, kMost - 1);
  for (const char* name : {"phy2log", "physical_to_logical_map"})
    if (root.contains(name)) said.rows = root.at(name);
  if (said.rows.is_null()) refuse(path, "a member phy2log or physical_to_logical_map", "none");
  return said;
}

std::vector<int> ranks_of(const Said& said, const std::string& path, const PlanFacts& facts) {
  if (!facts.rank2node.empty()) {
    if (said.num_gpus != 0 && said.num_gpus != static_cast<int>(facts.rank2node.size()))
      refuse(path + ": num_gpus", std::to_string(facts.rank2node.size()) + " as --topology has",
             std::to_string(said.num_gpus));
    return facts.rank2node;
  }
  if (said.num_gpus == 0) refuse(path, "the number of ranks", "none in this form", "--topology \"node:N rank:R\"");
  const int nodes = std::max(said.num_nodes, 1);
  if (said.num_gpus % nodes != 0)
    refuse(path + ": num_nodes", "a divisor of " + std::to_string(said.num_gpus) + " ranks", std::to_string(nodes));
  return even_nodes(said.num_gpus, nodes);
}

// Which rows of the map are those of which layers.
std::vector<int> layers_of(const Said& said, std::size_t num_rows, PlanFormat format, const PlanFacts& facts,
                           const std::string& path) {
  const std::vector<int>& given = facts.layers.empty() ? said.layers : facts.layers;
  if (given.empty()) {
    std::vector<int> all;
    for (std::size_t l = 0; l < num_rows; ++l) all.push_back(static_cast<int>(l));
    return all;
  }
  const bool fits = format == PlanFormat::kSglang ? given.back() < static_cast<int>(num_rows) : given.size() == num_rows;
  if (!fits)
    refuse(path,
           format == PlanFormat::kSglang ? "a row for each layer up to " + std::to_string(given.back())
                                         : "a row for each of " + std::to_string(given.size()) + " layers",
           std::to_string(num_rows) + " rows");
  for (std::size_t l = 1; l < given.size(); ++l)
    if (given[l] <= given[l - 1]) refuse(path + ": layers", "layers that rise", std::to_string(given[l]));
  return given;
}

}  // namespace

std::string map_of(const PlanFile& plan, PlanFormat format, const std::string& path) {
  need_even(plan, format);
  Rows rows;
  for (const LayerPlacement& layer : plan.placement.placed) rows.push_back(layer.slot2expert());
  const int num_experts = plan.placement.num_experts, num_ranks = plan.placement.num_ranks();
  if (format == PlanFormat::kVllm) return rows_text(rows) + "\n";
  if (format == PlanFormat::kSglang) {
    std::vector<int> trivial(rows[0].size());  // of layers without experts
    for (std::size_t s = 0; s < trivial.size(); ++s) trivial[s] = static_cast<int>(s) % num_experts;
    Rows all(static_cast<std::size_t>(plan.placement.layers.back()) + 1, trivial);
    for (std::size_t l = 0; l < rows.size(); ++l) all[static_cast<std::size_t>(plan.placement.layers[l])] = rows[l];
    return "{\"physical_to_logical_map\": " + rows_text(all) + "}\n";
  }
  if (path.ends_with(".csv")) return csv_rows(rows);
  const int num_nodes = plan.rank2node.back() + 1;
  if (num_ranks % num_nodes != 0 || even_nodes(num_ranks, num_nodes) != plan.rank2node)
    refuse_plan(format, "nodes of as many ranks each", "uneven ones");
  return "{\"num_gpus\": " + std::to_string(num_ranks) + ", \"num_nodes\": " + std::to_string(num_nodes) +
         ", \"num_logical_experts\": " + std::to_string(num_experts) +
         ",\n \"layers\": " + json(plan.placement.layers).dump() + ",\n \"phy2log\": " + rows_text(rows) + "}\n";
}

PlanFile parse_map(const std::string& text, const std::string& path, PlanFormat format, const PlanFacts& facts) {
  const bool csv = format == PlanFormat::kEplb && path.ends_with(".csv");
  Said said = said_by(csv ? parse_csv_rows(text, path) : parse_strict_json(text, path), path);
  if (list_of(said.rows, path).empty()) refuse(path, "a row for each layer", "none");
  // One row for all layers.
  if (!said.rows[0].is_array() && !facts.layers.empty()) said.rows = json(facts.layers.size(), said.rows);
  PlanFile plan;
  plan.rank2node = ranks_of(said, path, facts);
  Placement& p = plan.placement;
  p.layers = layers_of(said, said.rows.size(), format, facts, path);
  const std::size_t num_ranks = plan.rank2node.size();
  p.num_experts = facts.num_experts != 0 ? facts.num_experts : said.num_experts;
  const int least = facts.allow_faults ? INT32_MIN : 0;
  const int most = facts.allow_faults ? INT32_MAX : (p.num_experts == 0 ? kMost : p.num_experts) - 1;
  int highest = 0;
  for (std::size_t l = 0; l < p.layers.size(); ++l) {
    const std::size_t row = format == PlanFormat::kSglang ? static_cast<std::size_t>(p.layers[l]) : l;
    const std::string where = path + ": row " + std::to_string(row);
    const std::vector<int> slots = ints_of(said.rows[row], where, least, most);
    if (slots.empty() || slots.size() % num_ranks != 0)
      refuse(where, "a multiple of " + std::to_string(num_ranks) + " slots, one for each rank",
             std::to_string(slots.size()));
    p.placed.push_back(layer_of_slots(slots, std::vector<int>(num_ranks, static_cast<int>(slots.size() / num_ranks))));
    plan.pinned_LS.emplace_back(slots.size());
    highest = std::max(highest, *std::max_element(slots.begin(), slots.end()));
  }
  if (p.num_experts == 0) p.num_experts = std::min(highest, kMost - 1) + 1;
  plan.provenance = json::array();
  return plan;
}

}  // namespace moe::place_text
