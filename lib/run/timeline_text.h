// The text of a timeline: Chrome's trace event format, one event a line. Not here: collecting and writing (timeline.h).
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "lib/base/trace.h"

namespace moe {

// What is in front of the events, and behind them; between two events is ",\n".
std::string timeline_head(const nlohmann::json& about);
inline constexpr const char* kTimelineTail = "\n]}\n";

// Perfetto takes process 0 and thread 0 for the idle ones of Linux, and a thread with its process's number for the main one.
inline int timeline_pid(int rank) { return rank + 1; }
inline int timeline_tid(int rank, TraceRow row) { return 10 * timeline_pid(rank) + static_cast<int>(row); }

// All events of a rank: process and rows by name (those of a GPU where it has spans), then the spans. to_ns: from the rank's
// clock to the time of the file, which must not run backwards.
std::string timeline_of_rank(int rank, const std::string& rank_name, const std::vector<TraceEvent>& events,
                             const std::function<std::int64_t(std::int64_t)>& to_ns);

}  // namespace moe
