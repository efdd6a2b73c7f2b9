#include "lib/run/mesh_options.h"

#include <algorithm>
#include <set>

#include "lib/base/byte_size.h"
#include "lib/base/error.h"
#include "lib/run/gpu_comm.h"
#include "lib/run/mesh_plan.h"
#include "lib/run/summary.h"

namespace moe {

void add_rank_options(Options& o, RankOptions& r) {
  o.group("Ranks");
  o.add("ep", r.ep, "ranks that share out the experts of each layer (expert parallelism); 0 infers it");
  o.add("shard", r.shard, "ranks that share out weights, gradients and moments (ZeRO); 0 infers it");
  o.add("replicate", r.replicate, "copies of all that; 0 infers it. Ranks of the job = replicate x shard x ep, ep fastest");
  o.add("plan", r.plan,
        "where experts live: a plan file of moe-place; none: in linear order; left out: as in the checkpoint if it is "
        "resumed on as many expert-parallel ranks. --max-nodes-per-token counts the plan's nodes: with it a plan changes "
        "which experts a token may choose")
      .value = "FILE|none";
  o.add("replica-choice", r.replica_choice,
        "copy of an expert that a token takes: the copies in turn, or the nearest (own rank, own node)",
        {"spread", "nearest"});
  o.add("zero", r.zero, "what is sharded: 1 masters and moments, 2 gradients too, 3 weights too");
  o.add("dispatch", r.dispatch,
        "how tokens reach experts: flat, to each rank; two-level, once to each node and on from there; auto takes "
        "two-level if several nodes have several ranks",
        {"auto", "flat", "two-level"});
  o.add("overlap", r.overlap,
        "communicate while computing; on: two halves of a micro-batch in turn as well; auto: the halves where rows of "
        "experts cross "
        "nodes (inside a node moving them is work for the same processors)",
        {"auto", "off", "on"});
  o.add("gpu-comm", r.gpu_comm,
        "how GPUs reach each other: nccl, or staged through memory of the host and MPI; auto takes nccl if it is there and "
        "every rank has a GPU of its own",
        {"auto", "nccl", "staged"});
  o.add("ranks-per-node", r.ranks_per_node, "declare nodes of so many neighbouring ranks; 0 asks MPI which share memory");
  o.add("watchdog", r.watchdog, "seconds that a rank may wait for others before the job ends (124); 0 waits forever");
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

// True if some expert-parallel group has ranks on several nodes.
static bool experts_cross_nodes(const MeshShape& shape, const std::vector<int>& rank2node) {
  for (std::size_t r = 0; r < rank2node.size(); ++r)
    if (rank2node[r] != rank2node[r - r % static_cast<std::size_t>(shape.ep)]) return true;
  return false;
}

// What --plan says; nothing said: without layers.
static Placement plan_wanted(const RankOptions& r, const ModelConfig& model) {
  return r.plan.empty() || r.plan == "none" ? Placement{} : plan_for_model(r.plan, model);
}

MeshOptions choose_mesh(const RankOptions& r, const World& world, const ModelConfig& model, bool dry_run) {
  Placement plan = plan_wanted(r, model);
  MeshShape wanted{r.replicate, r.shard, r.ep > 0 ? r.ep : plan.num_ranks()};
  int num_ranks = world.size(), per_node = world.ranks_per_node();
  if (dry_run && world.alone()) {
    num_ranks = std::max(1, r.replicate) * std::max(1, r.shard) * std::max(1, wanted.ep);
    per_node = r.ranks_per_node > 0 ? std::min(r.ranks_per_node, num_ranks) : num_ranks;
  }
  const bool wants_none = r.ep == 0 && r.shard == 0 && r.replicate == 0;
  const bool fits = r.resumed && r.resumed->size() == num_ranks && (wanted.ep == 0 || wanted.ep == r.resumed->ep);
  if (wants_none && fits) wanted = *r.resumed;
  MeshOptions mesh{.shape = infer_mesh(num_ranks, wanted, model.num_experts, per_node),
                   .zero = r.zero,
                   .dispatch = r.dispatch,
                   .overlap = r.overlap != Overlap::kOff,
                   .replica_choice = r.replica_choice,
                   .gpu_comm = r.gpu_comm};
  need_ranks_of_plan(plan, r.plan, mesh.shape);
  const bool keeps = r.plan.empty() && r.resumed_plan.num_ranks() == mesh.shape.ep;
  if (keeps) need_plan_of_model(r.resumed_plan, "the checkpoint", model);
  mesh.plan = keeps ? r.resumed_plan : std::move(plan);
  mesh.halves = r.overlap == Overlap::kOn || experts_cross_nodes(mesh.shape, rank_hosts(r, world, mesh.shape).rank2node);
  return mesh;
}

namespace {

// "0-3", "4", "none"; under a plan "4 a layer", "up to 5 a layer".
std::string experts_text(const ParamLayout& layout) {
  const auto& first = layout.layer2experts[0];
  if (layout.layer2experts.size() == 1) {
    if (first.empty()) return "none";
    const std::string id = std::to_string(first.front().id);
    return first.size() == 1 ? id : id + "-" + std::to_string(first.back().id);
  }
  const std::size_t most = layout.most_experts();
  const bool alike = std::all_of(layout.layer2experts.begin(), layout.layer2experts.end(),
                                 [most](const auto& experts) { return experts.empty() || experts.size() == most; });
  return (alike ? "" : "up to ") + std::to_string(most) + " a layer";
}

// "1 node", "2 nodes"
std::string count_of(int n, const std::string& noun) { return std::to_string(n) + " " + noun + (n == 1 ? "" : "s"); }

// Nodes of the ranks that exchange rows with rank `first` of their group.
int num_nodes_of_group(const MeshShape& shape, const std::vector<int>& rank2node, int first) {
  const auto begin = rank2node.begin() + first;
  return static_cast<int>(std::set<int>(begin, begin + shape.ep).size());
}

// ", dispatch two-level, overlap on"; what auto takes is said, unless it is not the same everywhere.
std::string dispatch_text(const MeshOptions& mesh, const std::vector<int>& rank2node) {
  const char* const kNames[] = {"auto", "flat", "two-level"};
  if (mesh.shape.ep == 1) return "";
  int num_two_level = 0;
  for (int r = 0; r < mesh.shape.size(); r += mesh.shape.ep) {
    const int nodes = num_nodes_of_group(mesh.shape, rank2node, r);
    num_two_level += nodes > 1 && nodes < mesh.shape.ep;
  }
  DispatchMode mode = mesh.dispatch;
  if (mode == DispatchMode::kAuto && num_two_level == 0) mode = DispatchMode::kFlat;
  if (mode == DispatchMode::kAuto && num_two_level == mesh.shape.replicate * mesh.shape.shard)
    mode = DispatchMode::kTwoLevel;
  return std::string(", dispatch ") + kNames[static_cast<int>(mode)] + ", overlap " + (mesh.overlap ? "on" : "off");
}

// Columns as wide as their widest cell; those without a cell below the heading are left out.
std::string aligned(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> width(rows[0].size());
  for (std::size_t i = 1; i < rows.size(); ++i)
    for (std::size_t c = 0; c < rows[i].size(); ++c)
      if (!rows[i][c].empty()) width[c] = std::max({width[c], rows[i][c].size(), rows[0][c].size()});
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c)
      if (width[c] > 0) line += "  " + row[c] + std::string(width[c] - row[c].size(), ' ');
    text += "\n" + line.substr(0, line.find_last_not_of(' ') + 1);
  }
  return text;
}

}  // namespace

