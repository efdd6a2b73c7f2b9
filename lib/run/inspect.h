// moe-reshard ls, show, verify, diff and digest: what checkpoints hold, whether they are whole, how two differ. They read
// and change nothing. PATH is a checkpoint or a run directory (its newest complete checkpoint; `ls` lists all of a run).
// Results go to stdout, as JSON with --json. Not here: reading and checking one (lib/io/checkpoint.h, lib/io/verify.h).
#pragma once

#include <string>
#include <vector>

#include "lib/base/common_options.h"
#include "lib/base/error.h"

namespace moe {

// One line per checkpoint: step, tensors, bytes, files, layout, complete or what is wrong with it.
Exit list_checkpoints(const std::vector<std::string>& paths, const CommonOptions& common);
// Step, model, layout, data position, provenance chain, and a table of the tensors (experts folded into one line each).
Exit show_checkpoint(const std::vector<std::string>& paths, const CommonOptions& common);
struct VerifyOptions {
  bool all = false;      // every checkpoint of a run directory
  bool deep = false;     // also the digest of every tensor, from its elements
  bool sandbox = false;  // read in a child process with limits: a crash of a library is Error 65
};
// Sizes, file digests, every slice against its digest, finite, exact coverage, the digest of all; every fault is listed,
// then Exit::kCheckFailed (3). Of a run directory the one that `latest` names, and no other in its place, which is said; or all. On common.threads
// threads.
Exit verify_checkpoints(const std::vector<std::string>& paths, const CommonOptions& common, const VerifyOptions& options);
// Two checkpoints: options, counters, tensors that only one has; per tensor (and per expert where they differ) the largest
// difference, the norm of the difference and of both. kOk if they hold the same, else 3. Memory bounded by `memory_bytes`.
Exit diff_checkpoints(const std::vector<std::string>& paths, const CommonOptions& common, std::int64_t memory_bytes);
// "<digest>  <path>" per checkpoint: of the tensors, whatever their layout.
Exit digest_checkpoints(const std::vector<std::string>& paths, const CommonOptions& common);

}  // namespace moe
