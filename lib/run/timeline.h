// moe-train --trace: what every rank did in some steps, as one file that https://ui.perfetto.dev and chrome://tracing open.
// Rank 0 writes; the events of one rank after the other pass through it. Not here: how spans are collected
// (lib/base/trace.h), the text of the file (timeline_text.h). The decisions of routers are another thing (train_trace.h).
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "lib/base/error.h"
#include "lib/comm/clock_offset.h"
#include "lib/comm/world.h"
#include "lib/io/files.h"
#include "lib/run/step_range.h"

namespace moe {

struct TimelineOptions {
  std::string path;
  StepRange steps;  // the first step of this call is 1
  bool replace = false;
  std::size_t max_events = 0;  // of a rank; 0: max_timeline_events()
};

// Of each rank: so many that a viewer still opens the file.
std::size_t max_timeline_events(int num_ranks);

class Timeline {
 public:
  // Arms World::trace(). `about`: what the file says of itself (otherData). Error 73 on rank 0 alone: for World::agree.
  Timeline(World& world, TimelineOptions options, nlohmann::json about);
  ~Timeline();
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  // Collective calls. `step`: of this call, the one that comes now. Behind the last one of its steps the file is written; a
  // failure then is warned of, since the run is worth more, and thrown by finish().
  void before_step(std::int64_t step);
  void after_last_step();  // no step comes any more
  void finish() const;

 private:
  enum class Phase { kBefore, kCollecting, kOver };
  ClockOffset measure();
  void begin();
  void end();
  void write(const std::string& events, const TraceLog& log, std::int64_t error_ns);
  void guarded(const std::function<void()>& action);

  World& world_;
  TimelineOptions o_;
  nlohmann::json about_;
  std::optional<PendingFile> pending_;  // rank 0's
  Phase phase_ = Phase::kBefore;
  ClockOffset first_;
  std::optional<Error> failure_;  // rank 0's
};

}  // namespace moe
