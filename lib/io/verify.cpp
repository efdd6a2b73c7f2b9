#include "lib/io/verify.h"

#include <algorithm>
#include <optional>

#include "lib/base/error.h"
#include "lib/io/digest.h"
#include "lib/io/files.h"

namespace moe {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{1} << 20;  // stays in the cache between reading and hashing

std::string digest_of_range(const File& file, std::int64_t begin, std::int64_t end) {
  std::vector<std::byte> chunk(static_cast<std::size_t>(std::min(kChunkBytes, end - begin)));
  Xxh3 digest;
  for (std::int64_t at = begin; at < end; at += kChunkBytes) {
    const auto piece = std::span(chunk).first(static_cast<std::size_t>(std::min(kChunkBytes, end - at)));
    file.read_at(at, piece);
    digest.update(piece);
  }
  return digest.digest().hex();
}

[[noreturn]] void refuse_digest(const std::string& thing, const std::string& want, const std::string& found) {
  throw Error(Exit::kBadInput, thing + ": expected digest " + want + ", found " + found,
              "the file is damaged: use another checkpoint");
}

std::string label_of(const std::string& path, const ManifestTensor& t, const ManifestSlice& s) {
  return path + ": tensor " + t.label() + ", slice at [" + joined(s.box.offset) + "]";
}

}  // namespace

H5Dataset slice_dataset(const H5Reader& shard, const ManifestTensor& t, const ManifestSlice& s, const std::string& path) {
  const H5Dataset d = shard.dataset(s.dataset);
  const std::vector<std::int64_t> dims = s.box.extent.empty() ? std::vector<std::int64_t>{1} : s.box.extent;
  if (d.dims != dims)
    throw Error(Exit::kBadInput,
                label_of(path, t, s) + ": expected extents [" + joined(dims) + "], found [" + joined(d.dims) + "]");
  if (d.type != (t.dtype == DType::kF32 ? H5Type::kF32 : H5Type::kU16))
    throw Error(Exit::kBadInput,
                label_of(path, t, s) + ": expected elements of " + name_of(t.dtype) + ", found another type");
  return d;
}

std::string file_digest(const std::string& path) {
  const File file = File::open(path, Links::kRefuse);
  return digest_of_range(file, 0, file.size());
}

void verify_files(const Manifest& manifest, const std::string& directory) {
  check_files(manifest, directory);
  for (const ManifestFile& f : manifest.files)
    if (const std::string found = file_digest(directory + "/" + f.name); found != f.digest)
      refuse_digest(directory + "/" + f.name, f.digest, found);
}

