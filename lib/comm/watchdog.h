// Ends what hangs. A thread (from start() on) looks at what this rank waits for; after `seconds` in one collective it prints
// one line (this rank and host, step, collective, and the ranks it waits for) and ends the process with exit code 124, which
// makes the launcher end the job. Ranks print in the order of their numbers, so that one line comes out. It also says, once,
// what this rank was waiting for when a SIGTERM of a dying job arrives.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace moe {

class Watchdog {
 public:
  struct Missing {
    int rank;  // of the whole job
    std::string name;
  };

  Watchdog();
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // seconds 0: off. `self`: "rank 3 (host h1)".
  void start(double seconds, const std::string& self, int rank);
  void set_step(std::int64_t step);
  std::int64_t step() const;  // -1: none was set
  // Asked for often, by the watchdog's thread: has this process been told to end (SIGTERM)? Before start(); what it looks at
  // outlives the watchdog.
  void watch_signal(std::function<bool()> signalled);
  // Called by communicators around every wait, one at a time. `pending` is asked for the peers that are missing, each once;
  // it is called by the watchdog's thread while the wait lasts. So is `ending`, after the line and before the process ends:
  // for what else there is to say and to close, within a second or so.
  void enter(const char* what, std::function<std::vector<Missing>()> pending, std::function<void()> ending = {});
  void leave();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moe
