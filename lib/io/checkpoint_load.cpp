// Finding and loading checkpoints. Not here: saving (checkpoint_save.cpp).
#include <algorithm>
#include <map>
#include <optional>

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

// Every wanted slice has a tensor of its shape and dtype, and every tensor is wanted; else Error 65 with all of both.
void check_names(const std::string& path, const std::map<Key, const ManifestTensor*>& tensors,
                 const std::vector<TensorSlice>& slices, const std::vector<std::string>& roles_to_ignore) {
  const auto ignored = [&](const std::string& role) {
    return std::find(roles_to_ignore.begin(), roles_to_ignore.end(), role) != roles_to_ignore.end();
  };
  const auto append = [](std::string& list, const std::string& item) { list += (list.empty() ? "" : ", ") + item; };
  std::map<Key, bool> wanted;
  std::string missing, unexpected, different;
  for (const TensorSlice& s : slices) {
    if (!wanted.emplace(Key{s.name, s.role}, true).second) continue;
    const auto t = tensors.find({s.name, s.role});
    const std::string label = s.name + " (" + s.role + ")";
    if (t == tensors.end() && !ignored(s.role)) append(missing, label);
    if (t != tensors.end() && (t->second->shape != s.shape || t->second->dtype != s.dtype))
      append(different, label + " expected " + shape_text(s.dtype, s.shape) + ", found " +
                            shape_text(t->second->dtype, t->second->shape));
  }
  for (const auto& [key, t] : tensors)
    if (!wanted.contains(key) && !ignored(key.second)) append(unexpected, t->label());
  if (missing.empty() && unexpected.empty() && different.empty()) return;
  std::string message = path + ": expected exactly the tensors of this model";
  if (!missing.empty()) message += "; missing: " + missing;
  if (!unexpected.empty()) message += "; unexpected: " + unexpected;
  if (!different.empty()) message += "; different: " + different;
  throw Error(Exit::kBadInput, message, "the checkpoint is of another model or other options");
}

// Fills what the wanted boxes share with one slice of the file: in place if it is all of a wanted box, else through a
// buffer.
void fill(const H5Reader& shard, const ManifestTensor& t, const ManifestSlice& s, const std::string& path,
          const std::vector<const TensorSlice*>& wanted) {
  std::vector<const TensorSlice*> meeting;
  for (const TensorSlice* w : wanted)
    if (elements_of(w->extent) > 0 && boxes_meet({w->offset, w->extent}, s.box)) meeting.push_back(w);
  if (meeting.empty()) return;
  if (meeting.size() == 1 && meeting[0]->offset == s.box.offset && meeting[0]->extent == s.box.extent)
    return read_slice(shard, t, s, path, meeting[0]->data);
  std::vector<std::byte> buffer(static_cast<std::size_t>(elements_of(s.box.extent)) * size_of(t.dtype));
  read_slice(shard, t, s, path, buffer.data());
  for (const TensorSlice* w : meeting)
    copy_common(buffer.data(), s.box, static_cast<std::byte*>(w->data), {w->offset, w->extent}, size_of(t.dtype));
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

bool has_checkpoint(const std::string& run_dir) {
  if (!is_directory(run_dir)) return false;
  for (const std::string& name : candidates(run_dir)) try {
      check_files(read_manifest(run_dir + "/" + name), run_dir + "/" + name);
      return true;
    } catch (const Error&) {
      continue;  // a broken one does not count
    }
  return false;
}

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
  std::map<Key, std::vector<const TensorSlice*>> wanted;
  for (const TensorSlice& s : slices) wanted[{s.name, s.role}].push_back(&s);

  for (std::size_t file = 0; file < m.files.size(); ++file) {
    const std::string path = info.path + "/" + m.files[file].name;
    const H5Reader shard = open_shard(m, file, info.path);
    for (const ManifestTensor& t : m.tensors)
      if (const auto w = wanted.find({t.name, t.role}); w != wanted.end())
        for (const ManifestSlice& s : t.slices)
          if (s.file == file) fill(shard, t, s, path, w->second);
  }
}

}  // namespace moe
