#include "lib/run/reshard_layout.h"
namespace moe {
Exit reshard_layout(const LayoutOptions&, const CommonOptions&, const Invocation&, World&) {
  throw Error(Exit::kInternal, "this branch does not have it yet");
}
}  // namespace moe
