// The manifest of a checkpoint (man/moe-files.5): every file, every tensor, every slice, with digests, and the digest of
// itself. Reading checks everything that can be checked without opening a shard. Not here: the bytes of tensors
// (checkpoint.cpp).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/view.h"
#include "lib/io/box.h"

namespace moe {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kShardKind = "moe-shard";
inline constexpr int kCheckpointVersion = 1;

struct ManifestFile {
  std::string name;  // inside the directory of the checkpoint
  std::int64_t bytes = 0;
  std::string digest;  // XXH3-128 of the file
};

struct ManifestSlice {
  std::size_t file = 0;  // index into files
  std::string dataset;
  Box box;
  std::string digest;  // XXH3-128 of the elements in memory order, little-endian
};

struct ManifestTensor {
  std::string name, role;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::string digest;                 // ElementSum of all elements: the same however the tensor is cut
  std::vector<ManifestSlice> slices;  // disjoint, together all of the tensor

  std::string label() const { return name + " (" + role + ")"; }
  // What the digest is keyed with: "name\nrole\ndtype\n2,3,4".
  std::string identity() const;
  std::string coverage_fault() const;  // "" if the slices hold each element exactly once, else what is wrong
};

struct Manifest {
  std::int64_t step = 0;
  std::string nonce;   // of the save; every shard repeats it
  std::string digest;  // of all tensors
  std::vector<ManifestFile> files;
  std::vector<ManifestTensor> tensors;  // ordered by (name, role)
  nlohmann::json state, provenance;

  // XXH3-128 over identity, newline, digest, newline of each tensor, in order.
  std::string digest_of_tensors() const;
};

std::string manifest_text(const Manifest& manifest);
// Throws Error 65 saying what is wrong with `text`; `path` is for messages.
Manifest parse_manifest(const std::string& text, const std::string& path);
// 66 if there is none.
Manifest read_manifest(const std::string& directory);
// Error 66 listing all missing files, 65 for a wrong size.
void check_files(const Manifest& manifest, const std::string& directory);

// One tensor as the manifest spells it. parse_tensor throws Error 65; whether the slices cover the tensor is not looked at.
nlohmann::json tensor_json(const ManifestTensor& tensor);
ManifestTensor parse_tensor(const nlohmann::json& object, std::size_t num_files, const std::string& path);

// JSON of at most 256 MiB, nested at most 64 deep, valid UTF-8, without duplicate keys; else Error 65.
nlohmann::json parse_strict_json(const std::string& text, const std::string& path);

}  // namespace moe
