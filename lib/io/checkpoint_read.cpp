#include "lib/io/checkpoint_read.h"

#include <algorithm>
#include <set>

#include "lib/base/error.h"
#include "lib/io/files.h"
#include "lib/io/verify.h"

namespace moe {
namespace {

using Key = std::pair<std::string, std::string>;

std::string shape_text(DType dtype, const std::vector<std::int64_t>& shape) {
  return std::string(name_of(dtype)) + " [" + joined(shape) + "]";
}

std::string listed(const char* what, const std::set<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text.empty() ? "" : std::string("; ") + what + ": " + text;
}

std::map<Key, std::size_t> index_of_tensors(const Manifest& m) {
  std::map<Key, std::size_t> index;
  for (std::size_t i = 0; i < m.tensors.size(); ++i) index[{m.tensors[i].name, m.tensors[i].role}] = i;
  return index;
}

constexpr std::int64_t kBlockBytes = std::int64_t{16} << 20;

}  // namespace

void check_names(const std::string& path, const Manifest& m, const std::vector<TensorSlice>& slices,
                 const std::vector<std::string>& roles_to_ignore) {
  const std::map<Key, std::size_t> tensors = index_of_tensors(m);
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
    if (t == tensors.end()) continue;
    const ManifestTensor& there = m.tensors[t->second];
    if (there.shape != s.shape || there.dtype != s.dtype)
      different.insert(label + " expected " + shape_text(s.dtype, s.shape) + ", found " +
                       shape_text(there.dtype, there.shape));
  }
  for (const ManifestTensor& t : m.tensors)
    if (!named.contains({t.name, t.role}) && !ignored(t.role)) unexpected.insert(t.label());
  if (missing.empty() && unexpected.empty() && different.empty()) return;
  throw Error(Exit::kBadInput,
              path + ": expected exactly the tensors of this model" + listed("missing", missing) +
                  listed("unexpected", unexpected) + listed("different", different),
              "the checkpoint is of another model or other options");
}

std::map<std::size_t, std::vector<Wanted>> wanted_boxes(const Manifest& m, const std::vector<TensorSlice>& slices) {
  const std::map<Key, std::size_t> tensors = index_of_tensors(m);
  std::map<std::size_t, std::vector<Wanted>> wanted;
  for (const TensorSlice& s : slices) {
    if (s.offset.size() != s.shape.size() || s.extent.size() != s.shape.size())
      throw Error(Exit::kInternal, "tensor " + s.name + " (" + s.role + "): a slice has another rank than its tensor");
    const auto t = tensors.find({s.name, s.role});
    if (t != tensors.end() && elements_of(s.extent) > 0) wanted[t->second].push_back({&s, {s.offset, s.extent}});
  }
  return wanted;
}

std::vector<Wanted*> sharing(std::vector<Wanted>& list, const Box& box) {
  std::vector<Wanted*> some;
  for (Wanted& w : list)
    if (boxes_meet(w.box, box)) some.push_back(&w);
  return some;
}

void give(const std::byte* elements, const Box& box, std::size_t element_bytes, Wanted& w) {
  copy_common(elements, box, static_cast<std::byte*>(w.slice->data), w.box, element_bytes);
  w.filled += elements_of(intersection(w.box, box).extent);
}

// The slice is read whole even if little of it is wanted: its digest is of all of it.
void fill_from_slice(const H5Reader& shard, const ManifestTensor& t, const ManifestSlice& s,
                     const std::vector<Wanted*>& wanted, const std::string& path) {
  Wanted& first = *wanted[0];
  if (wanted.size() == 1 && first.box.offset == s.box.offset && first.box.extent == s.box.extent) {
    read_slice(shard, t, s, path, first.slice->data);
    first.filled += elements_of(s.box.extent);
    return;
  }
  read_slice_in_blocks(shard, t, s, path, kBlockBytes, [&](const Box& block, const std::byte* elements) {
    for (Wanted* w : wanted)
      if (boxes_meet(w->box, block)) give(elements, block, size_of(t.dtype), *w);
  });
}

std::optional<Error> removed_while_reading(const Error& e, const std::string& directory) {
  if (e.code() != Exit::kNoInput || path_exists(directory + "/" + kManifestName)) return std::nullopt;
  return Error(Exit::kStoppedEarly, directory + ": the checkpoint was removed while reading",
               "a training run keeps its newest checkpoints only: read a newer one, or see --keep-last and --keep-every");
}

const H5Reader& ShardReader::open(std::size_t file) try {
  if (!shard_ || file != file_) {
    shard_.reset();
    shard_ = std::make_unique<H5Reader>(open_shard(manifest_, file, directory_));
    file_ = file;
  }
  return *shard_;
} catch (const Error& e) {
  if (const auto removed = removed_while_reading(e, directory_)) throw *removed;
  throw;
}

void check_filled(const Manifest& m, const std::map<std::size_t, std::vector<Wanted>>& wanted, const std::string& path) {
  for (const auto& [tensor, list] : wanted)
    for (const Wanted& w : list)
      if (const std::int64_t all = elements_of(w.box.extent); w.filled != all)
        throw Error(Exit::kBadInput, path + ": tensor " + m.tensors[tensor].label() + ", box at [" + joined(w.box.offset) +
                                         "]: expected " + std::to_string(all) + " elements, found " +
                                         std::to_string(w.filled));
}

}  // namespace moe
