#include "lib/run/result.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/io/files.h"

namespace moe {

void write_result_json(const std::string& target, const nlohmann::json& result) {
  if (target.empty()) return;
  const std::string text = result.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (target == "-")
    std::fwrite(text.data(), 1, text.size(), stdout);
  else
    replace_text_file(target, text);
}

void print_result(const CommonOptions& common, const nlohmann::json& result, const std::string& table) {
  write_result_json(common.json, result);
  if (common.json != "-") std::fwrite(table.data(), 1, table.size(), stdout);
}

}  // namespace moe
