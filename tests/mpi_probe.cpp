// A tool on the ranks of a job, driven by mpi_test.sh: it checks messages over MPI, fails in the ways that jobs fail, and
// times exchanges. Not a test by itself.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/comm/mesh.h"
#include "lib/comm/world.h"
#include "tools/tool_main.h"

namespace moe {
namespace {

enum class Probe { kMessages, kWhere, kAgreed, kThrow, kHang, kKill, kTask, kTime };

struct ProbeOptions {
  CommonOptions common;
  Probe probe = Probe::kMessages;
  int ranks_per_node = 0, rank = 0, value = 0;
  double watchdog = 0;
};

volatile std::sig_atomic_t terminated = 0;

void require(bool good, const char* what) {
  if (!good) throw std::runtime_error(std::string("wrong: ") + what);
}

std::vector<int> letter(int from, int to, int round) {
  std::vector<int> text(static_cast<std::size_t>((from * 5 + to * 3 + round) % 7 * 911));
  std::iota(text.begin(), text.end(), from * 1000 + to);
  return text;
}

// Uneven and empty messages between all pairs, two batches on their way at a time.
void check_messages(Comm& comm) {
  std::vector<std::vector<int>> out, in;
  std::vector<SendPiece> sends[2];
  std::vector<RecvPiece> receives[2];
  for (int round = 0; round < 2; ++round)
    for (int p = 0; p < comm.size(); ++p) {
      out.push_back(letter(comm.rank(), p, round));
      in.emplace_back(letter(p, comm.rank(), round).size(), -1);
      sends[round].push_back({p, out.back().data(), out.back().size() * sizeof(int)});
      receives[round].push_back({p, in.back().data(), in.back().size() * sizeof(int)});
    }
  const auto first = comm.start("messages", sends[0], receives[0]);
  comm.exchange("messages", sends[1], receives[1]);
  first->wait();
  for (int round = 0; round < 2; ++round)
    for (int p = 0; p < comm.size(); ++p)
      require(in[static_cast<std::size_t>(round * comm.size() + p)] == letter(p, comm.rank(), round), "messages");
}

void check_collectives(Comm& comm) {
  const int n = comm.size(), ranks = n * (n + 1) / 2;
  barrier(comm, "barrier");
  for (const std::size_t size : {0u, 1u, 7u, 10007u}) {
    std::vector<float> values(size, static_cast<float>(comm.rank() + 1));
    all_reduce_sum(comm, "sum", std::span(values));
    for (const float v : values) require(v == static_cast<float>(ranks), "sum");
  }
  std::int64_t largest = comm.rank();
  all_reduce_max(comm, "max", {&largest, 1});
  require(largest == n - 1, "maximum");
  int word = comm.rank() == n - 1 ? 77 : 0;
  broadcast(comm, "broadcast", std::as_writable_bytes(std::span(&word, 1)), n - 1);
  require(word == 77, "broadcast");
  const auto all = all_gather(comm, "gather", std::string(static_cast<std::size_t>(comm.rank()), 'x'));
  for (std::size_t r = 0; r < all.size(); ++r) require(all[r].size() == r, "gather");
}

void check_all(Comm& comm) {
  check_messages(comm);
  check_collectives(comm);
  const auto part = comm.split(comm.rank() % 2, -comm.rank());
  require(part->size() == (comm.size() + 1 - comm.rank() % 2) / 2, "split");
  require(part->name_of(part->rank()) == comm.name_of(comm.rank()), "name");
  check_messages(*part);
  check_collectives(*part);
}

Exit messages(World& world) {
  world.lane().call("messages", [&] { check_all(world.comm()); });
  {
    const MeshComms comms = [&] {
      MeshComms made;
      world.lane().call("split", [&] { made = split_mesh(world.comm(), {1, 1, world.size()}); });
      return made;
    }();
    world.lane().call("messages", [&] { check_messages(*comms.ep); });
  }  // ends on this thread, which makes no MPI calls
  if (world.rank() == 0) std::puts("messages ok");
  return Exit::kOk;
}

Exit where(World& world, int threads) {
  std::vector<std::string> all;
  const std::string mine = std::to_string(threads);
  world.lane().call("where", [&] { all = all_gather(world.comm(), "where", mine); });
  std::printf("nodes");
  for (const int node : world.rank2node()) std::printf(" %d", node);
  std::printf("\nthreads");
  for (const std::string& t : all) std::printf(" %s", t.c_str());
  std::printf("\n");
  return Exit::kOk;
}

// Rounds of a barrier, in which one rank does what it is told in step 3.
void steps_with(World& world, int rank, const std::function<void()>& deed) {
  for (int step = 0; step < 6; ++step) {
    world.watchdog().set_step(step);
    if (step == 3 && world.rank() == rank) deed();
    world.lane().call("step", [&] { check_messages(world.comm()); });
  }
}

// GB/s of one direction and microseconds a message in a ring of ranks; with the caller waiting or (asleep) elsewhere.
void time_size(World& world, std::size_t bytes, bool waiting) {
  std::vector<char> out(bytes, 'a'), in(bytes, 'b');
  const int n = world.size(), next = (world.rank() + 1) % n, before = (world.rank() + n - 1) % n;
  const SendPiece send{next, out.data(), bytes};
  const RecvPiece receive{before, in.data(), bytes};
  const int rounds = static_cast<int>(std::clamp<std::size_t>((std::size_t{1} << 24) / bytes, 2, 100));
  double best = 1e9;  // mean of a group of rounds; the best group is the one that nobody disturbed
  const auto ticket = world.lane().submit("time", [&] {
    for (int group = 0; group < 10; ++group) {
      barrier(world.comm(), "time");
      const Stopwatch watch;
      for (int i = 0; i < rounds; ++i) world.comm().exchange("time", {&send, 1}, {&receive, 1});
      best = std::min(best, watch.seconds() / rounds);
    }
  });
  if (!waiting) std::this_thread::sleep_for(std::chrono::milliseconds(500));
  world.lane().wait(ticket);
  if (world.rank() == 0)
    std::printf("%10zu bytes, caller %s: %8.2f us, %7.3f GB/s\n", bytes, waiting ? "waits    " : "elsewhere", 1e6 * best,
                static_cast<double>(bytes) / best * 1e-9);
}

Exit time_exchanges(World& world) {
  const int rounds = 200;
  double best = 1e9;
  for (int group = 0; group < 20; ++group) {
    const Stopwatch watch;
    for (int i = 0; i < rounds; ++i) world.lane().call("empty", [] {});
    best = std::min(best, watch.seconds() / rounds);
  }
  if (world.rank() == 0) std::printf("empty task: %.2f us\n", 1e6 * best);
  for (const bool waiting : {true, false})
    for (const std::size_t bytes : {std::size_t{1} << 10, std::size_t{1} << 16, std::size_t{1} << 20, std::size_t{1} << 24})
      time_size(world, bytes, waiting);
  return Exit::kOk;
}

Exit run(const ProbeOptions& options, World& world) {
  std::signal(SIGTERM, [](int) { terminated = 1; });
  world.watchdog().watch_signal([] { return terminated != 0; });
  world.start_watchdog(options.watchdog);
  const bool me = world.rank() == options.rank;
  switch (options.probe) {
    case Probe::kMessages:
      return messages(world);
    case Probe::kWhere:
      return where(world, options.common.threads);
    case Probe::kAgreed:
      world.agree([&] {
        if (me) throw Error(Exit::kNoInput, "a.h5: not there", "look");
      });
      break;
    case Probe::kThrow:
      steps_with(world, options.rank, [] { throw Error(Exit::kBadInput, "b.h5: bad"); });
      break;
    case Probe::kHang:
      steps_with(world, options.rank, [] { std::this_thread::sleep_for(std::chrono::minutes(2)); });
      break;
    case Probe::kKill:
      steps_with(world, options.rank, [] { std::raise(SIGKILL); });
      break;
    case Probe::kTask:
      steps_with(world, options.rank,
                 [&] { world.lane().call("task", [] { throw Error(Exit::kNumeric, "c: not finite"); }); });
      break;
    case Probe::kTime:
      return time_exchanges(world);
  }
  return Exit::kOk;
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  moe::ProbeOptions probe;
  moe::Options options("mpi_probe", "tries what jobs of several ranks do", {"mpirun -n 2 mpi_probe messages"});
  options.add("probe", probe.probe, "what to try", {"messages", "where", "agreed", "throw", "hang", "kill", "task", "time"})
      .positional = true;
  options.add("ranks-per-node", probe.ranks_per_node, "declared nodes");
  options.add("rank", probe.rank, "the rank that misbehaves");
  options.add("value", probe.value, "must be the same on all ranks");
  options.add("watchdog", probe.watchdog, "seconds");
  moe::add_common_options(options, probe.common);
  return moe::parallel_tool_main(
      argc, argv, options, probe.common, [&] { return probe.ranks_per_node; },
      [&](const moe::Invocation&, moe::World& world) { return moe::run(probe, world); });
}
