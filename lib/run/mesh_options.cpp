#include "lib/run/mesh_options.h"

#include <algorithm>
#include <cstdio>

#include "lib/base/error.h"
#include "lib/run/summary.h"

namespace moe {

void add_rank_options(Options& o, RankOptions& r) {
  o.group("Ranks");
  o.add("ep", r.ep, "ranks that share the experts of a layer (expert parallelism); 0 infers it from the number of ranks");
  o.add("shard", r.shard, "ranks that share weights, gradients and moments (ZeRO); 0 infers it");
  o.add("replicate", r.replicate, "copies of all that; 0 infers it. Ranks = replicate x shard x ep, ep fastest");
  o.add("zero", r.zero, "what is sharded: 1 masters and moments, 2 gradients too, 3 weights too");
  o.add(
      "dispatch", r.dispatch,
      "rows to their experts: straight to each rank, or once to each node and forwarded inside; auto takes two-level where "
      "several nodes have several ranks",
      {"auto", "flat", "two-level"});
  o.add("overlap", r.overlap, "communicate while computing: two halves of a micro-batch in turn", {"off", "on"});
  o.add("ranks-per-node", r.ranks_per_node, "declare nodes of so many neighbouring ranks; 0 asks MPI which share memory");
  o.add("watchdog", r.watchdog,
        "seconds that a rank may wait in one collective before the job is ended (124); 0 waits forever");
}

void check_rank_options(const Options& o, const RankOptions& r) {
  const auto need = [&](bool ok, const char* name, const char* expected) {
    if (!ok)
      throw Error(Exit::kUsage, std::string("--") + name + ": expected " + expected + ", found " + o.find(name).get());
  };
  need(r.ep >= 0, "ep", "at least 1, or 0 to infer it");
  need(r.shard >= 0, "shard", "at least 1, or 0 to infer it");
  need(r.replicate >= 0, "replicate", "at least 1, or 0 to infer it");
  need(r.zero >= 1 && r.zero <= 3, "zero", "1, 2 or 3");
  need(r.ranks_per_node >= 0, "ranks-per-node", "at least 0");
  need(r.watchdog >= 0, "watchdog", "at least 0 seconds");
}

MeshOptions choose_mesh(const RankOptions& r, const World& world, int num_experts, bool dry_run) {
  const MeshShape wanted{r.replicate, r.shard, r.ep};
  int num_ranks = world.size(), per_node = world.ranks_per_node();
  if (dry_run && world.alone()) {
    num_ranks = std::max(1, r.replicate) * std::max(1, r.shard) * std::max(1, r.ep);
    per_node = r.ranks_per_node > 0 ? std::min(r.ranks_per_node, num_ranks) : num_ranks;
  }
  return {.shape = infer_mesh(num_ranks, wanted, num_experts, per_node),
          .zero = r.zero,
          .dispatch = r.dispatch,
          .overlap = r.overlap == Overlap::kOn};
}

namespace {

// "0-3", "4", "none"; a linear map holds neighbours.
std::string experts_text(const std::vector<int>& experts) {
  if (experts.empty()) return "none";
  if (experts.size() == 1) return std::to_string(experts[0]);
  return std::to_string(experts.front()) + "-" + std::to_string(experts.back());
}

// "1 node", "2 nodes"
std::string count_of(int n, const std::string& noun) { return std::to_string(n) + " " + noun + (n == 1 ? "" : "s"); }

}  // namespace

RankHosts rank_hosts(const RankOptions& ranks, const World& world, const MeshShape& shape) {
  if (shape.size() == world.size()) return {world.rank2node(), world.hosts()};
  const int per_node = ranks.ranks_per_node > 0 ? ranks.ranks_per_node : shape.size();
  return {declared_nodes(shape.size(), per_node), {}};
}

std::string mesh_picture(const MeshOptions& mesh, const RankHosts& where, int num_experts,
                         const std::function<double(const MeshPlace&)>& bytes_of) {
  const auto& [rank2node, hosts] = where;
  constexpr int kMostLines = 24;
  const int n = mesh.shape.size();
  const ExpertMap experts = linear_expert_map(num_experts, mesh.shape.ep);
  std::string text = "mesh of " + count_of(n, "rank") + " on " +
                     std::to_string(1 + *std::max_element(rank2node.begin(), rank2node.end())) +
                     " nodes: " + mesh_text(mesh.shape) + ", ZeRO-" + std::to_string(mesh.zero) + "\n";
  char line[240];
  std::snprintf(line, sizeof line, "  %-6s %-6s %-16s %-9s %-5s %-4s %-12s %s\n", "rank", "node", "host", "replicate",
                "shard", "ep", "experts", "memory");
  text += line;
  int node = -1;
  for (int r = 0; r < n; ++r) {
    if (n > kMostLines && r == kMostLines / 2) {
      text += "  ... " + std::to_string(n - kMostLines) + " more ...\n";
      r = n - kMostLines / 2;
    }
    const auto i = static_cast<std::size_t>(r);
    const MeshPlace p = place_of(mesh.shape, r);
    const bool opens = rank2node[i] != node;
    node = rank2node[i];
    std::snprintf(line, sizeof line, "  %-6d %-6s %-16s %-9d %-5d %-4d %-12s %s\n", r,
                  opens ? std::to_string(node).c_str() : "|", opens && i < hosts.size() ? hosts[i].c_str() : "", p.replicate,
                  p.shard, p.ep, experts_text(experts.rank2experts[static_cast<std::size_t>(p.ep)]).c_str(),
                  bytes_text(bytes_of(p)).c_str());
    text += line;
  }
  text.pop_back();
  return text;
}

}  // namespace moe
