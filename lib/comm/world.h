// The ranks of this job, as tool_main starts them: one process without MPI, or all that mpirun or srun started. Owns the
// lane, the world's Comm, the knowledge of nodes, and the watchdog. All MPI calls are made by the lane's thread
// (MPI_THREAD_FUNNELED, and that thread is the one that initialises).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/trace.h"
#include "lib/comm/comm.h"
#include "lib/comm/lane.h"
#include "lib/comm/watchdog.h"

namespace moe {

class World {
 public:
  // One process: no MPI, no thread, a Comm of one rank.
  World();
  // Ranks that somebody else made (threads of a test); nodes: rank2node.
  World(std::unique_ptr<Comm> comm, std::vector<int> rank2node);
  ~World();  // ends MPI, if it was started
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // Starts MPI if a launcher started this process (its environment says so), else World(). ranks_per_node > 0 declares nodes
  // of so many consecutive ranks; 0 asks MPI which ranks share memory. Error(kUnavailable) if MPI cannot be started.
  static std::unique_ptr<World> start(int ranks_per_node);

  int rank() const;
  int size() const;
  bool alone() const { return size() == 1; }
  CommLane& lane();
  Comm& comm();                               // for tasks of the lane
  const std::vector<int>& rank2node() const;  // nodes are numbered by their lowest rank: 0, 1, ...
  int num_nodes() const;
  std::string host() const;                // of this rank
  std::vector<std::string> hosts() const;  // of all ranks
  int ranks_per_node() const;              // of the largest node
  // Threads for this rank if nobody chose: processors that it may use, shared with the ranks of its node that may use them
  // too.
  int default_threads() const;
  Watchdog& watchdog();
  Trace& trace();  // of this rank; off until somebody arms it
  // Starts the watchdog in the name of this rank; nothing in a job of one rank.
  void start_watchdog(double seconds);

  // Runs body and tells all ranks how it went: if it threw an Error on any rank, all throw AgreedError with the message of
  // the lowest such rank. Anything else that is thrown is not agreed on.
  void agree(const std::function<void()>& body);
  // Start-up handshake: `facts` are "key=value" lines (version, options). Error(kUsage) naming the ranks that differ from
  // rank 0, and the lines in which they do. A collective call.
  void require_same(const std::vector<std::string>& facts);

  // Ends the whole job at once with this exit code; does not return.
  [[noreturn]] void abort(int code);

 private:
  struct State;
  explicit World(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace moe
