// Saving checkpoints: temporary directory, manifest, publication. Not here: shard files (checkpoint_stream.cpp), digests and
// the join of what several processes wrote (checkpoint_part.cpp), what may be kept (run_dir.cpp), reading
// (checkpoint_load.cpp).
#include <map>
#include <optional>

#include "lib/base/error.h"
#include "lib/io/checkpoint.h"
#include "lib/io/checkpoint_part.h"
#include "lib/io/checkpoint_stream.h"
#include "lib/io/files.h"
#include "lib/io/run_dir.h"
#include "lib/io/verify.h"

namespace moe {
namespace {

using nlohmann::json;

// The temporary directory is removed, with all that is in it, whatever happens.
struct Removal {
  const CheckpointDraft& draft;
  ~Removal() { abandon_checkpoint(draft); }
};

// The shards are where the manifest will look for them. They are not if the processes do not share a file system.
void check_visible(const Manifest& m, const std::string& directory) try {
  check_files(m, directory);
} catch (const Error& e) {
  throw Error(Exit::kIo, std::string("files that other processes wrote: ") + e.what(),
              "the run directory must be on a file system that all hosts share");
}

void write_manifest(const Manifest& m, const std::string& directory) {
  const std::string path = directory + "/" + kManifestName;
  const std::string text = manifest_text(m);
  parse_manifest(text, path);  // what no reader would take is not published
  write_text_file(path, text);
  sync_directory(directory);
}

// One step makes `ready` the directory `target`; what was there, if anything, is then under the name of `ready`.
void publish(const std::string& ready, const std::string& target) {
  if (!path_exists(target)) {
    rename_path(ready, target);
  } else if (!exchange_paths(ready, target)) {
    const std::string old = parent_directory(target) + "/" + kReplacedPrefix + base_name(target) + "-" + unique_suffix();
    rename_path(target, old);  // a file system that cannot exchange: killed here, remove_leftovers() brings the old one back
    rename_path(ready, target);
    remove_tree(old);
  }
  sync_directory(parent_directory(target));
}

// True if `target` holds the same tensors, undamaged. Error 73 if it is complete, different, and not to be replaced.
bool already_there(const std::string& target, const Manifest& m, bool force) {
  Manifest there;
  try {
    there = read_manifest(target);
    verify_files(there, target);
  } catch (const Error& e) {
    if (e.code() == Exit::kIo) throw;
    return false;  // not there, or broken: it is replaced
  }
  if (there.digest == m.digest) return true;
  if (force) return false;
  throw Error(Exit::kCannotCreate, target + ": expected no checkpoint or the same one, found one with other tensors",
              "--force replaces it, another -o keeps both");
}

// The checkpoint is there: `latest` leads to it, what is old goes.
SavedCheckpoint settle(const std::string& run_dir, const Manifest& m, const KeepPolicy& keep) {
  replace_text_file(run_dir + "/latest", step_name(m.step) + "\n");
  remove_leftovers(run_dir);
  remove_old(run_dir, keep, m.step);
  SavedCheckpoint saved{run_dir + "/" + step_name(m.step), m.digest, 0};
  for (const ManifestTensor& t : m.tensors)
    saved.bytes += elements_of(t.shape) * static_cast<std::int64_t>(size_of(t.dtype));
  return saved;
}

// What the slices of one process would be published as.
Manifest manifest_of(std::int64_t step, const std::vector<TensorSlice>& slices) {
  return join_parts({.step = step}, {{.tensors = describe_slices(slices)}});
}

}  // namespace

std::string CheckpointDraft::text() const {
  return json{{"run_dir", run_dir}, {"directory", directory}, {"nonce", nonce}, {"step", step}, {"num_parts", num_parts}}
      .dump();
}

CheckpointDraft CheckpointDraft::parse(const std::string& text) try {
  const json j = json::parse(text);
  return {j.at("run_dir"), j.at("directory"), j.at("nonce"), j.at("step"), j.at("num_parts")};
} catch (const json::exception& e) {
  throw Error(Exit::kInternal, std::string("description of a checkpoint: ") + e.what());
}

std::int64_t total_bytes(const std::vector<TensorSlice>& slices) {
  std::map<std::pair<std::string, std::string>, std::int64_t> bytes;
  for (const TensorSlice& s : slices)
    bytes[{s.name, s.role}] = elements_of(s.shape) * static_cast<std::int64_t>(size_of(s.dtype));
  std::int64_t sum = 0;
  for (const auto& [key, n] : bytes) sum += n;
  return sum;
}

CheckpointDraft begin_checkpoint(const std::string& run_dir, std::int64_t step, int num_parts, std::int64_t total_bytes) {
  CheckpointDraft draft{.run_dir = run_dir, .nonce = unique_suffix(), .step = step, .num_parts = num_parts};
  draft.directory = run_dir + "/.tmp-" + step_name(step) + "-" + draft.nonce;
  make_directories(run_dir);
  require_free_space(run_dir, total_bytes);
  make_directories(draft.directory);
  return draft;
}

std::string write_part(const CheckpointDraft& draft, int part, const std::vector<TensorSlice>& slices) {
  CheckpointStream stream(draft, {});
  stream.write_part(
      part, slices, [&](std::size_t slice, std::int64_t first, std::int64_t count, std::span<std::byte>, std::size_t) {
        const TensorSlice& s = slices[slice];
        return std::span(static_cast<const std::byte*>(s.data), bytes_of(s))
            .subspan(static_cast<std::size_t>(first) * size_of(s.dtype), static_cast<std::size_t>(count) * size_of(s.dtype));
      });
  return stream.finish()[0];
}

SavedCheckpoint publish_checkpoint(const CheckpointDraft& draft, const std::vector<std::string>& reports, const json& state,
                                   const json& provenance, const KeepPolicy& keep, bool force) {
  const Removal removal{draft};
  std::vector<CheckpointPart> parts;
  for (const std::string& text : reports) parts.push_back(parse_part(text));
  Manifest m = join_parts(draft, parts);
  m.state = state;
  m.provenance = provenance;
  const std::string target = draft.run_dir + "/" + step_name(draft.step);
  if (!already_there(target, m, force)) {
    check_visible(m, draft.directory);
    write_manifest(m, draft.directory);
    publish(draft.directory, target);
  }
  return settle(draft.run_dir, m, keep);
}

void abandon_checkpoint(const CheckpointDraft& draft) noexcept {
  if (!draft.directory.empty()) remove_tree(draft.directory);
}

SavedCheckpoint save_checkpoint(const std::string& run_dir, std::int64_t step, const json& state, const json& provenance,
                                const std::vector<TensorSlice>& slices, const KeepPolicy& keep, bool force) {
  const std::string target = run_dir + "/" + step_name(step);
  if (path_exists(target))
    if (const Manifest m = manifest_of(step, slices); already_there(target, m, force)) return settle(run_dir, m, keep);
  const CheckpointDraft draft = begin_checkpoint(run_dir, step, 1, total_bytes(slices));
  const Removal removal{draft};
  return publish_checkpoint(draft, {write_part(draft, 0, slices)}, state, provenance, keep, force);
}

}  // namespace moe
