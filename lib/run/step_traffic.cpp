#include "lib/run/step_traffic.h"

#include <algorithm>
#include <map>
#include <set>

#include "lib/base/byte_size.h"
#include "lib/model/params.h"
#include "lib/run/global_batch.h"
#include "lib/run/row_traffic.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

using Ranks = std::vector<int>;  // of a group

// `bytes` sent in all within a group, evenly between all pairs.
SentBytes between_pairs(double bytes, const Ranks& group, const std::vector<int>& rank2node) {
  std::map<int, double> ranks_of_node;
  for (const int r : group) ++ranks_of_node[rank2node[static_cast<std::size_t>(r)]];
  const auto n = static_cast<double>(group.size());
  double same = 0;
  for (const auto& [node, count] : ranks_of_node) same += count * (count - 1);
  const double inside = n > 1 ? same / (n * (n - 1)) : 1;
  return {bytes * (1 - inside), bytes * inside};
}

// Ranks that differ in `side` alone, for each of the other places; the dense group is shard and ep together.
enum class Side : std::uint8_t { kDense, kExpert, kReplicate };
std::vector<Ranks> groups_of(const MeshShape& shape, Side side) {
  std::map<int, Ranks> key2ranks;
  for (int r = 0; r < shape.size(); ++r) {
    const MeshPlace p = place_of(shape, r);
    const int key = side == Side::kDense    ? p.replicate
                    : side == Side::kExpert ? p.replicate * shape.ep + p.ep
                                            : p.shard * shape.ep + p.ep;
    key2ranks[key].push_back(r);
  }
  std::vector<Ranks> groups;
  for (auto& [key, ranks] : key2ranks) groups.push_back(std::move(ranks));
  return groups;
}

// Elements of the units of one kind, block by block, and of the ends; all experts of a block together.
struct UnitSizes {
  std::vector<double> dense, experts;
  double embedding = 0, head = 0;

  explicit UnitSizes(const ModelConfig& c) : dense(static_cast<std::size_t>(c.num_blocks())) {
    std::map<int, double> layer2experts;
    for (const ParamSpec& spec : parameter_specs(c)) {
      const auto n = static_cast<double>(spec.num_elements());
      const int layer = spec.layer();
      if (layer < 0)
        (spec.is_input_embedding ? embedding : head) += n;
      else
        (spec.is_expert ? layer2experts[layer] : dense[static_cast<std::size_t>(layer)]) += n;
    }
    for (const auto& [layer, n] : layer2experts) experts.push_back(n);
  }
};

double sum(const std::vector<double>& sizes) {
  double all = 0;
  for (const double s : sizes) all += s;
  return all;
}

// Elements gathered in a step under ZeRO-3: every unit forward and backward, but for the two that are still there when the
// way turns round (UnitBuffers), at the end of each forward and between micro-batches.
double gathered_blocks(const std::vector<double>& sizes, int num_micro_batches) {
  const double all = sum(sizes);
  double first = 0, last = 0;
  for (std::size_t i = 0; i < std::min<std::size_t>(2, sizes.size()); ++i)
    first += sizes[i], last += sizes[sizes.size() - 1 - i];
  return all + num_micro_batches * (all - last) + (num_micro_batches - 1) * (all - first);
}

struct Elements {
  double dense = 0, expert = 0;
};
Elements gathered(const UnitSizes& units, bool tied, int zero, int num_micro_batches) {
  if (zero < 3) return {sum(units.dense) + units.embedding + units.head, sum(units.experts)};
  const double ends = (units.embedding + units.head) * (tied ? 1 : num_micro_batches);
  return {gathered_blocks(units.dense, num_micro_batches) + ends, gathered_blocks(units.experts, num_micro_batches)};
}
Elements reduced(const UnitSizes& units, bool tied, int zero, int num_micro_batches) {
  const int times = zero == 1 ? 1 : num_micro_batches, embedding = tied && zero > 1 ? 2 * times : times;
  return {times * (sum(units.dense) + units.head) + embedding * units.embedding, times * sum(units.experts)};
}

// Every rank of a group gets, or sends, all but its own shard: in all size - 1 times the whole. The experts are cut over the
// groups, which each have their part.
SentBytes over_shards(const Elements& n, double element_bytes, const MeshShape& shape, const std::vector<int>& rank2node) {
  SentBytes sent;
  for (const Ranks& g : groups_of(shape, Side::kDense))
    sent += between_pairs(n.dense * element_bytes * static_cast<double>(g.size() - 1), g, rank2node);
  for (const Ranks& g : groups_of(shape, Side::kExpert))
    sent += between_pairs(n.expert / shape.ep * element_bytes * static_cast<double>(g.size() - 1), g, rank2node);
  return sent;
}

