// Saving checkpoints: digests, one shard file, manifest, publication. Not here: what may be kept (run_dir.cpp), reading
// (checkpoint_load.cpp).
#include <algorithm>
#include <map>

#include "lib/base/error.h"
#include "lib/io/checkpoint.h"
#include "lib/io/digest.h"
#include "lib/io/files.h"
#include "lib/io/h5.h"
#include "lib/io/manifest.h"
#include "lib/io/run_dir.h"
#include "lib/io/verify.h"

namespace moe {
namespace {

constexpr const char* kShardName = "shard-00000.h5";

// A directory that is removed, with all that is in it, unless it was published.
struct TemporaryDirectory {
  std::string path;
  explicit TemporaryDirectory(std::string p) : path(std::move(p)) { make_directories(path); }
  ~TemporaryDirectory() { remove_tree(path); }
};

std::size_t bytes_of(const TensorSlice& s) { return static_cast<std::size_t>(elements_of(s.extent)) * size_of(s.dtype); }
std::span<const std::byte> memory_of(const TensorSlice& s) { return {static_cast<const std::byte*>(s.data), bytes_of(s)}; }

std::string dataset_name(const TensorSlice& s) {
  const bool whole = s.extent == s.shape;
  return s.role + ":" + s.name + (whole ? "" : "@" + joined(s.offset));
}

// += the elements of a slice, run by run.
void add_elements(const TensorSlice& s, ElementSum& sum) {
  std::size_t at = 0;
  for_each_run(s.shape, {s.offset, s.extent}, [&](std::int64_t first, std::int64_t count) {
    const auto n = static_cast<std::size_t>(count);
    const auto from = static_cast<std::uint64_t>(first);
    if (s.dtype == DType::kF32)
      sum.add(from, std::span(static_cast<const std::uint32_t*>(s.data) + at, n));
    else
      sum.add(from, std::span(static_cast<const std::uint16_t*>(s.data) + at, n));
    at += n;
  });
}

// A slice with its place in the manifest.
struct Placed {
  const TensorSlice* slice;
  std::size_t tensor, index;
};

// Tensors in the order of (name, role), each with its slices and digests; `placed` in the order of writing.
std::vector<ManifestTensor> describe(const std::vector<TensorSlice>& slices, std::vector<Placed>& placed) {
  std::map<std::pair<std::string, std::string>, std::vector<const TensorSlice*>> by_name;
  for (const TensorSlice& s : slices) by_name[{s.name, s.role}].push_back(&s);
  std::vector<ManifestTensor> tensors;
  for (const auto& [key, parts] : by_name) {
    ManifestTensor t{key.first, key.second, parts[0]->dtype, parts[0]->shape, "", {}};
    ElementSum sum(t.identity());
    std::vector<Box> boxes;
    for (const TensorSlice* s : parts) {
      if (s->shape != t.shape || s->dtype != t.dtype)
        throw Error(Exit::kInternal, "tensor " + t.label() + ": its slices disagree about shape or dtype");
      if (elements_of(s->extent) == 0) continue;
      add_elements(*s, sum);
      placed.push_back({s, tensors.size(), t.slices.size()});
      t.slices.push_back({0, dataset_name(*s), {s->offset, s->extent}, xxh3(memory_of(*s)).hex()});
      boxes.push_back(t.slices.back().box);
    }
    if (const std::string fault = coverage_fault(t.shape, boxes); !fault.empty())
      throw Error(Exit::kInternal, "tensor " + t.label() + ": " + fault);
    t.digest = sum.value().hex();
    tensors.push_back(std::move(t));
  }
  return tensors;
}

void write_shard(const std::string& path, const Manifest& m, const std::vector<Placed>& placed) {
  H5Writer h5(path, kShardKind, kCheckpointVersion);
  h5.attribute("step", m.step);
  h5.attribute("nonce", m.nonce);
  for (const Placed& p : placed) {
    const TensorSlice& s = *p.slice;
    const std::string& name = m.tensors[p.tensor].slices[p.index].dataset;
    const std::vector<std::int64_t> dims = s.extent.empty() ? std::vector<std::int64_t>{1} : s.extent;
    h5.write(name, s.dtype == DType::kF32 ? H5Type::kF32 : H5Type::kU16, dims, s.data);
    h5.attribute("dtype", name_of(s.dtype), name);
  }
  h5.finish();
}

// One step makes `ready` the directory `target`; what was there, if anything, is then under the name of `ready`.
void publish(const std::string& ready, const std::string& target) {
  if (!path_exists(target)) {
    rename_path(ready, target);
  } else if (!exchange_paths(ready, target)) {
    const std::string old = parent_directory(target) + "/.tmp-old-" + unique_suffix();
    rename_path(target, old);  // a file system that cannot exchange: for an instant there is no such step
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

}  // namespace

SavedCheckpoint save_checkpoint(const std::string& run_dir, std::int64_t step, const nlohmann::json& state,
                                const nlohmann::json& provenance, const std::vector<TensorSlice>& slices,
                                const KeepPolicy& keep, bool force) {
  Manifest m{.step = step, .nonce = unique_suffix(), .state = state, .provenance = provenance};
  std::vector<Placed> placed;
  m.tensors = describe(slices, placed);
  m.digest = m.digest_of_tensors();
  SavedCheckpoint saved{run_dir + "/" + step_name(step), m.digest, 0};
  for (const TensorSlice& s : slices) saved.bytes += static_cast<std::int64_t>(bytes_of(s));

  make_directories(run_dir);
  if (!already_there(saved.path, m, force)) {
    require_free_space(run_dir, saved.bytes);
    const TemporaryDirectory temporary(run_dir + "/.tmp-" + step_name(step) + "-" + unique_suffix());
    const std::string shard = temporary.path + "/" + kShardName;
    write_shard(shard, m, placed);
    m.files = {{kShardName, File::open(shard).size(), file_digest(shard)}};
    verify_slices(m, temporary.path);
    const std::string manifest = temporary.path + "/" + kManifestName;
    const std::string text = manifest_text(m);
    parse_manifest(text, manifest);  // what no reader would take is not published
    write_text_file(manifest, text);
    sync_directory(temporary.path);
    publish(temporary.path, saved.path);
  }
  replace_text_file(run_dir + "/latest", step_name(step) + "\n");
  remove_leftovers(run_dir);
  remove_old(run_dir, keep, step);
  return saved;
}

}  // namespace moe
