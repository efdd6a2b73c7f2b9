#include "lib/run/timeline.h"

#include <algorithm>
#include <array>
#include <span>

#include "lib/base/log.h"
#include "lib/comm/collectives.h"
#include "lib/run/timeline_text.h"

namespace moe {
namespace {

constexpr std::size_t kMaxPerRank = 100'000, kMaxOfAll = 4'000'000, kMinPerRank = 1000;

// use(text) on rank 0 with the text of each rank in turn. For a task of the lane.
void each_text_at_first(Comm& comm, const std::string& mine, const std::function<void(const std::string&)>& use) {
  std::vector<std::int64_t> bytes(static_cast<std::size_t>(comm.size()));
  bytes[static_cast<std::size_t>(comm.rank())] = static_cast<std::int64_t>(mine.size());
  all_reduce_sum(comm, "timeline", std::span(bytes));
  if (comm.rank() == 0) use(mine);
  for (int r = 1; r < comm.size(); ++r) {
    std::string theirs(comm.rank() == 0 ? static_cast<std::size_t>(bytes[static_cast<std::size_t>(r)]) : 0, '\0');
    const SendPiece send{0, mine.data(), comm.rank() == r ? mine.size() : 0};
    const RecvPiece receive{r, theirs.data(), theirs.size()};
    comm.exchange("timeline", {&send, 1}, {&receive, 1});
    if (comm.rank() == 0) use(theirs);
  }
}

}  // namespace

std::size_t max_timeline_events(int num_ranks) {
  return std::clamp(kMaxOfAll / static_cast<std::size_t>(num_ranks), kMinPerRank, kMaxPerRank);
}

Timeline::Timeline(World& world, TimelineOptions options, nlohmann::json about)
    : world_(world), o_(std::move(options)), about_(std::move(about)) {
  if (o_.max_events == 0) o_.max_events = max_timeline_events(world.size());
  if (world.rank() == 0) pending_.emplace(o_.path, o_.replace);
  world.trace().arm(o_.max_events);
}

Timeline::~Timeline() {
  if (phase_ != Phase::kOver) world_.trace().disarm();
}

void Timeline::before_step(std::int64_t step) {
  if (phase_ == Phase::kCollecting && step > o_.steps.last) end();
  if (phase_ == Phase::kBefore && step >= o_.steps.first) begin();
}

void Timeline::after_last_step() {
  if (phase_ == Phase::kCollecting) end();
  if (phase_ == Phase::kBefore)
    log_warning(o_.path + ": not written, since this call made no step " + std::to_string(o_.steps.first));
}

ClockOffset Timeline::measure() {
  ClockOffset found;
  world_.lane().call("clock", [&] {
    found = measure_clock(world_.comm());
    barrier(world_.comm(), "clock");
  });
  return found;
}

void Timeline::begin() {
  first_ = measure();
  phase_ = Phase::kCollecting;
  world_.trace().begin();
}

void Timeline::end() {
  const TraceLog log = world_.trace().end();
  phase_ = Phase::kOver;
  const ClockOffset last = measure();
  const auto here = [&](std::int64_t ns) { return on_first_clock(ns, first_, last); };
  // The file begins where the first rank's window does.
  std::array<std::int64_t, 2> most = {-here(log.begin_ns), std::max(first_.error_ns, last.error_ns)};
  if (!world_.alone()) world_.lane().call("timeline", [&] { all_reduce_max(world_.comm(), "timeline", std::span(most)); });
  const std::string events = timeline_of_rank(world_.rank(), world_.comm().name_of(world_.rank()), log.events,
                                              [&](std::int64_t ns) { return here(ns) + most[0]; });
  write(events, log, most[1]);
  if (failure_)
    log_warning(std::string("the trace is not written: ") + failure_->what() +
                "; training goes on, and ends with exit code " + std::to_string(static_cast<int>(failure_->code())));
}

void Timeline::guarded(const std::function<void()>& action) {
  if (!failure_) try {
      action();
    } catch (const Error& e) {
      failure_ = e;
    }
}

// A rank 0 that cannot write takes what the others send all the same.
void Timeline::write(const std::string& events, const TraceLog& log, std::int64_t error_ns) {
  std::array<std::int64_t, 2> counts = {static_cast<std::int64_t>(log.events.size()), log.num_left_out};
  if (!world_.alone()) world_.lane().call("timeline", [&] { all_reduce_sum(world_.comm(), "timeline", std::span(counts)); });
  about_["num_events"] = counts[0];
  about_["num_left_out"] = counts[1];
  about_["clock_error_us"] = static_cast<double>(error_ns) * 1e-3;
  std::optional<File> file;
  std::int64_t at = 0;
  const auto put = [&](const std::string& text) {
    file->write_at(at, std::as_bytes(std::span(text)));
    at += static_cast<std::int64_t>(text.size());
  };
  const bool is_first = world_.rank() == 0;
  if (is_first)
    guarded([&] {
      file = File::create(pending_->temporary_path());
      put(timeline_head(about_));
    });
  bool between = false;
  world_.lane().call("timeline", [&] {
    each_text_at_first(world_.comm(), events, [&](const std::string& text) {
      guarded([&] { put((std::exchange(between, true) ? ",\n" : "") + text); });
    });
  });
  if (!is_first) return;
  guarded([&] {
    put(kTimelineTail);
    file->sync();
    file->close();
    pending_->commit();
    log_info("trace of " + std::to_string(counts[0]) + " events: " + o_.path);
    if (counts[1] > 0)
      log_warning(o_.path + ": " + std::to_string(counts[1]) + " events left out: a rank keeps its first " +
                  std::to_string(o_.max_events) + "; trace fewer steps");
  });
}

void Timeline::finish() const {
  world_.agree([&] {
    if (failure_) throw *failure_;
  });
}

}  // namespace moe
