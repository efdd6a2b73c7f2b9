// Finding and loading checkpoints. Not here: saving (checkpoint_save.cpp).
#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "lib/base/error.h"
#include "lib/base/log.h"
#include "lib/io/checkpoint.h"
#include "lib/io/files.h"
#include "lib/io/manifest.h"
#include "lib/io/run_dir.h"
#include "lib/io/verify.h"

namespace moe {
namespace {

CheckpointInfo info_of(const Manifest& m, const std::string& path) {
  CheckpointInfo info{path, m.step, m.state, m.provenance, {}, m.digest};
  for (const ManifestTensor& t : m.tensors) info.tensors.push_back({t.name, t.role, t.dtype, t.shape});
  return info;
}

// What to try in a run directory: `latest` first, then the newest step first.
std::vector<std::string> candidates(const std::string& run_dir) {
  std::vector<std::string> names;
  if (const std::string latest = latest_name(run_dir); !latest.empty()) names.push_back(latest);
  for (const std::int64_t step : listed_steps(run_dir))
    if (names.empty() || step_name(step) != names[0]) names.push_back(step_name(step));
  return names;
}

// The first candidate whose files have the digests of its manifest. Here damage has an alternative, so it is looked for
// before anything is loaded.
CheckpointInfo open_newest(const std::string& run_dir) {
  std::optional<Error> first;
  for (const std::string& name : candidates(run_dir)) {
    const std::string path = run_dir + "/" + name;
    try {
      const Manifest m = read_manifest(path);
      verify_files(m, path);
      return info_of(m, path);
    } catch (const Error& e) {
      log_warning(std::string("passed over: ") + e.what());
      if (!first) first = e;
    }
  }
  if (first) throw *first;
  throw Error(Exit::kNoInput, run_dir + ": expected a checkpoint or a directory with checkpoints, found none");
}

using Key = std::pair<std::string, std::string>;

std::string shape_text(DType dtype, const std::vector<std::int64_t>& shape) {
  return std::string(name_of(dtype)) + " [" + joined(shape) + "]";
}

std::string listed(const char* what, const std::set<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text.empty() ? "" : std::string("; ") + what + ": " + text;
}

// Every slice has a tensor of its shape and dtype, and every tensor has a slice; else Error 65 with all of both.
void check_names(const std::string& path, const std::map<Key, const ManifestTensor*>& tensors,
                 const std::vector<TensorSlice>& slices, const std::vector<std::string>& roles_to_ignore) {
  const auto ignored = [&](const std::string& role) {
    return std::find(roles_to_ignore.begin(), roles_to_ignore.end(), role) != roles_to_ignore.end();
  };
  std::set<Key> named;
  std::set<std::string> missing, unexpected, different;
  for (const TensorSlice& s : slices) {
    named.insert({s.name, s.role});
    const auto t = tensors.find({s.name, s.role});
    const std::string label = s.name + " (" + s.role + ")";
    if (t == tensors.end() && !ignored(s.role)) missing.insert(label);
    if (t != tensors.end() && (t->second->shape != s.shape || t->second->dtype != s.dtype))
      different.insert(label + " expected " + shape_text(s.dtype, s.shape) + ", found " +
                       shape_text(t->second->dtype, t->second->shape));
  }
  for (const auto& [key, t] : tensors)
    if (!named.contains(key) && !ignored(key.second)) unexpected.insert(t->label());
  if (missing.empty() && unexpected.empty() && different.empty()) return;
  throw Error(Exit::kBadInput,
              path + ": expected exactly the tensors of this model" + listed("missing", missing) +
                  listed("unexpected", unexpected) + listed("different", different),
              "the checkpoint is of another model or other options");
}

// A box that is wanted, and how many of its elements the files have given.
struct Wanted {
  const TensorSlice* slice;
  Box box;
  std::int64_t filled = 0;
};

using WantedByName = std::map<Key, std::vector<Wanted>>;

WantedByName wanted_boxes(const std::vector<TensorSlice>& slices) {
  WantedByName wanted;
  for (const TensorSlice& s : slices) {
    if (s.offset.size() != s.shape.size() || s.extent.size() != s.shape.size())
      throw Error(Exit::kInternal, "tensor " + s.name + " (" + s.role + "): a slice has another rank than its tensor");
    auto& list = wanted[{s.name, s.role}];
    if (elements_of(s.extent) > 0) list.push_back({&s, {s.offset, s.extent}});
  }
  return wanted;
}

// One slice of a file and the boxes that want some of it.
struct Job {
  const ManifestTensor* tensor;
  const ManifestSlice* slice;
  std::vector<Wanted*> wanted;
};

// By file.
std::vector<std::vector<Job>> jobs_of(const Manifest& m, WantedByName& wanted) {
  std::vector<std::vector<Job>> jobs(m.files.size());
  for (const ManifestTensor& t : m.tensors) {
    const auto boxes = wanted.find({t.name, t.role});
    if (boxes == wanted.end()) continue;
    for (const ManifestSlice& s : t.slices) {
      Job job{&t, &s, {}};
      for (Wanted& w : boxes->second)
        if (boxes_meet(w.box, s.box)) job.wanted.push_back(&w);
      if (!job.wanted.empty()) jobs[s.file].push_back(std::move(job));
    }
  }
  return jobs;
}

constexpr std::int64_t kBlockBytes = std::int64_t{16} << 20;

// Fills what the wanted boxes share with the slice: in place if it is all of one wanted box, else through blocks. The slice
// is read whole even if little of it is wanted: its digest is of all of it.
void fill(const H5Reader& shard, const Job& job, const std::string& path) {
  const ManifestTensor& t = *job.tensor;
  const ManifestSlice& s = *job.slice;
  Wanted& first = *job.wanted[0];
  if (job.wanted.size() == 1 && first.box.offset == s.box.offset && first.box.extent == s.box.extent) {
    read_slice(shard, t, s, path, first.slice->data);
    first.filled += elements_of(s.box.extent);
    return;
  }
  read_slice_in_blocks(shard, t, s, path, kBlockBytes, [&](const Box& block, const std::byte* elements) {
    for (Wanted* w : job.wanted) {
      if (!boxes_meet(w->box, block)) continue;
      copy_common(elements, block, static_cast<std::byte*>(w->slice->data), w->box, size_of(t.dtype));
      w->filled += elements_of(intersection(w->box, block).extent);
    }
  });
}

void check_filled(const WantedByName& wanted, const std::string& path) {
  for (const auto& [key, list] : wanted)
    for (const Wanted& w : list)
      if (const std::int64_t all = elements_of(w.box.extent); w.filled != all)
        throw Error(Exit::kBadInput, path + ": tensor " + key.first + " (" + key.second + "), box at [" +
                                         joined(w.box.offset) + "]: expected " + std::to_string(all) + " elements, found " +
                                         std::to_string(w.filled));
}

}  // namespace

CheckpointInfo open_checkpoint(const std::string& path) {
  if (!is_directory(path))
    throw Error(Exit::kNoInput, path + ": expected a checkpoint or a directory with checkpoints, found " +
                                    (path_exists(path) ? "something else" : "nothing"));
  if (!path_exists(path + "/" + kManifestName) && !step_of_name(base_name(path))) return open_newest(path);
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
  std::map<Key, const ManifestTensor*> tensors;
  for (const ManifestTensor& t : m.tensors) tensors[{t.name, t.role}] = &t;
  check_names(info.path, tensors, slices, roles_to_ignore);
  WantedByName wanted = wanted_boxes(slices);
  std::erase_if(wanted, [&](const auto& entry) { return !tensors.contains(entry.first); });  // of roles that are ignored
  const std::vector<std::vector<Job>> jobs = jobs_of(m, wanted);
  for (std::size_t file = 0; file < m.files.size(); ++file) {
    if (jobs[file].empty()) continue;
    const H5Reader shard = open_shard(m, file, info.path);
    for (const Job& job : jobs[file]) fill(shard, job, info.path + "/" + m.files[file].name);
  }
  check_filled(wanted, info.path);
}

}  // namespace moe
