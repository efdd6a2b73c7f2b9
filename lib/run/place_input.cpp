#include "lib/run/place_input.h"

#include "lib/base/error.h"
namespace moe {
void add_place_inputs(Options&, PlaceInputs&) {}
Loads read_loads(const std::string&, std::int64_t, std::int64_t) { throw Error(Exit::kUsage, "not built yet"); }
Loads read_loads(const PlaceInputs&) { throw Error(Exit::kUsage, "not built yet"); }
void need_same_model(const Placement&, const std::string&, const Loads&) {}
}  // namespace moe
