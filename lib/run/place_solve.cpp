#include "lib/run/place_solve.h"
namespace moe {
void add_place_solve_options(Options&, PlaceSolveOptions&) {}
Exit place_solve(const std::vector<std::string>&, const PlaceInputs&, const PlaceSolveOptions&, const CommonOptions&,
                 const Invocation&) {
  throw Error(Exit::kUsage, "solve: not built yet");
}
}  // namespace moe
