// Which checkpoint a run goes on from, and what changes with it. All ranks call. Not here: loading (mesh_load.h), the choice
// before MPI starts, of which this is given the result (train_options.h).
#pragma once

#include "lib/run/train_state.h"

namespace moe {

// Loads options.resume_from into `model`, every slice checked against its digest. If it is damaged and was chosen from a
// run directory, the next newest complete one is taken, with a warning; resume_from is then that one; if options that nobody
// said differ between the two, that is refused (2). What differs between checkpoint and options is told, and refused where
// it must not (2, 65). Returns its counters.
RunCounters resume_on_mesh(Model& model, TrainOptions& options, const Options& given, const TokenFileInfo& data);

}  // namespace moe
