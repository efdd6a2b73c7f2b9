#include "lib/run/place_edit.h"
namespace moe {
void add_place_edit_options(Options&, PlaceEditOptions&) {}
Exit place_edit(const std::string& command, const std::vector<std::string>&, const PlaceInputs&, const PlaceEditOptions&,
                const CommonOptions&, const Invocation&) {
  throw Error(Exit::kUsage, command + ": not built yet");
}
}  // namespace moe
