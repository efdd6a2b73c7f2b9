#include "lib/run/inspect.h"
namespace moe {
using P = const std::vector<std::string>&;
using C = const CommonOptions&;
static Exit none() { throw Error(Exit::kInternal, "this branch does not have it yet"); }
Exit list_checkpoints(P, C) { return none(); }
Exit show_checkpoint(P, C) { return none(); }
Exit verify_checkpoints(P, C) { return none(); }
Exit diff_checkpoints(P, C, std::int64_t) { return none(); }
Exit digest_checkpoints(P, C) { return none(); }
}  // namespace moe
