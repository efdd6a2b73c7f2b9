// Which files a test program opens, whoever opens them: this program and its libraries find these functions before those of
// the C library. Include it in one file of a program. Not here: files opened by other means (dlopen, the C library itself).
#pragma once

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdarg>
#include <string>
#include <vector>

namespace moe {

// Paths since the last clear().
inline std::vector<std::string>& opened_files() {
  static std::vector<std::string> paths;
  return paths;
}

inline int open_and_note(int directory, const char* path, int flags, va_list rest) {
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;
  opened_files().emplace_back(path);
  return static_cast<int>(::syscall(SYS_openat, directory, path, flags, mode));
}

}  // namespace moe

#define MOE_NOTED_OPEN(NAME)                                        \
  extern "C" int NAME(const char* path, int flags, ...) {           \
    va_list rest;                                                   \
    va_start(rest, flags);                                          \
    const int fd = moe::open_and_note(AT_FDCWD, path, flags, rest); \
    va_end(rest);                                                   \
    return fd;                                                      \
  }
MOE_NOTED_OPEN(open)
MOE_NOTED_OPEN(open64)
#undef MOE_NOTED_OPEN
