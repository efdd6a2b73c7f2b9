// Runs a function in a child process and catches what it prints, for tests of what a whole program does with its standard
// streams and its exit code. Linux only, like the tools.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <string>

#include "tests/tool_options.h"

namespace moe {

struct Ran {
  int code = -1;  // exit code, or -signal
  std::string out, err;
};

inline std::string contents(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline int exit_code(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// _exit: the child must not run the test program's own end.
[[noreturn]] inline void end_child(const std::function<int()>& body) {
  const int code = body();
  std::cout.flush();
  std::fflush(nullptr);
  _exit(code);
}

inline void send_to(int stream, const std::string& path) {
  const int file = open(path.c_str(), O_WRONLY);
  dup2(file, stream);
  close(file);
}

// Standard output goes to `out_path` if given, else into Ran::out.
inline Ran run_child(const std::function<int()>& body, const std::string& out_path = "") {
  const TextFile out(""), err("");
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    send_to(STDOUT_FILENO, out_path.empty() ? out.path() : out_path);
    send_to(STDERR_FILENO, err.path());
    end_child(body);
  }
  const int code = exit_code(child);
  return {code, contents(out.path()), contents(err.path())};
}

// Standard streams are a terminal; returns all that appeared on it.
inline std::string run_on_terminal(const std::function<int()>& body) {
  std::fflush(nullptr);
  int terminal = -1;
  const pid_t child = forkpty(&terminal, nullptr, nullptr, nullptr);
  if (child == 0) end_child(body);
  std::string seen;
  char bytes[512];
  for (ssize_t n; (n = read(terminal, bytes, sizeof bytes)) > 0;) seen.append(bytes, static_cast<std::size_t>(n));
  EXPECT_EQ(exit_code(child), 0);
  close(terminal);
  return seen;
}

}  // namespace moe
