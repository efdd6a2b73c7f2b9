#include "lib/io/run_lock.h"

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "lib/base/error.h"
#include "lib/base/log.h"
#include "lib/base/stopwatch.h"
#include "lib/io/files.h"

namespace moe {
namespace {

using nlohmann::json;
constexpr std::int64_t kLimitBytes = 65536;

std::string utc(std::int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::int64_t now() { return std::time(nullptr); }

std::string job_id() {
  for (const char* name : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"})
    if (const char* id = std::getenv(name)) return id;
  return "";
}

// "" if it cannot be read: it is being made or removed.
std::string text_of(const std::string& path) try { return read_text_file(path, kLimitBytes); } catch (const Error&) {
  return "";
}

std::string holder_text(const json& holder) {
  const std::string job = holder.value("job", "");
  return "host " + holder.value("host", "?") + ", process " + std::to_string(holder.value("pid", 0)) +
         (job.empty() ? "" : ", job " + job) + ", since " + holder.value("start", "?");
}

// An owner (HOST-PID-NONCE) of this host that does not live, or one that was not heard of for long.
bool is_gone(const json& holder, double stale_seconds) {
  if (owner_is_gone("-" + holder.value("owner", ""))) return true;
  return static_cast<double>(now() - holder.value("heartbeat", std::int64_t{0})) > stale_seconds;
}

}  // namespace

struct RunLock::State {
  std::string path;
  json content;
  std::mutex mutex;
  std::condition_variable wake;
  bool ending = false;
  std::thread thread;

  bool is_ours() const {
    const json there = json::parse(text_of(path), nullptr, false);
    return there.is_object() && there.value("owner", "") == content.at("owner");
  }

  // True if it is ours now.
  bool try_to_take(double stale_seconds, bool waited_long, std::string& holder) {
    try {
      write_text_file(path, content.dump() + "\n");
      return true;
    } catch (const Error& e) {
      if (e.code() != Exit::kCannotCreate || !path_exists(path)) throw;
    }
    // Not readable for long: its owner was killed between making and writing it.
    const json there = json::parse(text_of(path), nullptr, false);
    holder = there.is_object() ? holder_text(there) : "a lock that says nothing";
    if (there.is_object() ? !is_gone(there, stale_seconds) : !waited_long) return false;
    // Of several that see it gone one moves it away; who moved a younger one by mistake puts it back.
    const std::string away = parent_directory(path) + "/.tmp-lock-" + unique_suffix();
    try {
      rename_path(path, away);
    } catch (const Error&) {
      return false;
    }
    if (json::parse(text_of(away), nullptr, false) != there) {
      rename_path(away, path);
      return false;
    }
    remove_tree(away);
    log_warning(path + ": its holder is gone (" + holder + "): taken over");
    return false;  // and once more
  }

  void renew(double seconds) {
    std::unique_lock hold(mutex);
    while (!wake.wait_for(hold, std::chrono::duration<double>(seconds), [&] { return ending; })) try {
        if (!is_ours()) {
          log_warning(path + ": another job has taken this run directory over");
          return;
        }
        content["heartbeat"] = now();
        replace_text_file(path, content.dump() + "\n");
      } catch (const Error& e) {
        log_warning(std::string("the lock was not renewed: ") + e.what());
      }
  }
};

namespace {

constexpr std::chrono::milliseconds kLookAgain{50};

[[noreturn]] void refuse(const std::string& run_dir, const std::string& holder) {
  throw Error(Exit::kCannotCreate, run_dir + ": another job writes this run directory (" + holder + ")",
              "choose another --output; if that job is gone, remove " + run_dir + "/lock");
}

}  // namespace

void RunLock::refuse_held(const std::string& run_dir, double wait_seconds, double stale_seconds) {
  const std::string path = run_dir + "/lock";
  for (const Stopwatch watch; path_exists(path); std::this_thread::sleep_for(kLookAgain)) {
    const json there = json::parse(text_of(path), nullptr, false);
    if (there.is_object() && is_gone(there, stale_seconds)) return;
    if (watch.seconds() >= wait_seconds && there.is_object()) refuse(run_dir, holder_text(there));
    if (watch.seconds() >= wait_seconds) return;  // not readable for long: its owner was killed while it wrote it
  }
}

RunLock::RunLock(const std::string& run_dir, double wait_seconds, double stale_seconds, double renew_seconds)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  const std::string owner = unique_suffix();
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  s.path = run_dir + "/lock";
  s.content = {{"owner", owner},  {"host", host},        {"pid", ::getpid()},
               {"job", job_id()}, {"start", utc(now())}, {"heartbeat", now()}};
  std::string holder;
  const Stopwatch watch;
  while (!s.try_to_take(stale_seconds, watch.seconds() > wait_seconds / 2, holder)) {
    if (watch.seconds() >= wait_seconds) refuse(run_dir, holder);
    std::this_thread::sleep_for(kLookAgain);
  }
  s.thread = std::thread([&s, renew_seconds] { s.renew(renew_seconds); });
}

RunLock::RunLock(RunLock&&) noexcept = default;

RunLock::~RunLock() {
  if (!state_ || !state_->thread.joinable()) return;
  {
    const std::lock_guard hold(state_->mutex);
    state_->ending = true;
  }
  state_->wake.notify_all();
  state_->thread.join();
  if (state_->is_ours()) remove_tree(state_->path);
}

}  // namespace moe