// Parts summed by one replica each, then gathered by all.
SentBytes over_replicas(const UnitSizes& u, const MeshShape& shape, const std::vector<int>& rank2node) {
  const int num_shards = shape.shard * shape.ep;
  const double shard = (sum(u.dense) + u.embedding + u.head + sum(u.experts)) / num_shards;
  SentBytes sent;
  for (const Ranks& g : groups_of(shape, Side::kReplicate))
    sent += between_pairs(2 * 4 * shard * static_cast<double>(g.size() - 1), g, rank2node);
  return sent;
}

}  // namespace

SentBytes StepTraffic::total() const {
  SentBytes all;
  for (const SentBytes& s : {dispatch, combine, gather, reduce, replicas}) all += s;
  return all;
}

StepTraffic step_traffic(const TrainOptions& o, const MeshOptions& mesh, const std::vector<int>& rank2node) {
  const ModelConfig& c = o.model;
  StepTraffic t{.num_ranks = mesh.shape.size()};
  const int M = BatchCut{o.batch, o.micro_batch, o.seq, t.num_ranks}.num_micro_batches();
  const RowsPerToken rows = rows_per_token(c, mesh, rank2node);
  t.inter_rows_per_token = rows.inter, t.intra_rows_per_token = rows.intra;
  const double once =
      static_cast<double>(o.batch) * o.seq * c.d_model * static_cast<double>(size_of(o.dtype)) * c.num_moe_layers();
  // Backward sends the gradients of what came home out again, and those of what went out home. Recomputed blocks send their
  // rows out once more.
  const double out = o.recompute == Recompute::kFull ? 3 : 2;
  t.dispatch = {once * out * rows.inter, once * out * rows.intra};
  t.combine = {once * 2 * rows.inter, once * 2 * rows.intra};
  const UnitSizes units(c);
  t.gather = over_shards(gathered(units, c.tied_embeddings, mesh.zero, M), static_cast<double>(size_of(o.dtype)), mesh.shape,
                         rank2node);
  t.reduce = over_shards(reduced(units, c.tied_embeddings, mesh.zero, M), 4, mesh.shape, rank2node);
  t.replicas = over_replicas(units, mesh.shape, rank2node);
  return t;
}

namespace {

struct Line {
  const char *name, *key;
  SentBytes sent;
};
std::vector<Line> lines_of(const StepTraffic& t) {
  return {{"rows to experts", "dispatch", t.dispatch}, {"rows home", "combine", t.combine},  {"weights", "gather", t.gather},
          {"gradients", "reduce", t.reduce},           {"replicas", "replicas", t.replicas}, {"all", "total", t.total()}};
}

}  // namespace

std::string traffic_text(const StepTraffic& t) {
  TextTable table({"sent in a step", ">a rank, between nodes", ">inside", ">all ranks, between nodes", ">inside"});
  for (const Line& l : lines_of(t)) {
    if (l.sent.inter + l.sent.intra == 0) continue;
    table.add({l.name, bytes_text(l.sent.inter / t.num_ranks), bytes_text(l.sent.intra / t.num_ranks),
               bytes_text(l.sent.inter), bytes_text(l.sent.intra)});
  }
  char rows[160];
  std::snprintf(rows, sizeof rows, "rows of a token and layer: %.3f between nodes, %.3f inside (expected, even routing)",
                t.inter_rows_per_token, t.intra_rows_per_token);
  return table.text() + "  " + rows;
}

nlohmann::json traffic_json(const StepTraffic& t) {
  nlohmann::json json = {{"inter_node_rows_per_token", t.inter_rows_per_token},
                         {"intra_node_rows_per_token", t.intra_rows_per_token}};
  for (const Line& l : lines_of(t))
    json[l.key] = {{"inter_node_bytes", l.sent.inter},
                   {"intra_node_bytes", l.sent.intra},
                   {"inter_node_bytes_per_rank", l.sent.inter / t.num_ranks},
                   {"intra_node_bytes_per_rank", l.sent.intra / t.num_ranks}};
  return json;
}

}  // namespace moe
