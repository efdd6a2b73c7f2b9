#include "lib/io/run_dir.h"

#include <algorithm>
#include <cstdio>

#include "lib/base/log.h"
#include "lib/io/files.h"
#include "lib/io/manifest.h"

namespace moe {
namespace {

bool is_complete(const std::string& directory) {
  try {
    check_files(read_manifest(directory), directory);
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

// Renamed first: a reader never sees half of it under its name, and a killed removal leaves an ordinary leftover.
void remove_checkpoint(const std::string& run_dir, std::int64_t step) {
  const std::string doomed = run_dir + "/.tmp-delete-" + unique_suffix();
  rename_path(run_dir + "/" + step_name(step), doomed);
  remove_tree(doomed);
}

}  // namespace

std::string step_name(std::int64_t step) {
  char text[32];
  std::snprintf(text, sizeof text, "step-%08lld", static_cast<long long>(step));
  return text;
}

std::optional<std::int64_t> step_of_name(const std::string& name) {
  if (!name.starts_with("step-") || name.size() < 13 || name.size() > 20) return std::nullopt;
  if (name.find_first_not_of("0123456789", 5) != std::string::npos) return std::nullopt;
  return std::stoll(name.substr(5));
}

std::vector<std::int64_t> listed_steps(const std::string& run_dir) {
  std::vector<std::int64_t> steps;
  for (const std::string& name : list_directory(run_dir))
    if (const auto step = step_of_name(name); step && step_name(*step) == name && is_directory(run_dir + "/" + name))
      steps.push_back(*step);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

std::string latest_name(const std::string& run_dir) try {
  std::string name = read_text_file(run_dir + "/latest", 256);
  while (!name.empty() && name.back() == '\n') name.pop_back();
  return step_of_name(name) && is_directory(run_dir + "/" + name) ? name : "";
} catch (const std::exception&) {
  return "";
}

std::vector<std::string> leftovers(const std::string& run_dir) {
  std::vector<std::string> names = list_directory(run_dir);
  std::erase_if(names, [](const std::string& name) { return !name.starts_with(".tmp-") || !owner_is_gone(name); });
  return names;
}

namespace {

// The name of the step that a leftover held, if its place is free.
std::optional<std::string> lost_step(const std::string& run_dir, const std::string& name) {
  if (!name.starts_with(kReplacedPrefix)) return std::nullopt;
  const std::string rest = name.substr(std::string(kReplacedPrefix).size());
  const std::string step = rest.substr(0, rest.find('-', std::string("step-").size()));
  return step_of_name(step) && !path_exists(run_dir + "/" + step) ? std::optional(step) : std::nullopt;
}

}  // namespace

void remove_leftovers(const std::string& run_dir) noexcept try {
  for (const std::string& name : leftovers(run_dir)) {
    const std::string path = run_dir + "/" + name;
    const auto step = lost_step(run_dir, name);
    if (!step) {
      remove_tree(path);
      continue;
    }
    rename_path(path, run_dir + "/" + *step);
    log_warning(run_dir + "/" + *step + ": brought back; the process that was replacing it was killed");
  }
} catch (const std::exception& e) {
  log_warning(std::string("leftovers stay: ") + e.what());
}

void remove_old(const std::string& run_dir, const KeepPolicy& keep, std::int64_t saved) noexcept try {
  int complete = 0;
  for (const std::int64_t step : listed_steps(run_dir)) {
    if (!is_complete(run_dir + "/" + step_name(step))) continue;
    const bool milestone = keep.keep_every > 0 && step % keep.keep_every == 0;
    if (++complete > std::max(keep.keep_last, 1) && !milestone && step != saved) remove_checkpoint(run_dir, step);
  }
} catch (const std::exception& e) {
  log_warning(std::string("an old checkpoint stays: ") + e.what());
}

}  // namespace moe
