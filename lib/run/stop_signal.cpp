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

StopSignal::StopSignal() {
  num_received = 0;
  for (int s : kSignals) std::signal(s, on_signal);
}

StopSignal::~StopSignal() {
  for (int s : kSignals) std::signal(s, SIG_DFL);
}

bool StopSignal::received() { return num_received > 0; }
bool StopSignal::terminated() { return num_received > 0 && last_received == SIGTERM; }

}  // namespace moe
