// The workloads of `moe-bench dispatch`: which experts the tokens of each rank choose. Pure functions of (seed, workload,
// rank, repetition), so that every rank can work out what every other sends. Names and kinds as Megatron-LM#7488 has them.
// Not here: recorded decisions (bench_replay.h), sending (bench_dispatch.cpp), what must arrive (bench_dispatch_check.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/comm/dispatch.h"

namespace moe {

enum class Workload : std::uint8_t {
  kBalanced,         // W0: every expert the same number of rows; each token's experts lie anywhere
  kHotExperts,       // W1: 3 of 4 choices fall on E/8 neighbouring experts
  kHotRank,          // W2: 3 of 4 choices fall on the experts of one rank
  kSpreadHot,        // W3: 3 of 4 choices fall on one expert of each rank
  kRagged,           // W4: rank r has a number of tokens that grows with r
  kEmptyRank,        // W5: the last rank has no token
  kRotatingHotspot,  // W6: the hot rank of W2 is another one in each repetition
  kBurst,            // W7: W2 in every fourth repetition, else W0
};
inline constexpr int kNumWorkloads = 8;
std::string name_of(Workload workload);  // "W0"
const char* description_of(Workload workload);

struct WorkloadShape {
  std::int64_t num_tokens = 0;  // of a rank; W4: on average
  int top_k = 1;
  int max_nodes = 0;  // that a token may choose experts on; 0: any number
  std::uint64_t seed = 0;
  int group = 0;               // of ranks that exchange among themselves: another one chooses otherwise
  ExpertMap map;               // of the ranks of the group
  std::vector<int> rank2node;  // of the group
};

// Which experts the tokens of each rank of a group choose, repetition by repetition.
class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual std::string name() const = 0;
  virtual std::string description() const = 0;
  virtual int num_ranks() const = 0;
  virtual std::int64_t num_tokens(int rank) const = 0;
  std::int64_t most_tokens() const;
  // Repetitions that differ by this number are the same.
  virtual int period() const = 0;
  // idx_N: top_k different experts of each token of `rank`; -1: none.
  virtual std::vector<std::int32_t> route(int rank, int repetition) const = 0;
  // The same as logical experts, where route() names slots that hold copies of them.
  virtual std::vector<std::int32_t> logical_route(int rank, int repetition) const { return route(rank, repetition); }
};

class WorkloadSource : public RowSource {
 public:
  // Error(kUsage) if top_k experts of a token do not fit the node limit.
  WorkloadSource(Workload workload, const WorkloadShape& shape);

  std::string name() const override { return name_of(workload_); }
  std::string description() const override { return description_of(workload_); }
  int num_ranks() const override { return static_cast<int>(shape_.rank2node.size()); }
  std::int64_t num_tokens(int rank) const override;
  int period() const override;
  std::vector<std::int32_t> route(int rank, int repetition) const override;

 private:
  std::vector<std::int32_t> hot_experts(int repetition) const;

  Workload workload_;
  WorkloadShape shape_;
};

// Rows of one dispatch that cross nodes, by node; those of the combine are the same the other way round.
struct NodeTraffic {
  explicit NodeTraffic(int num_nodes)
      : sent_n(static_cast<std::size_t>(num_nodes)), received_n(static_cast<std::size_t>(num_nodes)) {}
  std::vector<std::int64_t> sent_n, received_n;
  std::int64_t least = 0;  // distinct other nodes per token

  std::int64_t rows() const;     // all
  std::int64_t busiest() const;  // of the node that sends or receives most
};
// traffic (+=) the tokens of a rank on node `source_node`.
void add_node_traffic(const std::vector<std::int32_t>& idx_N, int top_k, int source_node, const ExpertMap& map,
                      const std::vector<int>& rank2node, DispatchMode mode, NodeTraffic& traffic);

}  // namespace moe
