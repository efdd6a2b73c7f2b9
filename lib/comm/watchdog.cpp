#include "lib/comm/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>

#include "lib/base/error.h"
#include "lib/base/log.h"

namespace moe {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kLook = std::chrono::milliseconds(50);
// The first rank that speaks ends the job. OpenMPI's mpirun takes one second to signal the others, so they speak later than
// rank 0 by more than that, and later than each other, in case rank 0 does not wait.
constexpr double kDelayOfOthers = 1.5, kDelayPerRank = 0.1;
constexpr int kMostDelays = 20;
// A wait that outlives a SIGTERM so long is one that will not end; launchers kill about a second after the signal.
constexpr double kAfterSignal = 0.3;
// A hang that the launcher is ending already (SIGTERM was seen) is left to it, for this long.
constexpr double kLeftToLauncher = 5;
constexpr std::size_t kMostNamed = 4;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string names_of(const std::vector<Watchdog::Missing>& missing) {
  std::string text;
  for (std::size_t i = 0; i < std::min(missing.size(), kMostNamed); ++i) text += (i ? ", " : "") + missing[i].name;
  if (missing.size() > kMostNamed) text += " and " + std::to_string(missing.size() - kMostNamed) + " more";
  return text.empty() ? "nobody" : text;
}

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g s", seconds);
  return text;
}

}  // namespace

struct Watchdog::State {
  std::mutex mutex;
  std::condition_variable wake;
  std::thread thread;
  bool stopping = false;

  double seconds = 0;
  std::string self;
  int rank = 0;
  std::int64_t step = -1;
  std::function<bool()> signalled;

  const char* what = nullptr;  // nullptr: not waiting
  std::function<std::vector<Missing>()> pending;
  std::function<void()> ending;
  Clock::time_point entered, told;  // told: when SIGTERM was seen first, in this wait
  bool was_told = false, spoke = false;

  // The lowest rank that is not itself missed speaks for all: one that misses all ranks below it.
  bool is_speaker(const std::vector<Missing>& missing) const {
    return std::count_if(missing.begin(), missing.end(), [this](const Missing& m) { return m.rank < rank; }) == rank;
  }

  double delay() const {
    if (rank == 0) return 0;
    return kDelayOfOthers * (is_speaker(pending()) ? 1 : 2) + kDelayPerRank * std::min(rank, kMostDelays);
  }

  std::string where() const {
    return self + (step >= 0 ? ", step " + std::to_string(step) : std::string()) + ", in " + what + ": ";
  }

  void end_process() const {
    log_error(where() + "waited " + seconds_text(seconds) + " for " + names_of(pending()) +
              "\n  hint: look at that rank first: it hangs, or waits for another in turn");
    if (ending) ending();
    std::fflush(nullptr);
    _exit(static_cast<int>(Exit::kWatchdog));
  }

  void speak_of_signal() {
    spoke = true;
    const std::vector<Missing> missing = pending();
    if (is_speaker(missing)) log_error(where() + "the job is being ended while this rank waits for " + names_of(missing));
  }

  void look() {
    if (!what) return;
    if (!was_told && signalled && signalled()) {
      was_told = true;
      told = Clock::now();
    }
    const double waited = seconds_since(entered);
    // After so long a wait the line of the watchdog is printed, by this rank or another.
    const bool ended_by_watchdog = seconds > 0 && waited >= seconds;
    if (ended_by_watchdog && waited >= seconds + delay() + (was_told ? kLeftToLauncher : 0)) end_process();
    if (was_told && !spoke && !ended_by_watchdog && seconds_since(told) >= kAfterSignal) speak_of_signal();
  }

  void run() {
    std::unique_lock lock(mutex);
    while (!stopping) {
      wake.wait_for(lock, kLook);
      look();
    }
  }
};

Watchdog::Watchdog() : state_(std::make_unique<State>()) {}

Watchdog::~Watchdog() {
  if (!state_->thread.joinable()) return;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_all();
  state_->thread.join();
}

void Watchdog::start(double seconds, const std::string& self, int rank) {
  const std::lock_guard lock(state_->mutex);
  state_->seconds = seconds;
  state_->self = self;
  state_->rank = rank;
  if (!state_->thread.joinable()) state_->thread = std::thread([s = state_.get()] { s->run(); });
}

void Watchdog::watch_signal(std::function<bool()> signalled) {
  const std::lock_guard lock(state_->mutex);
  state_->signalled = std::move(signalled);
}

void Watchdog::set_step(std::int64_t step) {
  const std::lock_guard lock(state_->mutex);
  state_->step = step;
}

std::int64_t Watchdog::step() const {
  const std::lock_guard lock(state_->mutex);
  return state_->step;
}

void Watchdog::enter(const char* what, std::function<std::vector<Missing>()> pending, std::function<void()> ending) {
  const std::lock_guard lock(state_->mutex);
  state_->what = what;
  state_->pending = std::move(pending);
  state_->ending = std::move(ending);
  state_->entered = Clock::now();
  state_->was_told = false;
}

void Watchdog::leave() {
  const std::lock_guard lock(state_->mutex);
  state_->what = nullptr;
}

}  // namespace moe
