// The forms of place_text.h one by one, and checked access to JSON that they share.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lib/run/place_text.h"

namespace moe::place_text {

std::string csv_of(const PlanFile& plan);
PlanFile parse_csv(const std::string& text, const std::string& path, const PlanFacts& facts);

std::string json_of(const PlanFile& plan);
PlanFile parse_json(const std::string& text, const std::string& path, const PlanFacts& facts);

std::string map_of(const PlanFile& plan, PlanFormat format, const std::string& path);
PlanFile parse_map(const std::string& text, const std::string& path, PlanFormat format, const PlanFacts& facts);

inline constexpr int kMost = 1 << 20;  // layers, experts, ranks: as in a plan file

[[noreturn]] void refuse(const std::string& where, const std::string& expected, const std::string& found,
                         const std::string& hint = "");
std::string found_text(const nlohmann::json& value);  // short, on one line
// "PATH: layers[3].ranks" and so on is `where`; Error(kBadInput) for another type or range.
int int_of(const nlohmann::json& value, const std::string& where, int least, int most);
const nlohmann::json& list_of(const nlohmann::json& value, const std::string& where);
std::vector<int> ints_of(const nlohmann::json& value, const std::string& where, int least, int most);
// An object with no other members than these; a wrong one is named with the nearest.
void need_members(const nlohmann::json& object, const std::string& where, const std::vector<std::string>& known);
// Ranks of a node are neighbours, nodes are 0, 1, ...
void need_nodes(const std::vector<int>& rank2node, const std::string& where);

}  // namespace moe::place_text
