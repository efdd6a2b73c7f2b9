// How a file came to be: tool, version, git, command line, effective options, UTC time, digest of the inputs; each file
// appends its own entry to the chain of its inputs. The environment is never recorded.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lib/base/common_options.h"

namespace moe {

// "0.1.0", and the commit the build was made from ("unknown" outside a checkout, "+" appended when modified).
std::string version_text();
std::string git_commit();
// The lines of --version: version, commit, compiler, instruction set, library versions.
std::string version_report(const std::string& tool);

// parent_chain (array, may be null) + one entry. inputs: {path, digest} of the files read.
nlohmann::json provenance_chain(const Invocation& invocation, const nlohmann::json& parent_chain,
                                const std::vector<std::pair<std::string, std::string>>& inputs);
std::string utc_now();  // 2026-01-31T12:00:00Z

}  // namespace moe
