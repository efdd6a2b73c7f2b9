// The directory of a run: its checkpoints by name, `latest`, leftovers of killed saves, which checkpoints to keep.
// Not here: what a checkpoint holds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/io/checkpoint.h"

namespace moe {

std::string step_name(std::int64_t step);                           // step-00001000
std::optional<std::int64_t> step_of_name(const std::string& name);  // nullopt for other names

// Steps that have a directory, descending; complete or not.
std::vector<std::int64_t> listed_steps(const std::string& run_dir);
// What `latest` names, or "" if it names no checkpoint directory.
std::string latest_name(const std::string& run_dir);
// Names of temporary files and directories of saves whose process is gone.
std::vector<std::string> leftovers(const std::string& run_dir);
// Names of checkpoints that are being replaced: this, the name of the step, and a suffix.
inline constexpr const char* kReplacedPrefix = ".tmp-old-";
// Removes temporary files and directories of saves whose process is gone; a checkpoint that it was about to replace is
// brought back if there is no other of its step. Never throws.
void remove_leftovers(const std::string& run_dir) noexcept;
// Removes complete checkpoints that the policy does not keep; `saved` and broken directories stay. Never throws: a save that
// succeeded does not fail because an old one could not be removed.
void remove_old(const std::string& run_dir, const KeepPolicy& keep, std::int64_t saved) noexcept;

}  // namespace moe
