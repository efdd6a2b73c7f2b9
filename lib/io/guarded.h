// How the file layer makes a system call: a planned fault may come first, what a signal interrupted is tried again, and a
// failure becomes an Error that names the path. Only files.cpp and paths.cpp include this.
#pragma once

#include <cerrno>
#include <string>

#include "lib/base/error.h"
#include "lib/io/fault.h"

namespace moe {

// Throws Error(code): "<path>: <what>: <the system's words for error>", with a hint where there is one.
[[noreturn]] void fail(Exit code, const std::string& path, const std::string& what, int error);
// What a failure to make a file or directory is: 74 for a disk that is full, broken, read-only or gone, else 73.
Exit code_of_create(int error);

// rc of a system call that is tried again after EINTR; -1 and errno if a planned fault comes first. half(): what a planned
// short write does before it fails.
template <class Call, class Half>
auto guarded(const char* operation, const std::string& path, Call call, Half half) -> decltype(call()) {
  for (;;) {
    const Fault fault = planned_fault(operation, path);
    if (fault.part_of_it) half();
    errno = fault.error;
    const auto rc = fault.error != 0 ? -1 : call();
    if (rc >= 0 || errno != EINTR) return rc;
  }
}

template <class Call>
auto guarded(const char* operation, const std::string& path, Call call) -> decltype(call()) {
  return guarded(operation, path, call, [] {});
}

}  // namespace moe
