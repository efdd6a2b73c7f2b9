// Who writes a run directory: the file `lock` in it, made by the first process of a job and removed at its end. It says
// host, process and start, and a thread renews it, so that a second job is refused and a job that died is followed. Not
// here: locks of the file system, which many shared file systems do not have.
#pragma once

#include <memory>
#include <string>

namespace moe {

class RunLock {
 public:
  // Error 73 naming the holder, unless it is gone: its process on this host lives no more, or it has not renewed the lock
  // for stale_seconds. Waits wait_seconds for one that is ending.
  explicit RunLock(const std::string& run_dir, double wait_seconds = 2, double stale_seconds = 300,
                   double renew_seconds = 30);
  // Error 73 as above if somebody holds it: a look, before anything is read. Waits for one that is ending.
  static void refuse_held(const std::string& run_dir, double wait_seconds = 2, double stale_seconds = 300);
  RunLock(RunLock&&) noexcept;
  ~RunLock();  // removes the file, if it is still ours

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moe