RankHosts rank_hosts(const RankOptions& ranks, const World& world, const MeshShape& shape) {
  if (shape.size() == world.size()) return {world.rank2node(), world.hosts()};
  const int per_node = ranks.ranks_per_node > 0 ? ranks.ranks_per_node : shape.size();
  return {declared_nodes(shape.size(), per_node), {}};
}

std::string mesh_picture(const MeshOptions& mesh, const RankHosts& where, int num_experts,
                         const std::function<double(const MeshPlace&)>& bytes_of) {
  constexpr int kMostLines = 24;
  const auto& [rank2node, hosts] = where;
  const int n = mesh.shape.size(), num_nodes = 1 + *std::max_element(rank2node.begin(), rank2node.end());
  std::vector<std::vector<std::string>> rows = {{"node", "host", "rank", "replicate", "shard", "ep", "experts", "memory"}};
  int last_node = -1;
  for (int r = 0; r < n; ++r) {
    if (n > kMostLines && r == kMostLines / 2) {
      rows.push_back({"...", "", "...", "", "", "", "", ""});
      r = n - kMostLines / 2;
      last_node = -1;
    }
    const auto i = static_cast<std::size_t>(r);
    const MeshPlace p = place_of(mesh.shape, r);
    const bool opens = rank2node[i] != last_node;
    last_node = rank2node[i];
    rows.push_back({opens ? std::to_string(last_node) : "|", opens && i < hosts.size() ? hosts[i] : "", std::to_string(r),
                    std::to_string(p.replicate), std::to_string(p.shard), std::to_string(p.ep),
                    experts_text(layout_of(mesh, p, num_experts)), bytes_text(bytes_of(p))});
  }
  return "mesh of " + count_of(n, "rank") + " on " + count_of(num_nodes, "node") + ": " + mesh_text(mesh.shape) + ", ZeRO-" +
         std::to_string(mesh.zero) + dispatch_text(mesh, rank2node) + gpu_comm_text(mesh.gpu_comm) +
         (mesh.plan.layers.empty() ? "" : ", " + plan_text(mesh.plan)) + aligned(rows);
}

}  // namespace moe
