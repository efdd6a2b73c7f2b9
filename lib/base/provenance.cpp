// Facts of the build come from moe_build_info.h, which build_info.cmake writes at build time.
#include "lib/base/provenance.h"

#include <ctime>
#include <nlohmann/json.hpp>

#include "kernels/kernels.h"
#include "moe_build_info.h"

namespace moe {

std::string version_text() { return MOE_VERSION; }
std::string git_commit() { return MOE_GIT_COMMIT; }

std::string version_report(const std::string& tool) {
  return tool + " " + version_text() + "\ncommit " + git_commit() + "\ncompiler " + MOE_COMPILER + "\ninstruction set " +
         cpu_kernels().isa + " (this machine)\nlibraries " + MOE_LIBRARIES + "\n";
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

nlohmann::json provenance_chain(const Invocation& invocation, const nlohmann::json& parent_chain,
                                const std::vector<std::pair<std::string, std::string>>& inputs) {
  nlohmann::json read = nlohmann::json::array();
  for (const auto& [path, digest] : inputs) read.push_back({{"path", path}, {"digest", digest}});
  nlohmann::json chain = parent_chain.is_array() ? parent_chain : nlohmann::json::array();
  chain.push_back({{"tool", invocation.options.tool()},
                   {"version", version_text()},
                   {"git", git_commit()},
                   {"argv", invocation.argv},
                   {"options", invocation.options.to_json()},
                   {"utc", utc_now()},
                   {"inputs", std::move(read)}});
  return chain;
}

}  // namespace moe
