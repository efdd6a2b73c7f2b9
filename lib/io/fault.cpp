#include "lib/io/fault.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "lib/base/error.h"
#include "lib/base/launcher.h"

namespace moe {
namespace {

enum class Effect { kError, kShort, kKill, kDelay, kCount };

struct Plan {
  std::string text;                  // as MOE_FAULT has it
  std::string operation, path, log;  // "": any, any, none
  long at = 0, seen = 0;
  bool lasting = false;  // n=17+
  std::optional<int> rank;
  Effect effect = Effect::kCount;
  int error = 0;
  std::chrono::milliseconds delay{0};
};

[[noreturn]] void refuse(const std::string& expected, const std::string& found) {
  throw Error(Exit::kUsage, "MOE_FAULT: expected " + expected + ", found '" + found + "'", "lib/io/files.h describes it");
}

long number_of(const std::string& text, const std::string& what) {
  long n = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || end != text.data() + text.size() || n < 0) refuse(what, text);
  return n;
}

void read_effect(const std::string& name, Plan& plan) {
  const std::map<std::string, int> errors = {{"ENOSPC", ENOSPC}, {"EIO", EIO},       {"EDQUOT", EDQUOT},
                                             {"EROFS", EROFS},   {"ESTALE", ESTALE}, {"EINTR", EINTR}};
  const std::map<std::string, Effect> others = {
      {"short", Effect::kShort}, {"kill", Effect::kKill}, {"count", Effect::kCount}};
  if (const auto e = errors.find(name); e != errors.end()) {
    plan.effect = Effect::kError;
    plan.error = e->second;
  } else if (const auto o = others.find(name); o != others.end()) {
    plan.effect = o->second;
    if (plan.effect == Effect::kShort) plan.error = ENOSPC;
  } else if (name.starts_with("delay:")) {
    plan.effect = Effect::kDelay;
    plan.delay = std::chrono::milliseconds(number_of(name.substr(6), "err=delay:MILLISECONDS"));
  } else {
    refuse("err=ENOSPC, EIO, EDQUOT, EROFS, ESTALE, EINTR, short, kill, delay:MS or count", name);
  }
}

void read_pair(const std::string& pair, Plan& plan) {
  const std::size_t equals = pair.find('=');
  const std::string key = pair.substr(0, equals), value = equals == std::string::npos ? "" : pair.substr(equals + 1);
  if (key == "op") {
    const char* const kinds[] = {"any",    "open",  "read", "write", "sync", "rename",
                                 "remove", "mkdir", "stat", "list",  "close"};
    if (std::find(std::begin(kinds), std::end(kinds), value) == std::end(kinds)) refuse("op= a kind of operation", value);
    plan.operation = value == "any" ? "" : value;
  } else if (key == "n") {
    plan.lasting = value.ends_with('+');
    plan.at = number_of(value.substr(0, value.size() - (plan.lasting ? 1 : 0)), "n= a number from 1");
  } else if (key == "err") {
    read_effect(value, plan);
  } else if (key == "rank") {
    plan.rank = static_cast<int>(number_of(value, "rank= a number from 0"));
  } else if (key == "path") {
    plan.path = value;
  } else if (key == "log") {
    plan.log = value;
  } else {
    refuse("op=, n=, err=, rank=, path= or log=", pair);
  }
}

Plan read_plan(const std::string& text) {
  Plan plan{.text = text};
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    read_pair(text.substr(begin, end - begin), plan);
    begin = end + 1;
  }
  if (text.find("err=") == std::string::npos) refuse("err=", text);
  if (plan.effect != Effect::kCount && plan.at < 1) refuse("n= a number from 1", text);
  if (plan.effect == Effect::kShort && plan.operation != "write") refuse("op=write with err=short", text);
  return plan;
}

// -1 until it is set.
int& rank_of_thread() {
  thread_local int rank = -1;
  return rank;
}

int this_rank() { return rank_of_thread() >= 0 ? rank_of_thread() : std::max(0, launched_rank()); }

// One line, in one write, so that lines of several processes do not mix. Not through the layer that it watches.
void add_to_log(const Plan& plan, int rank, const char* operation, const std::string& path, bool strikes) {
  const int fd = ::open(plan.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) throw Error(Exit::kUsage, "MOE_FAULT: cannot write " + plan.log);
  const std::string line = std::to_string(rank) + " " + std::to_string(plan.seen) + " " + operation +
                           (strikes ? " strikes " : " passes ") + path + "\n";
  static_cast<void>(::write(fd, line.data(), line.size()) + 0);
  ::close(fd);
}

// True if the plan is about this operation and now.
bool strikes_now(Plan& plan, const char* operation, const std::string& path) {
  if (!plan.operation.empty() && plan.operation != operation) return false;
  if (path.find(plan.path) == std::string::npos) return false;
  const int rank = this_rank();
  if (plan.rank && *plan.rank != rank) return false;
  ++plan.seen;
  const bool strikes = plan.effect != Effect::kCount && (plan.lasting ? plan.seen >= plan.at : plan.seen == plan.at);
  if (!plan.log.empty()) add_to_log(plan, rank, operation, path, strikes);
  return strikes;
}

}  // namespace

void set_fault_rank(int rank) { rank_of_thread() = rank; }

// The count is the only state, lives here, and starts anew whenever the variable changes: a forked test sets it first.
Fault planned_fault(const char* operation, const std::string& path) {
  const char* text = std::getenv("MOE_FAULT");
  if (text == nullptr || *text == '\0') return {};
  static std::mutex mutex;
  static Plan plan;
  std::unique_lock lock(mutex);
  if (plan.text != text) plan = read_plan(text);
  if (!strikes_now(plan, operation, path)) return {};
  const Fault fault{plan.error, plan.effect == Effect::kShort};
  if (plan.effect == Effect::kKill) ::kill(::getpid(), SIGKILL);
  const std::chrono::milliseconds delay = plan.delay;
  lock.unlock();  // others go on meanwhile
  std::this_thread::sleep_for(delay);
  return fault;
}

}  // namespace moe
