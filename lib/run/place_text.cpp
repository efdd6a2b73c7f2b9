#include "lib/run/place_text.h"

#include <algorithm>
#include <cmath>

#include "lib/base/error.h"
#include "lib/base/options.h"
#include "lib/io/manifest.h"
#include "lib/run/place_text_parts.h"

namespace moe {

namespace place_text {

using nlohmann::json;

void refuse(const std::string& where, const std::string& expected, const std::string& found, const std::string& hint) {
  throw Error(Exit::kBadInput, where + ": expected " + expected + ", found " + found, hint);
}

std::string found_text(const json& value) {
  if (value.is_array()) return "a list of " + std::to_string(value.size());
  if (value.is_object()) return "an object";
  const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() > 40 ? text.substr(0, 37) + "..." : text;
}

int int_of(const json& value, const std::string& where, int least, int most) {
  if (value.is_number_integer() && value >= least && value <= most) return value.get<int>();
  refuse(where, "a number from " + std::to_string(least) + " to " + std::to_string(most), found_text(value));
}

const json& list_of(const json& value, const std::string& where) {
  if (!value.is_array()) refuse(where, "a list", found_text(value));
  return value;
}

std::vector<int> ints_of(const json& value, const std::string& where, int least, int most) {
  std::vector<int> list;
  for (const json& v : list_of(value, where))
    list.push_back(int_of(v, where + "[" + std::to_string(list.size()) + "]", least, most));
  return list;
}

void need_members(const json& object, const std::string& where, const std::vector<std::string>& known) {
  if (!object.is_object()) refuse(where, "an object", found_text(object));
  for (const auto& [name, unused] : object.items())
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      const std::string near = nearest_name(name, known);
      refuse(where, "no member '" + name.substr(0, 80) + "'", "one", near.empty() ? "" : "did you mean " + near + "?");
    }
}

void need_nodes(const std::vector<int>& rank2node, const std::string& where) {
  for (std::size_t r = 0; r < rank2node.size(); ++r) {
    const int before = r == 0 ? 0 : rank2node[r - 1], node = rank2node[r];
    if (node != before && (r == 0 || node != before + 1))
      refuse(where,
             r == 0
                 ? "rank 0 on node 0"
                 : "rank " + std::to_string(r) + " on node " + std::to_string(before) + " or " + std::to_string(before + 1),
             "node " + std::to_string(node), "nodes are numbered 0, 1, ... and the ranks of a node are neighbours");
  }
}

namespace {

// A format by what a JSON text holds.
PlanFormat format_of_json(const std::string& text, const std::string& path) {
  const json j = parse_strict_json(text, path);
  if (j.is_array()) return PlanFormat::kVllm;
  if (j.is_object() && j.contains("phy2log")) return PlanFormat::kEplb;
  if (j.is_object() && j.contains("physical_to_logical_map")) return PlanFormat::kSglang;
  return PlanFormat::kJson;
}

}  // namespace
}  // namespace place_text

PlanFormat plan_format(const std::string& name, const std::string& path, const std::string* text) {
  static const std::vector<std::string> names = {"csv", "json", "eplb", "vllm", "sglang"};
  if (!name.empty()) {
    const auto at = std::find(names.begin(), names.end(), name);
    if (at == names.end())
      throw Error(Exit::kUsage, "--format: expected csv, json, eplb, vllm or sglang, found '" + name + "'");
    return static_cast<PlanFormat>(at - names.begin());
  }
  if (path == "-" || path.ends_with(".csv")) return PlanFormat::kCsv;
  if (path.ends_with(".json")) return text == nullptr ? PlanFormat::kJson : place_text::format_of_json(*text, path);
  throw Error(Exit::kUsage, path + ": expected a name that ends in .csv or .json, found another",
              "--format csv, json, eplb, vllm or sglang");
}

std::string plan_text(const PlanFile& plan, PlanFormat format, const std::string& path) {
  if (format == PlanFormat::kCsv) return place_text::csv_of(plan);
  if (format == PlanFormat::kJson) return place_text::json_of(plan);
  return place_text::map_of(plan, format, path);
}

PlanFile parse_plan_text(const std::string& text, const std::string& path, PlanFormat format, const PlanFacts& facts) {
  if (format == PlanFormat::kCsv) return place_text::parse_csv(text, path, facts);
  if (format == PlanFormat::kJson) return place_text::parse_json(text, path, facts);
  return place_text::parse_map(text, path, format, facts);
}

namespace {

using nlohmann::json;

// load_E += the row. The first row decides how many experts there are.
void add_row(const json& row, const std::string& where, Loads& loads, std::size_t layer) {
  if (place_text::list_of(row, where).empty()) place_text::refuse(where, "a number per expert", "none");
  if (loads.num_experts == 0) loads.num_experts = static_cast<int>(row.size());
  if (static_cast<int>(row.size()) != loads.num_experts)
    place_text::refuse(where, std::to_string(loads.num_experts) + " experts", std::to_string(row.size()));
  std::vector<double>& load_E = loads.of_layer[layer].load_E;
  load_E.resize(row.size());
  for (std::size_t e = 0; e < row.size(); ++e) {
    const double rows = row[e].is_number() ? row[e].get<double>() : NAN;
    if (!(rows >= 0 && std::isfinite(rows)))
      place_text::refuse(where + ", expert " + std::to_string(e), "a load from 0", place_text::found_text(row[e]));
    load_E[e] += rows;
  }
}

void add_table(const json& table, const std::string& where, Loads& loads) {
  if (place_text::list_of(table, where).empty()) place_text::refuse(where, "a list per layer", "none");
  if (loads.of_layer.empty()) loads.of_layer.resize(table.size());
  if (table.size() != loads.of_layer.size())
    place_text::refuse(where, std::to_string(loads.of_layer.size()) + " layers", std::to_string(table.size()));
  for (std::size_t l = 0; l < table.size(); ++l) add_row(table[l], where + ", layer " + std::to_string(l), loads, l);
}

}  // namespace

Loads parse_loads_json(const std::string& text, const std::string& path) {
  const json root = parse_strict_json(text, path);
  const json* table = &root;
  for (const char* name : {"weight", "expert_load", "logical_count"})
    if (root.is_object() && root.contains(name)) table = &root.at(name);
  if (!table->is_array() || table->empty() || !table->at(0).is_array())
    place_text::refuse(path, "loads [layers][experts], or an object with them as logical_count, expert_load or weight",
                       place_text::found_text(*table));
  Loads loads;
  if (!table->at(0).empty() && table->at(0)[0].is_array())
    for (std::size_t s = 0; s < table->size(); ++s) add_table(table->at(s), path + ": step " + std::to_string(s), loads);
  else
    add_table(*table, path, loads);
  for (std::size_t l = 0; l < loads.of_layer.size(); ++l) loads.layers.push_back(static_cast<int>(l));
  return loads;
}

}  // namespace moe
