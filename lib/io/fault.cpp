#include "lib/io/fault.h"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <string>

#include "lib/base/error.h"

namespace moe {
namespace {

struct Plan {
  std::string text, operation;
  long at = 0, seen = 0;
  int error = 0;  // 0 = kill
};

// The value of key=value in a comma-separated text.
std::string value_of(const std::string& text, const std::string& key) {
  const std::string padded = "," + text + ",";
  const std::size_t at = padded.find("," + key + "=");
  if (at == std::string::npos) throw Error(Exit::kUsage, "MOE_FAULT: expected " + key + "=, found '" + text + "'");
  const std::size_t begin = at + key.size() + 2;
  return padded.substr(begin, padded.find(',', begin) - begin);
}

int error_of(const std::string& name) {
  if (name == "kill") return 0;
  if (name == "ENOSPC") return ENOSPC;
  if (name == "EIO") return EIO;
  if (name == "EDQUOT") return EDQUOT;
  if (name == "EROFS") return EROFS;
  throw Error(Exit::kUsage, "MOE_FAULT: expected err=ENOSPC, EIO, EDQUOT, EROFS or kill, found '" + name + "'");
}

Plan read_plan(const std::string& text) {
  return {text, value_of(text, "op"), std::atol(value_of(text, "n").c_str()), 0, error_of(value_of(text, "err"))};
}

}  // namespace

// The count is the only state, lives here, and starts anew whenever the variable changes: a forked test sets it first.
int planned_fault(const char* operation) {
  const char* text = std::getenv("MOE_FAULT");
  if (text == nullptr || *text == '\0') return 0;
  static std::mutex mutex;
  static Plan plan;
  const std::lock_guard lock(mutex);
  if (plan.text != text) plan = read_plan(text);
  if (plan.operation != "any" && plan.operation != operation) return 0;
  if (++plan.seen != plan.at) return 0;
  if (plan.error == 0) ::kill(::getpid(), SIGKILL);
  return plan.error;
}

}  // namespace moe
