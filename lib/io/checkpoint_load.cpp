// Finding and loading checkpoints. Not here: saving (checkpoint_save.cpp), the pieces of loading (checkpoint_read.cpp).
#include <optional>

#include "lib/base/error.h"
#include "lib/base/log.h"
#include "lib/io/checkpoint_read.h"
#include "lib/io/files.h"
#include "lib/io/manifest.h"
#include "lib/io/run_dir.h"
#include "lib/io/verify.h"

namespace moe {
namespace {

// The first candidate that passes the check. Here damage has an alternative, so it is looked for before anything is loaded.
CheckpointInfo open_newest(const std::string& run_dir, CheckpointCheck check) {
  std::optional<Error> first;
  for (const std::string& path : checkpoint_candidates(run_dir)) {
    try {
      const Manifest m = read_manifest(path);
      check == CheckpointCheck::kBytes ? verify_files(m, path) : check_files(m, path);
      return info_of(m, path);
    } catch (const Error& e) {
      log_warning(std::string("passed over: ") + e.what());
      if (!first) first = e;
    }
  }
  if (first) throw *first;
  throw Error(Exit::kNoInput, run_dir + ": expected a checkpoint or a directory with checkpoints, found none");
}

// When the process began that saved it, "" if that cannot be read.
std::string begin_of_writer(const std::string& path) try {
  const nlohmann::json provenance = read_manifest(path).provenance;
  return provenance.is_array() && !provenance.empty() ? provenance.back().value("utc", "") : "";
} catch (const std::exception&) {
  return "";
}

// A process that is killed between publishing a checkpoint and moving `latest` leaves a newer one of its own; newer steps of
// an older process are from before somebody went back.
bool follows(const std::string& newer, const std::string& latest) {
  const std::string begin = begin_of_writer(newer);
  return !begin.empty() && begin >= begin_of_writer(latest);
}

}  // namespace

CheckpointInfo info_of(const Manifest& m, const std::string& path) {
  CheckpointInfo info{path, m.step, m.state, m.provenance, {}, m.digest};
  for (const ManifestTensor& t : m.tensors) info.tensors.push_back({t.name, t.role, t.dtype, t.shape});
  return info;
}

std::vector<std::string> checkpoint_candidates(const std::string& run_dir) {
  std::vector<std::string> first, rest;
  const std::string latest = latest_name(run_dir), latest_path = run_dir + "/" + latest;
  for (const std::int64_t step : listed_steps(run_dir)) {
    const std::string path = run_dir + "/" + step_name(step);
    const bool is_newer = !latest.empty() && step > *step_of_name(latest);
    if (path == latest_path || (is_newer && follows(path, latest_path)))
      first.push_back(path);
    else
      rest.push_back(path);
  }
  first.insert(first.end(), rest.begin(), rest.end());
  return first;
}

CheckpointInfo open_checkpoint(const std::string& path, CheckpointCheck check) {
  if (!is_directory(path))
    throw Error(Exit::kNoInput, path + ": expected a checkpoint or a directory with checkpoints, found " +
                                    (path_exists(path) ? "something else" : "nothing"));
  if (!path_exists(path + "/" + kManifestName) && !step_of_name(base_name(path))) return open_newest(path, check);
  const Manifest m = read_manifest(path);
  check_files(m, path);
  return info_of(m, path);
}

// A broken one counts too: a run must not begin anew over it as if nothing had been there.
bool has_checkpoint(const std::string& run_dir) { return is_directory(run_dir) && !listed_steps(run_dir).empty(); }

void load_checkpoint(const CheckpointInfo& info, const std::vector<TensorSlice>& slices,
                     const std::vector<std::string>& roles_to_ignore) {
  const Manifest m = read_manifest(info.path);
  check_files(m, info.path);
  if (m.digest != info.digest)
    throw Error(Exit::kBadInput, info.path + ": expected digest " + info.digest + ", found " + m.digest,
                "it was replaced while it was read");
  check_names(info.path, m, slices, roles_to_ignore);
  auto wanted = wanted_boxes(m, slices);
  struct Job {
    const ManifestTensor* tensor;
    const ManifestSlice* slice;
    std::vector<Wanted*> wanted;
  };
  std::vector<std::vector<Job>> file2jobs(m.files.size());
  for (auto& [tensor, boxes] : wanted)
    for (const ManifestSlice& s : m.tensors[tensor].slices)
      if (std::vector<Wanted*> some = sharing(boxes, s.box); !some.empty())
        file2jobs[s.file].push_back({&m.tensors[tensor], &s, std::move(some)});
  ShardReader shards(m, info.path);
  for (std::size_t f = 0; f < m.files.size(); ++f)
    for (const Job& job : file2jobs[f]) fill_from_slice(shards.open(f), *job.tensor, *job.slice, job.wanted, shards.path(f));
  check_filled(m, wanted, info.path);
}

}  // namespace moe
