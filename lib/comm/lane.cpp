#include "lib/comm/lane.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "lib/base/stopwatch.h"

namespace moe {
namespace {

struct Task {
  const char* name;
  std::function<void()> run;
  TraceLabel shown;
};

}  // namespace

struct CommLane::State {
  Trace* trace = nullptr;
  std::mutex mutex;
  std::condition_variable work, done;
  std::deque<Task> queue;
  Ticket submitted = 0, finished = 0;
  const char* running = "";
  std::exception_ptr failure;
  bool stopping = false;
  std::atomic<int> num_waiting{0};
  std::map<std::string, LaneTime> times;
  std::thread thread;
  Stream *compute = nullptr, *lane = nullptr;

  // The task between what it waits for and what waits for it, on a GPU.
  std::function<void()> in_order(std::function<void()> task) {
    if (!lane) return task;
    return [task = std::move(task), mark = compute->mark(), on = lane] {
      on->wait_mark(mark);
      task();
      on->synchronize();
    };
  }

  // A task after a failed one is passed over: its peers are not where it thinks they are.
  void run_all() {
    std::unique_lock lock(mutex);
    while (true) {
      work.wait(lock, [&] { return stopping || !queue.empty(); });
      if (queue.empty()) return;
      Task task = std::move(queue.front());
      queue.pop_front();
      running = task.name;
      const bool skip = failure != nullptr;
      lock.unlock();
      const Stopwatch watch;
      std::exception_ptr thrown;
      if (!skip) try {
          const TraceSpan span(trace, TraceRow::kCommunication, task.shown);
          task.run();
        } catch (...) {
          thrown = std::current_exception();
        }
      const double seconds = watch.seconds();
      task.run = nullptr;  // what it holds ends before its ticket is done, and outside the lock
      lock.lock();
      if (thrown) failure = thrown;
      times[task.name].busy += seconds;
      ++finished;
      done.notify_all();
    }
  }
};

CommLane::CommLane(bool threaded, Trace* trace) : state_(std::make_unique<State>()) {
  state_->trace = trace;
  if (threaded) state_->thread = std::thread([s = state_.get()] { s->run_all(); });
}

CommLane::~CommLane() {
  if (!threaded()) return;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->work.notify_all();
  state_->thread.join();
}

bool CommLane::threaded() const { return state_->thread.joinable(); }

CommLane::Ticket CommLane::submit(const char* name, std::function<void()> task, TraceLabel shown) {
  State& s = *state_;
  task = s.in_order(std::move(task));
  if (!shown.name) shown.name = name;
  if (!threaded()) {
    const TraceSpan wait(s.trace, TraceRow::kCompute, {.name = "wait", .of = name});
    const TraceSpan span(s.trace, TraceRow::kCommunication, shown);
    const Stopwatch watch;
    task();
    s.times[name].busy += watch.seconds();
    s.times[name].exposed += watch.seconds();
    return ++s.submitted;
  }
  const std::lock_guard lock(s.mutex);
  s.queue.push_back({name, std::move(task), shown});
  s.work.notify_one();
  return ++s.submitted;
}

// The wait is booked to the tasks that run meanwhile.
void CommLane::wait(Ticket ticket) {
  State& s = *state_;
  if (!threaded()) return;
  std::unique_lock lock(s.mutex);
  ++s.num_waiting;
  while (s.finished < ticket && !s.failure) {
    const Ticket before = s.finished;
    const char* name = s.queue.empty() || s.finished + s.queue.size() < s.submitted ? s.running : s.queue.front().name;
    const TraceSpan span(s.trace, TraceRow::kCompute, {.name = "wait", .of = name});
    const Stopwatch watch;
    s.done.wait(lock, [&] { return s.finished != before || s.failure; });
    s.times[name].exposed += watch.seconds();
  }
  --s.num_waiting;
  if (s.failure) std::rethrow_exception(s.failure);
}

void CommLane::follow(Stream* compute, Stream* lane) {
  state_->compute = compute;
  state_->lane = lane;
}

const Stream* CommLane::followed_on() const { return state_->lane; }

void CommLane::wait_all() { wait(state_->submitted); }

const std::atomic<int>& CommLane::num_waiting() const { return state_->num_waiting; }

std::map<std::string, LaneTime> CommLane::take_times() {
  const std::lock_guard lock(state_->mutex);
  return std::exchange(state_->times, {});
}

}  // namespace moe
