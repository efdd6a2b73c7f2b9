#include "lib/run/place_score.h"
namespace moe {
void add_place_score_options(Options&, PlaceScoreOptions&) {}
CostModel cost_model(const PlaceScoreOptions&) { return {}; }
Exit place_score(const std::string&, const PlaceInputs&, const PlaceScoreOptions&, const CommonOptions&, const Invocation&) {
  throw Error(Exit::kUsage, "score: not built yet");
}
}  // namespace moe
