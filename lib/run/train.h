// moe-train as a library call.
#pragma once

#include "lib/base/error.h"
#include "lib/comm/world.h"
#include "lib/run/train_options.h"

namespace moe {

// Trains as the options say, with all ranks of the world (each calls): kOk at the end of the schedule or the data,
// kStoppedEarly after a signal (with a saved checkpoint). Throws Error: data (65, 66), output (73, 74), not finite (76),
// usage (2).
Exit train(TrainOptions& options, const Invocation& invocation, World& world);

}  // namespace moe
