// moe-place: where experts live: seen, planned, edited and proved.
#include "lib/run/place.h"
#include "tools/tool_main.h"

int main(int argc, char** argv) {
  moe::PlaceOptions place;
  moe::Options options = moe::place_options(place);
  return moe::tool_main(argc, argv, options, place.common,
                        [&](const moe::Invocation& invocation) { return moe::run_place(place, invocation); });
}
