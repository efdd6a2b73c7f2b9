#include "lib/run/stop_signal.h"

#include <unistd.h>

#include <csignal>

namespace moe {
namespace {

volatile std::sig_atomic_t num_received = 0, last_received = 0;  // a handler can reach nothing else

void on_signal(int number) {
  if (num_received > 0) _exit(128 + number);
  last_received = number;
  num_received = 1;
}

constexpr int kSignals[] = {SIGUSR1, SIGTERM, SIGINT};

}  // namespace

// On a stack of its own: code that a library generates may keep data below the stack pointer, further than the ABI lets it
// (oneDNN 2.6's sgemm does), and a handler on the same stack would write over it.
StopSignal::StopSignal() : stack_(kStackBytes) {
  num_received = 0;
  stack_t stack{};
  stack.ss_sp = stack_.data();
  stack.ss_size = stack_.size();
  sigaltstack(&stack, &old_stack_);  // of this thread, the main one: the kernel gives it the signals of the process
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK | SA_RESTART;
  for (int s : kSignals) sigaction(s, &action, nullptr);
}

StopSignal::~StopSignal() {
  for (int s : kSignals) std::signal(s, SIG_DFL);
  sigaltstack(&old_stack_, nullptr);
}

bool StopSignal::received() { return num_received > 0; }
bool StopSignal::terminated() { return num_received > 0 && last_received == SIGTERM; }

}  // namespace moe
