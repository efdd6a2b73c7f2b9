// Everything that is wrong with a checkpoint, found in one pass over its bytes: each file is read once, in order, and its
// digest and those of its slices are taken from the same blocks while they are in the cache. Not here: stopping at the first
// fault (verify.h), what is printed (lib/run/inspect_verify.cpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moe {

struct Survey {
  std::int64_t step = -1, num_files = 0, num_tensors = 0, num_slices = 0;
  std::int64_t bytes = 0;           // that were read
  std::string digest;               // of all tensors, as the manifest says; "" if that cannot be read
  std::vector<std::string> faults;  // one line each, in the order of the files
};

// Manifest (its digest, coverage, the digest of all tensors), files (there, size, digest), slices (dataset, digest, finite).
// deep: also the digest of every tensor, from its elements; that takes several times as long as the rest. On so many
// threads, each with a file of its own. Error 66 if the directory is no checkpoint at all; what else is wrong is in the
// faults.
Survey survey_checkpoint(const std::string& directory, int threads, bool deep);

}  // namespace moe
