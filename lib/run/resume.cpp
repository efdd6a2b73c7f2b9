#include "lib/run/resume.h"

#include "lib/base/error.h"
#include "lib/base/log.h"
#include "lib/comm/collectives.h"
#include "lib/io/files.h"
#include "lib/run/mesh_load.h"
#include "lib/run/world_text.h"

namespace moe {
namespace {

void warn(World& world, const std::string& line) {
  if (world.rank() == 0) log_warning(line);
}

// The next to try after `failed`, as rank 0 finds it; "" if there is none.
std::string next_candidate(World& world, const std::string& run_dir, const std::string& failed) {
  std::string next;
  if (world.rank() == 0) {
    bool passed = false;
    for (const std::string& path : checkpoint_candidates(run_dir)) {
      if (passed && next.empty()) next = path;
      passed = passed || path == failed;
    }
  }
  broadcast_text(world, "resume", next);
  return next;
}

void check_data(const TrainOptions& o, const nlohmann::json& state, const TokenFileInfo& data) {
  if (!state.contains("data") || !state.contains("options"))
    throw Error(Exit::kBadInput, "the checkpoint does not say which data and options it was trained with",
                "moe-train did not write it");
  const std::string before = state.at("data").at("fingerprint");
  if (before == data.fingerprint || o.allow_data_change) return;
  throw Error(Exit::kBadInput, o.data + ": expected the data of the checkpoint (" + before + "), found " + data.fingerprint,
              "give the same data, or --allow-data-change");
}

// Options that nobody said were taken from the checkpoint that turned out damaged (train_options.cpp), before anything was
// built: another one must have the same.
void check_taken_options(const Options& given, const nlohmann::json& state, const std::string& path,
                         const std::string& damaged) {
  std::string other, hint;
  for (const auto& [name, value] : state.at("options").items()) {
    const Option& o = given.find(name);
    if (o.origin != Origin::kCheckpoint || o.get() == value.get<std::string>()) continue;
    other += (other.empty() ? "" : "; ") + name + ": " + value.get<std::string>() + " there, " + o.get() + " in " + damaged;
  }
  if (!other.empty())
    throw Error(Exit::kUsage, path + ": expected the options of the damaged checkpoint, found others: " + other,
                "--resume " + path + " goes on with its options; or say which is meant");
}

// One attempt.
RunCounters load(Model& model, const TrainOptions& o, const Manifest& m, const std::string& path, const Options& given,
                 const TokenFileInfo& data) {
  World& world = model.mesh().world();
  std::vector<std::string> differences;
  RunCounters counters;
  world.agree([&] {
    check_data(o, m.state, data);
    if (path != o.resume_from->path) check_taken_options(given, m.state, path, o.resume_from->path);
    counters = counters_of(m.state);
    differences = resume_differences(given, m.state, o.allow_change);
  });
  load_on_mesh(model, m, path);
  for (const std::string& line : differences) log_info("resume: " + line);
  const auto before = m.state.value("layout", nlohmann::json());
  log_info("resumed " + path + " at step " + std::to_string(counters.step) + ": " + layout_text(before) + " -> " +
           layout_text(layout_json(model.mesh())));
  return counters;
}

}  // namespace

RunCounters resume_on_mesh(Model& model, TrainOptions& o, const Options& given, const TokenFileInfo& data) {
  World& world = model.mesh().world();
  for (std::string path = o.resume_from->path;;) try {
      const Manifest m = manifest_on_mesh(world, path);
      const RunCounters counters = load(model, o, m, path, given, data);
      o.resume_from = info_of(m, path);
      return counters;
    } catch (const Error& e) {
      const bool is_damaged = e.code() == Exit::kBadInput || e.code() == Exit::kNoInput;
      const std::string next = o.resume_dir.empty() || !is_damaged ? "" : next_candidate(world, o.resume_dir, path);
      if (const auto removed = next.empty() ? removed_while_reading(e, path) : std::nullopt)
        throw AgreedError(removed->code(), removed->what(), removed->hint(), 0);
      if (next.empty()) throw;
      warn(world, std::string("DAMAGED: ") + e.what());
      warn(world, "going back from " + path + " to " + next);
      path = next;
    }
}

}  // namespace moe
