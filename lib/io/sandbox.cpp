#include "lib/io/sandbox.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <vector>

#include "lib/base/error.h"

namespace moe {
namespace {

void limit(int resource, rlim_t value) {
  rlimit now{};
  if (::getrlimit(static_cast<__rlimit_resource_t>(resource), &now) != 0) return;
  now.rlim_cur = std::min(value, now.rlim_max);
  now.rlim_max = now.rlim_cur;
  ::setrlimit(static_cast<__rlimit_resource_t>(resource), &now);
}

std::int64_t mapped_bytes() {
  std::int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * ::sysconf(_SC_PAGESIZE);
}

// Programs, sockets, other processes and changes of the file system end with EPERM. Where the kernel has no filters the
// limits alone hold.
void forbid_calls() {
  const std::vector<int> calls = {SYS_execve,
                                  SYS_execveat,
                                  SYS_socket,
                                  SYS_connect,
                                  SYS_ptrace,
                                  SYS_kill,
                                  SYS_unlinkat,
                                  SYS_mkdirat,
                                  SYS_renameat2,
                                  SYS_linkat,
                                  SYS_symlinkat,
                                  SYS_fchmodat,
                                  SYS_fchownat,
                                  SYS_truncate,
                                  SYS_mount,
                                  SYS_process_vm_writev,
#ifdef SYS_unlink
                                  SYS_unlink,
                                  SYS_rmdir,
                                  SYS_mkdir,
                                  SYS_rename,
                                  SYS_link,
                                  SYS_symlink,
                                  SYS_chmod,
                                  SYS_chown
#endif
  };
  std::vector<sock_filter> program = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const int call : calls) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0) ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

// One letter, the exit code as a letter, and the text: what the child says through the pipe.
std::string spoken(const std::function<std::string()>& body) try { return "r" + body(); } catch (const Error& e) {
  return std::string("e") + static_cast<char>(e.code()) + e.what() + '\0' + e.hint();
} catch (const std::bad_alloc&) {
  return std::string("e") + static_cast<char>(Exit::kBadInput) + "expected to need less memory than the sandbox has" + '\0';
} catch (const std::exception& e) {
  return std::string("e") + static_cast<char>(Exit::kInternal) + e.what() + '\0';
}

[[noreturn]] void child(int pipe, const SandboxLimits& limits, const std::function<std::string()>& body) {
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGXCPU}) ::signal(signal, SIG_DFL);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_FSIZE, 0);
  limit(RLIMIT_AS, static_cast<rlim_t>(mapped_bytes() + limits.memory_bytes));
  limit(RLIMIT_CPU, static_cast<rlim_t>(limits.cpu_seconds));
  forbid_calls();
  const std::string text = spoken(body);
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t n = ::write(pipe, text.data() + at, text.size() - at);
    if (n < 0 && errno != EINTR) ::_exit(1);
    at += n < 0 ? 0 : static_cast<std::size_t>(n);
  }
  ::_exit(0);  // the end of the program is the parent's
}

std::string all_of(int pipe) {
  std::string text;
  char bytes[4096];
  for (ssize_t n = 0; (n = ::read(pipe, bytes, sizeof bytes)) > 0 || (n < 0 && errno == EINTR);)
    if (n > 0) text.append(bytes, static_cast<std::size_t>(n));
  return text;
}

}  // namespace

std::string run_in_sandbox(const SandboxLimits& limits, const std::function<std::string()>& body) {
  int ends[2];
  if (::pipe(ends) != 0) throw Error(Exit::kUnavailable, std::string("sandbox: no pipe: ") + std::strerror(errno));
  const pid_t pid = ::fork();
  if (pid < 0) throw Error(Exit::kUnavailable, std::string("sandbox: no process: ") + std::strerror(errno));
  if (pid == 0) {
    ::close(ends[0]);
    child(ends[1], limits, body);
  }
  ::close(ends[1]);
  const std::string text = all_of(ends[0]);
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || text.empty())
    throw Error(Exit::kBadInput,
                "sandbox: expected to read the files, found a crash of the reader" +
                    (WIFSIGNALED(status) ? std::string(" (") + ::strsignal(WTERMSIG(status)) + ")" : ""),
                "these files are damaged or made to do harm: use others");
  if (text[0] == 'r') return text.substr(1);
  const std::size_t zero = text.find('\0', 2);
  throw Error(static_cast<Exit>(static_cast<unsigned char>(text[1])), text.substr(2, zero - 2), text.substr(zero + 1));
}

}  // namespace moe
