#include "lib/run/place_show.h"
namespace moe {
void add_place_show_options(Options&, PlaceShowOptions&) {}
Exit place_show(const std::string&, const PlaceInputs&, const PlaceShowOptions&, const CommonOptions&, const Invocation&) {
  throw Error(Exit::kUsage, "show: not built yet");
}
}  // namespace moe