std::vector<SliceBytes> slice_bytes(const Manifest& manifest, std::size_t file, const std::string& directory) {
  const std::string path = directory + "/" + manifest.files[file].name;
  const H5Reader shard = open_shard(manifest, file, directory);
  std::vector<SliceBytes> places;
  for (std::size_t i = 0; i < manifest.tensors.size(); ++i)
    for (std::size_t k = 0; k < manifest.tensors[i].slices.size(); ++k) {
      const ManifestTensor& t = manifest.tensors[i];
      const ManifestSlice& s = t.slices[k];
      if (s.file != file) continue;
      const H5Dataset d = slice_dataset(shard, t, s, path);
      places.push_back({d.file_offset, d.file_offset + d.bytes(), s.digest, label_of(path, t, s), i, k});
    }
  std::sort(places.begin(), places.end(), [](const SliceBytes& a, const SliceBytes& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < places.size(); ++i)
    if (places[i].begin < places[i - 1].end)
      throw Error(Exit::kBadInput, places[i].label + ": its bytes are those of another slice too", "the file is damaged");
  return places;
}

std::string verify_bytes(const std::string& path, const std::vector<SliceBytes>& slices, std::int64_t block_bytes) {
  const File file = File::open(path, Links::kRefuse);
  const std::int64_t size = file.size();
  std::vector<std::byte> block(static_cast<std::size_t>(std::min(block_bytes, size)));
  Xxh3 whole;
  std::optional<Xxh3> digest;
  std::size_t next = 0;  // the slice that is being read or comes next
  for (std::int64_t at = 0; at < size; at += block_bytes) {
    const std::int64_t end = std::min(at + block_bytes, size);
    const auto piece = std::span(block).first(static_cast<std::size_t>(end - at));
    file.read_at(at, piece);
    whole.update(piece);
    for (; next < slices.size() && slices[next].begin < end; ++next) {
      const SliceBytes& s = slices[next];
      const std::int64_t from = std::max(s.begin, at), to = std::min(s.end, end);
      if (!digest) digest.emplace();
      digest->update(piece.subspan(static_cast<std::size_t>(from - at), static_cast<std::size_t>(to - from)));
      if (s.end > end) break;
      if (const std::string found = digest->digest().hex(); found != s.digest) refuse_digest(s.label, s.digest, found);
      digest.reset();
    }
  }
  return whole.digest().hex();
}

void verify_slices(const Manifest& manifest, const std::string& directory) {
  for (std::size_t i = 0; i < manifest.files.size(); ++i)
    verify_bytes(directory + "/" + manifest.files[i].name, slice_bytes(manifest, i, directory), kChunkBytes);
}

H5Reader open_shard(const Manifest& manifest, std::size_t file, const std::string& directory) {
  const std::string path = directory + "/" + manifest.files[file].name;
  H5Reader shard(path, kShardKind, kCheckpointVersion, Links::kRefuse);
  if (const std::string nonce = shard.attribute_text("nonce"); nonce != manifest.nonce)
    throw Error(Exit::kBadInput, path + ": expected a file of save " + manifest.nonce + ", found one of save " + nonce,
                "files of two saves are mixed: use another checkpoint");
  return shard;
}

void read_slice(const H5Reader& shard, const ManifestTensor& tensor, const ManifestSlice& slice, const std::string& path,
                void* out) {
  const H5Dataset d = slice_dataset(shard, tensor, slice, path);
  const std::span to(static_cast<std::byte*>(out), static_cast<std::size_t>(d.bytes()));
  Xxh3 digest;
  for (std::int64_t at = 0; at < d.bytes(); at += kChunkBytes) {
    const auto piece =
        to.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(std::min(kChunkBytes, d.bytes() - at)));
    shard.read_bytes(d, at, piece);
    digest.update(piece);
  }
  if (const std::string found = digest.digest().hex(); found != slice.digest)
    refuse_digest(label_of(path, tensor, slice), slice.digest, found);
}

void read_slice_in_blocks(const H5Reader& shard, const ManifestTensor& tensor, const ManifestSlice& slice,
                          const std::string& path, std::int64_t block_bytes,
                          const std::function<void(const Box&, const std::byte*)>& take) {
  const H5Dataset d = slice_dataset(shard, tensor, slice, path);
  const std::int64_t row_bytes = d.bytes() / d.dims[0];
  const std::int64_t rows = std::clamp<std::int64_t>(block_bytes / row_bytes, 1, d.dims[0]);
  std::vector<std::byte> block(static_cast<std::size_t>(rows * row_bytes));
  Xxh3 digest;
  for (std::int64_t begin = 0; begin < d.dims[0]; begin += rows) {
    const std::int64_t count = std::min(rows, d.dims[0] - begin);
    shard.read_rows(slice.dataset, begin, count, block.data());
    digest.update(std::span(block).first(static_cast<std::size_t>(count * row_bytes)));
    Box box = slice.box;
    if (!box.extent.empty()) box.offset[0] += begin, box.extent[0] = count;  // else a scalar, stored as [1]
    take(box, block.data());
  }
  if (const std::string found = digest.digest().hex(); found != slice.digest)
    refuse_digest(label_of(path, tensor, slice), slice.digest, found);
}

}  // namespace moe
