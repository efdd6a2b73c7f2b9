// How far two tensors of the same name are apart, however each is cut into files: read block by block, in bounded memory.
// Every element that is read also goes into the digest of its tensor, so what is compared is what was saved. Not here: which
// tensors, and what is printed (inspect_diff.cpp).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lib/io/files.h"
#include "lib/io/h5.h"
#include "lib/io/manifest.h"

namespace moe {

struct Difference {
  double largest = 0;                         // |a - b|
  double sum_dd = 0, sum_aa = 0, sum_bb = 0;  // of the squares of a - b, a, b
  std::int64_t num_different = 0, num_elements = 0;

  void add(const Difference& other);
  double norm() const;      // of a - b
  double relative() const;  // norm() / the larger norm of a and b; 0 if both are 0
};

struct TensorDifference {
  Difference all;
  std::vector<Difference> experts;  // by dimension 0; empty for tensors without experts
};

// Reads boxes of the tensors of one checkpoint. Shards are opened once and stay open.
class BoxReader {
 public:
  BoxReader(const Manifest& manifest, std::string directory) : manifest_(manifest), directory_(std::move(directory)) {}
  // The elements of `box`, which lies in the slice, as fp32. Adds their bits to `sum`.
  void read(const ManifestTensor& tensor, const ManifestSlice& slice, const Box& box, class ElementSum& sum, float* out);

 private:
  struct Shard {
    H5Reader h5;
    File file;
  };
  Shard& shard(std::size_t file);

  const Manifest& manifest_;
  std::string directory_;
  std::map<std::size_t, Shard> shards_;
  std::vector<std::byte> bits_;
};

// a and b have the same shape. Buffers take at most memory_bytes (one row of the last dimension at least). Error 65 if the
// elements of one do not have the digest of its manifest.
TensorDifference difference_of(BoxReader& reader_a, const ManifestTensor& a, BoxReader& reader_b, const ManifestTensor& b,
                               bool by_expert, std::int64_t memory_bytes);

}  // namespace moe
