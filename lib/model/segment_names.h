// What the trace calls the parts of a block's segments. Not here: what they do (block.h).
#pragma once

#include "lib/base/trace.h"
#include "lib/model/block.h"

namespace moe {

using SegmentPart = void (*)(const SegmentArgs&);

// `segment`: in kBlockSegments, `part`: one of its functions.
inline TraceLabel segment_label(std::size_t segment, SegmentPart part, int layer) {
  constexpr const char* kNames[4][5] = {{"pre forward", "pre backward input", "pre backward weight", "", ""},
                                        {"dispatch forward", "dispatch backward", "", "", ""},
                                        {"experts forward", "experts backward input", "experts backward weight",
                                         "shared experts forward", "shared experts backward input"},
                                        {"combine forward", "combine backward", "", "", ""}};
  const Segment& s = *kBlockSegments[segment];
  const SegmentPart parts[] = {s.forward, s.backward_input, s.backward_weight, s.forward_ahead, s.backward_input_ahead};
  std::size_t i = 0;
  while (i < 4 && parts[i] != part) ++i;
  return {kNames[segment][i], layer};
}

}  // namespace moe
