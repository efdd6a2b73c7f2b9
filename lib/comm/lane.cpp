#include "lib/comm/lane.h"

#include <cmath>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "lib/base/stopwatch.h"

namespace moe {
namespace {

constexpr std::size_t kMostUnread = 1000;  // waits whose marks were not read

struct Task {
  const char* name;
  std::function<void()> run;
  TraceLabel shown;
  Stream* on = nullptr;   // of the lane, on a GPU
  void* after = nullptr;  // a mark in the stream that computes
};

// The caller stood waiting between two marks in the stream that computes.
struct Stood {
  const char* name;
  const Device* device;
  TimeMark from, to;
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

  std::vector<Stood> stood;

  // Seconds of the task: on a GPU from where it sees what was in `compute` when it was submitted, which may be long after
  // the host began, until the lane's stream is done.
  double perform(const Task& task) {
    if (task.on) task.on->wait_mark(task.after);
    const TraceSpan span(trace, TraceRow::kCommunication, task.shown);
    const Stopwatch watch;
    if (!task.on) return task.run(), watch.seconds();
    const Device& device = task.on->device();
    const TimeMark from = task.on->time_mark();
    task.run();
    const TimeMark to = task.on->time_mark();
    task.on->synchronize();
    const double seconds = device.seconds_between(from, to);
    device.release_time_mark(from);
    device.release_time_mark(to);
    return seconds;
  }

  Ticket put(Task task) {
    if (!threaded()) {
      const TraceSpan wait(trace, TraceRow::kCompute, {.name = "wait", .of = task.name});
      const double seconds = perform(task);
      times[task.name].busy += seconds;
      times[task.name].exposed += seconds;
      return ++submitted;
    }
    const std::lock_guard lock(mutex);
    queue.push_back(std::move(task));
    work.notify_one();
    return ++submitted;
  }
  bool threaded() const { return thread.joinable(); }

  // Books what the device has come past. Under the mutex.
  void settle() {
    std::erase_if(stood, [this](const Stood& s) {
      const double seconds = s.device->seconds_between(s.from, s.to);
      if (std::isnan(seconds)) return false;
      times[s.name].exposed += seconds;
      s.device->release_time_mark(s.from);
      s.device->release_time_mark(s.to);
      return true;
    });
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
      double seconds = 0;
      std::exception_ptr thrown;
      if (!skip) try {
          seconds = perform(task);
        } catch (...) {
          thrown = std::current_exception();
        }
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

bool CommLane::threaded() const { return state_->threaded(); }

CommLane::Ticket CommLane::submit(const char* name, std::function<void()> task, TraceLabel shown) {
  if (!shown.name) shown.name = name;
  Stream* const on = state_->lane;
  return state_->put({name, std::move(task), shown, on, on ? state_->compute->mark() : nullptr});
}

void CommLane::call_on_host(const char* name, std::function<void()> task) {
  wait(state_->put({name, std::move(task), {name}}));
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
    const TimeMark from = s.compute ? s.compute->time_mark() : TimeMark{};
    s.done.wait(lock, [&] { return s.finished != before || s.failure; });
    if (s.stood.size() >= kMostUnread) s.settle();  // where nobody takes times
    if (s.compute)
      s.stood.push_back({name, &s.compute->device(), from, s.compute->time_mark()});
    else
      s.times[name].exposed += watch.seconds();
  }
  --s.num_waiting;
  if (s.failure) std::rethrow_exception(s.failure);
}

void CommLane::follow(Stream* compute, Stream* lane) {
  state_->compute = compute;
  state_->lane = lane;
  if (state_->trace) state_->trace->follow(compute, lane);
}

const Stream* CommLane::followed_on() const { return state_->lane; }

void CommLane::wait_all() { wait(state_->submitted); }

const std::atomic<int>& CommLane::num_waiting() const { return state_->num_waiting; }

std::map<std::string, LaneTime> CommLane::take_times() {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  s.settle();
  return std::exchange(s.times, {});
}

}  // namespace moe
