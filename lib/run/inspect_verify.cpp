// verify: what lib/io/survey.h finds, in words, and what killed saves left behind.
#include <algorithm>
#include <cstdio>

#include "lib/base/byte_size.h"
#include "lib/base/stopwatch.h"
#include "lib/io/files.h"
#include "lib/io/run_dir.h"
#include "lib/io/sandbox.h"
#include "lib/io/survey.h"
#include "lib/run/inspect.h"
#include "lib/run/inspect_parts.h"
#include "lib/run/result.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

using nlohmann::json;

json json_of(const Survey& s, const std::string& path) {
  return {{"path", path},           {"step", s.step},   {"files", s.num_files}, {"tensors", s.num_tensors},
          {"slices", s.num_slices}, {"bytes", s.bytes}, {"digest", s.digest},   {"faults", s.faults}};
}

// Of all files of the directory: what a child may read, so that its time can be limited.
std::int64_t bytes_in(const std::string& directory) {
  std::int64_t bytes = 0;
  for (const std::string& name : list_directory(directory)) try {
      bytes += File::open(directory + "/" + name, Links::kRefuse).size();
    } catch (const Error&) {
      continue;  // the survey says what is wrong with it
    }
  return bytes;
}

json survey(const std::string& path, int threads, const VerifyOptions& options) {
  const auto look = [&] { return json_of(survey_checkpoint(path, threads, options.deep), path); };
  if (!options.sandbox) return look();
  SandboxLimits limits;
  limits.cpu_seconds = static_cast<int>(std::min<std::int64_t>(60 + (bytes_in(path) >> 26), 1 << 30));  // 64 MiB/s
  return json::parse(run_in_sandbox(limits, [&] { return look().dump(-1, ' ', false, json::error_handler_t::replace); }));
}

// Newest first; a checkpoint is itself. Of a run one alone, unless `all`.
std::vector<std::string> checkpoints_of(const std::string& given, bool all) {
  if (!all || is_checkpoint(given)) return {newest_path(given)};
  std::vector<std::string> paths;
  const std::vector<std::int64_t> steps = listed_steps(given);
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) paths.push_back(given + "/" + step_name(*step));
  if (paths.empty()) return {newest_path(given)};  // says what is expected
  return paths;
}

// "the newest of 3 in run; --all verifies them all"; "" where there is no choice.
std::string choice_text(const std::string& given, bool all) {
  if (all || is_checkpoint(given)) return "";
  const std::size_t count = listed_steps(given).size();
  return count > 1 ? "latest of " + std::to_string(count) + " in " + given + "; --all verifies every one" : "";
}

std::string text_of(const json& s, double seconds, const std::string& choice, const std::vector<std::string>& left) {
  const std::string path = s.at("path");
  const auto count = [&](const char* key) { return thousands(s.at(key).get<std::int64_t>()); };
  const double bytes = s.at("bytes").get<double>();
  std::string text = path + ": ";
  const auto num_faults = static_cast<std::int64_t>(s.at("faults").size());
  text += num_faults == 0 ? "whole\n" : thousands(num_faults) + (num_faults == 1 ? " fault\n" : " faults\n");
  for (const json& fault : s.at("faults")) text += "  " + printable(fault.get<std::string>()) + "\n";
  if (s.at("step") >= 0) {
    char rate[40];
    std::snprintf(rate, sizeof rate, "%.2f s, %.2f GB/s", seconds, bytes / 1e9 / std::max(seconds, 1e-9));
    text += labelled("read", bytes_text(bytes) + " in " + rate + ": " + count("files") + " files, " + count("tensors") +
                                 " tensors, " + count("slices") + " slices");
    text += labelled("digest", s.at("digest"));
  }
  if (!choice.empty()) text += labelled("checked", choice);
  for (const std::string& name : left) text += labelled("left over", name + " (of a save that was killed)");
  return text;
}

}  // namespace

Exit verify_checkpoints(const std::vector<std::string>& paths, const CommonOptions& common, const VerifyOptions& options) {
  json all = json::array();
  std::string text;
  bool good = true;
  std::vector<std::pair<std::string, std::string>> list;  // path, why it and no other
  for (const std::string& given : paths)
    for (std::string& path : checkpoints_of(given, options.all)) list.emplace_back(path, choice_text(given, options.all));
  for (const auto& [path, choice] : list) {
    const Stopwatch watch;
    json s = survey(path, std::max(common.threads, 1), options);
    const double seconds = watch.seconds();
    const std::vector<std::string> left = leftovers(parent_directory(path));
    text += text_of(s, seconds, choice, left);
    good = good && s.at("faults").empty();
    s.update({{"seconds", seconds}, {"leftovers", left}});
    all.push_back(std::move(s));
  }
  print_result(common, {{"kind", "moe-reshard verify"}, {"checkpoints", all}}, text);
  return good ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
