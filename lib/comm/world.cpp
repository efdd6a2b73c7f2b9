// Starting and ending, and who is where. What ranks agree on: world_agree.cpp.
#include "lib/comm/world.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <map>
#include <thread>

#include "lib/base/launcher.h"
#include "lib/comm/collectives.h"
#include "lib/comm/mesh.h"
#include "lib/comm/mpi_comm.h"
#include "lib/comm/self_comm.h"

namespace moe {
namespace {

std::string this_host() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 && name[0] ? name : "unknown";
}

// Processors that this process may use, one bit each, as bytes.
std::string processor_mask() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) CPU_SET(0, &set);
  return {reinterpret_cast<const char*>(&set), sizeof set};
}

bool share_a_bit(const std::string& a, const std::string& b) {
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    if (a[i] & b[i]) return true;
  return false;
}

int num_bits(const std::string& mask) {
  int num = 0;
  for (const char c : mask) num += __builtin_popcount(static_cast<unsigned char>(c));
  return num;
}

// Processors of `rank`, divided by the ranks of its machine that may use one of them.
int fair_threads(const std::vector<std::string>& masks, const std::vector<int>& rank2host, std::size_t rank) {
  int num_sharing = 0;
  for (std::size_t r = 0; r < masks.size(); ++r)
    num_sharing += rank2host[r] == rank2host[rank] && (r == rank || share_a_bit(masks[r], masks[rank]));
  return std::max(1, num_bits(masks[rank]) / num_sharing);
}

// Any numbers -> 0, 1, ... in the order in which they come.
std::vector<int> renumbered(const std::vector<int>& numbers) {
  std::map<int, int> seen;
  std::vector<int> renumbered;
  for (const int n : numbers) renumbered.push_back(seen.try_emplace(n, static_cast<int>(seen.size())).first->second);
  return renumbered;
}

}  // namespace

struct World::State {
  explicit State(bool threaded) : lane(threaded, &trace), waits{lane.num_waiting(), watchdog} {}

  Watchdog watchdog;
  Trace trace;
  CommLane lane;
  MpiWaits waits;
  bool has_mpi = false;
  std::unique_ptr<Comm> comm;
  std::vector<int> rank2node;
  std::vector<std::string> hosts;
  int num_threads = 1;

  void know_threads(const std::vector<int>& rank2host) {
    lane.call("start", [&] {
      const auto masks = all_gather(*comm, "start", processor_mask());
      num_threads = fair_threads(masks, rank2host, static_cast<std::size_t>(comm->rank()));
    });
  }
};

World::World() : World(make_self_comm(this_host()), {0}) {}

World::World(std::unique_ptr<Comm> comm, std::vector<int> rank2node) : state_(std::make_unique<State>(comm->size() > 1)) {
  state_->hosts.assign(rank2node.size(), this_host());
  state_->rank2node = renumbered(rank2node);
  state_->comm = std::move(comm);
  state_->know_threads(std::vector<int>(rank2node.size(), 0));
}

// After a failure the lane passes its tasks over: MPI is not ended then, and the launcher says so.
World::~World() {
  try {
    state_->lane.call("end", [s = state_.get()] {
      s->comm.reset();
      if (s->has_mpi) mpi_end();
    });
  } catch (...) {
  }
}

std::unique_ptr<World> World::start(int ranks_per_node) {
  if (!launched_by_mpi() || launched_size() == 1) return std::make_unique<World>();
  auto world = std::unique_ptr<World>(new World(std::make_unique<State>(true)));
  State& s = *world->state_;
  MpiWorld mpi;
  s.lane.call("start", [&] { mpi = mpi_start(s.waits); });
  s.has_mpi = true;
  s.comm = std::move(mpi.comm);
  s.hosts = std::move(mpi.hosts);
  s.rank2node = renumbered(ranks_per_node > 0 ? declared_nodes(s.comm->size(), ranks_per_node) : mpi.rank2host);
  s.know_threads(mpi.rank2host);
  return world;
}

World::World(std::unique_ptr<State> state) : state_(std::move(state)) {}

int World::rank() const { return state_->comm->rank(); }
int World::size() const { return state_->comm->size(); }
CommLane& World::lane() { return state_->lane; }
Comm& World::comm() { return *state_->comm; }
const std::vector<int>& World::rank2node() const { return state_->rank2node; }
int World::num_nodes() const { return 1 + *std::max_element(state_->rank2node.begin(), state_->rank2node.end()); }
std::string World::host() const { return state_->hosts[static_cast<std::size_t>(rank())]; }
std::vector<std::string> World::hosts() const { return state_->hosts; }

int World::ranks_per_node() const {
  std::vector<int> num_of(static_cast<std::size_t>(num_nodes()));
  for (const int node : state_->rank2node) ++num_of[static_cast<std::size_t>(node)];
  return *std::max_element(num_of.begin(), num_of.end());
}

int World::default_threads() const { return state_->num_threads; }
Watchdog& World::watchdog() { return state_->watchdog; }
Trace& World::trace() { return state_->trace; }

void World::start_watchdog(double seconds) {
  if (!alone()) state_->watchdog.start(seconds, state_->comm->name_of(rank()), rank());
}

// The lane's thread calls MPI_Abort, from within its wait if it waits. If it does not come to that, this thread does.
void World::abort(int code) {
  std::fflush(nullptr);
  if (!state_->has_mpi) _exit(code);
  state_->waits.abort_code = code;
  state_->lane.submit("abort", [code] { mpi_abort(code); });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  mpi_abort(code);
}

}  // namespace moe
