// The communication lane: a thread that runs tasks one after the other, in the order of their submission, while the caller
// computes. All communication of a rank goes through its lane, so every rank must submit the same collectives in the same
// order; that order is the proof that nothing waits for itself. This is how progress is real under MPI: the lane's thread
// is inside the collective, testing its messages, all the time; it sleeps between tests while the caller computes, and at
// first tests without pause when the caller waits. On a GPU the lane has a stream of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "kernels/device.h"
#include "lib/base/trace.h"

namespace moe {

// Seconds that tasks of one name took, and how much of it the caller stood waiting. On a GPU both are times of its streams:
// from where a task has what it waits for, and while the stream that computes had nothing to do because of the wait.
struct LaneTime {
  double busy = 0, exposed = 0;
};

class CommLane {
 public:
  using Ticket = std::uint64_t;

  // Without a thread every task runs inside submit(), for one process. Tasks and waits are spans of the trace, if there is
  // one.
  explicit CommLane(bool threaded, Trace* trace = nullptr);
  ~CommLane();
  CommLane(const CommLane&) = delete;
  CommLane& operator=(const CommLane&) = delete;

  bool threaded() const;
  // `name`: a string literal, the key of times(). `shown`: what the trace calls it, if not so; valid until the task has run.
  Ticket submit(const char* name, std::function<void()> task, TraceLabel shown = {nullptr});
  // Returns when that task and all before it are done. Throws what one of them threw; after that every wait throws it.
  void wait(Ticket ticket);
  void wait_all();
  // submit and wait
  void call(const char* name, std::function<void()> task) { wait(submit(name, std::move(task))); }
  // The same of a task that reads and writes memory of the host alone: it begins at once, whatever a GPU is at.
  void call_on_host(const char* name, std::function<void()> task);

  // On a GPU: a task sees what was in `compute` when it was submitted, and is done when `lane` has done what it put there.
  // `compute` is the stream of the thread that submits. nullptr, nullptr: no more.
  void follow(Stream* compute, Stream* lane);
  const Stream* followed_on() const;  // the lane's stream

  // Number of threads inside wait(): what polls may sleep while it is 0.
  const std::atomic<int>& num_waiting() const;
  // Since the last call; on a GPU of the waits that its stream has come past.
  std::map<std::string, LaneTime> take_times();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moe
