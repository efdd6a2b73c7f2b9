// How a tool hands over its result: JSON where --json says, else a table on standard output.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "lib/base/common_options.h"

namespace moe {

// target: "" nowhere, "-" standard output, else a file that is replaced in one step. Text that is not UTF-8 is mended.
void write_result_json(const std::string& target, const nlohmann::json& result);
// The JSON, and the table unless the JSON took standard output.
void print_result(const CommonOptions& common, const nlohmann::json& result, const std::string& table);

}  // namespace moe
