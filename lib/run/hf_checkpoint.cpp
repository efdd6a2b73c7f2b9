#include "lib/run/hf_checkpoint.h"
namespace moe {
Exit import_hf(const HfOptions&, const CommonOptions&, const Invocation&) { throw Error(Exit::kInternal, "this branch does not have it yet"); }
Exit export_hf(const HfOptions&, const CommonOptions&, const Invocation&) { throw Error(Exit::kInternal, "this branch does not have it yet"); }
}  // namespace moe
