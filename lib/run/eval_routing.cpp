#include "lib/run/eval_routing.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>

#include "lib/base/log.h"
#include "lib/base/provenance.h"
#include "lib/io/files.h"
#include "lib/io/routing_stats.h"
#include "lib/model/load_metrics.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/data_order.h"
#include "lib/run/result.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

std::span<const std::int64_t> layer_of(const std::vector<std::int64_t>& counts_LE, std::size_t layer, int num_experts) {
  const auto E = static_cast<std::size_t>(num_experts);
  return std::span(counts_LE).subspan(layer * E, E);
}

DataRouting sum_of(const std::vector<DataRouting>& sets) {
  DataRouting all = sets[0];
  for (double& e : all.entropy_L) e *= static_cast<double>(all.num_tokens);
  for (std::size_t d = 1; d < sets.size(); ++d) {
    const DataRouting& s = sets[d];
    const auto add = [](auto& to, const auto& from) {
      std::transform(to.begin(), to.end(), from.begin(), to.begin(), std::plus<>());
    };
    add(all.counts_LE, s.counts_LE);
    add(all.coactivation_LEE, s.coactivation_LEE);
    for (std::size_t l = 0; l < all.entropy_L.size(); ++l)
      all.entropy_L[l] += s.entropy_L[l] * static_cast<double>(s.num_tokens);
    all.num_tokens += s.num_tokens;
  }
  for (double& e : all.entropy_L) e /= static_cast<double>(all.num_tokens);
  return all;
}

// The two experts that tokens choose together most often, against two that have nothing to do with each other.
struct Pair {
  int a = 0, b = 0;
  double share = 0;  // of the tokens
  double lift = 0;   // times the share that independent choices of the same loads would give
};
Pair most_common_pair(const DataRouting& r, std::size_t layer, int E) {
  Pair best;
  const auto at = [&](int a, int b) {
    return static_cast<double>(r.coactivation_LEE[(layer * static_cast<std::size_t>(E) + static_cast<std::size_t>(a)) *
                                                      static_cast<std::size_t>(E) +
                                                  static_cast<std::size_t>(b)]);
  };
  const auto tokens = static_cast<double>(r.num_tokens);
  for (int a = 0; a < E; ++a)
    for (int b = a + 1; b < E; ++b)
      if (at(a, b) / tokens > best.share) best = {a, b, at(a, b) / tokens, at(a, b) * tokens / (at(a, a) * at(b, b))};
  return best;
}

// max / mean load, mean over layers.
double mean_imbalance(const DataRouting& r, std::size_t num_layers, int E) {
  double sum = 0;
  for (std::size_t l = 0; l < num_layers; ++l) sum += 1 + load_metrics(layer_of(r.counts_LE, l, E)).max_vio;
  return sum / static_cast<double>(num_layers);
}

std::string layers_table(const DataRouting& all, const RoutingShape& shape) {
  TextTable table(
      {"layer", ">max/mean", ">cv", ">dead", ">router entropy", ">most common pair", ">of tokens", ">times chance"});
  for (std::size_t l = 0; l < shape.layers.size(); ++l) {
    const LoadMetrics load = load_metrics(layer_of(all.counts_LE, l, shape.num_experts));
    const Pair pair = most_common_pair(all, l, shape.num_experts);
    const bool has_pair = pair.share > 0;
    table.add({std::to_string(shape.layers[l]), format_text("%.3f", 1 + load.max_vio), format_text("%.3f", load.cv),
               std::to_string(load.dead), format_text("%.3f", all.entropy_L[l]),
               has_pair ? std::to_string(pair.a) + "+" + std::to_string(pair.b) : "-",
               has_pair ? format_text("%.1f %%", 100 * pair.share) : "-", has_pair ? format_text("%.2f", pair.lift) : "-"});
  }
  return table.text();
}

// Rows of data sets, and their distances from those before.
std::string sets_table(const std::vector<DataRouting>& sets, const std::vector<std::string>& names,
                       const RoutingShape& shape) {
  std::vector<std::string> headings = {"data set", ">tokens", ">max/mean"};
  for (std::size_t d = 0; d + 1 < sets.size() && d < 8; ++d) headings.push_back(">from " + std::to_string(d + 1));
  TextTable table(headings);
  for (std::size_t d = 0; d < sets.size(); ++d) {
    std::vector<std::string> row = {std::to_string(d + 1) + " " + names[d], thousands(sets[d].num_tokens),
                                    format_text("%.3f", mean_imbalance(sets[d], shape.layers.size(), shape.num_experts))};
    for (std::size_t before = 0; row.size() < headings.size(); ++before)
      row.push_back(before < d ? format_text("%.3f", load_distance(sets[d], sets[before], shape.num_experts)) : "");
    table.add(row);
  }
  return table.text();
}

nlohmann::json layer_json(const DataRouting& r, const RoutingShape& shape, std::size_t l) {
  const auto counts = layer_of(r.counts_LE, l, shape.num_experts);
  const LoadMetrics load = load_metrics(counts);
  const Pair pair = most_common_pair(r, l, shape.num_experts);
  return {{"layer", shape.layers[l]},
          {"counts", std::vector<std::int64_t>(counts.begin(), counts.end())},
          {"max_over_mean", 1 + load.max_vio},
          {"cv", load.cv},
          {"dead", load.dead},
          {"router_entropy", r.entropy_L[l]},
          {"most_common_pair", {{"experts", {pair.a, pair.b}}, {"share", pair.share}, {"times_chance", pair.lift}}}};
}

nlohmann::json set_json(const DataRouting& r, const RoutingShape& shape) {
  nlohmann::json layers = nlohmann::json::array();
  for (std::size_t l = 0; l < shape.layers.size(); ++l) layers.push_back(layer_json(r, shape, l));
  const double max_vio = mean_imbalance(r, shape.layers.size(), shape.num_experts) - 1;
  return {{"tokens", r.num_tokens}, {"max_vio_global", max_vio}, {"layers", layers}};
}

std::vector<TokenSource> open_data(const EvalDataOptions& options, const EvalModel& model) {
  std::vector<TokenSource> sets;
  model.world().agree([&] {
    if (options.data.empty()) throw Error(Exit::kUsage, "--data: expected token files or texts, found none");
    for (const std::string& path : options.data) {
      sets.push_back(TokenSource::open(path));
      model.check_data(sets.back().info());
    }
    if (model.config().num_moe_layers() == 0)
      throw Error(Exit::kBadInput, model.info().path + ": expected a model with experts, found dense layers alone");
  });
  return sets;
}

// Rank 0's.
void write_routing(PendingFile& out, const std::vector<DataRouting>& sets, const RoutingShape& shape,
                   const nlohmann::json& provenance) {
  RoutingRecorder recorder(out.temporary_path(), shape, provenance);
  for (std::size_t d = 0; d < sets.size(); ++d) {
    recorder.add_step(static_cast<std::int64_t>(d) + 1, sets[d].counts_LE);
    recorder.add_coactivation(sets[d].coactivation_LEE);
  }
  recorder.save();
  out.commit();
}

}  // namespace

DataRouting route_data(EvalModel& model, const TokenSource& data, std::int64_t max_tokens) {
  const int seq = static_cast<int>(std::min<std::int64_t>(model.seq(), data.info().num_tokens - 1));
  const std::int64_t all = (data.info().num_tokens - 1) / seq;
  const std::int64_t wanted = max_tokens > 0 ? std::clamp<std::int64_t>(max_tokens / seq, 1, all) : all;
  Pass pass(model.model(), model.pass_options(wanted, seq), model.env());
  run_windows(
      pass, model.world(), {wanted, model.document_mask(), true},
      [&](std::int64_t w, auto id, auto target, auto doc_start) {
        fill_window(data, model.document_mask(), w * all / wanted * seq, id, target, doc_start);
      },
      [](const WindowBatch&) {});
  pass.pull_tallies();
  DataRouting r;
  r.num_tokens = wanted * seq;
  for (const int layer : model.model().moe_layers()) {
    const RoutingTally& tally = pass.tallies()[static_cast<std::size_t>(layer)];
    r.counts_LE.insert(r.counts_LE.end(), tally.counts_E.begin(), tally.counts_E.end());
    r.coactivation_LEE.insert(r.coactivation_LEE.end(), tally.coactivation_EE.begin(), tally.coactivation_EE.end());
    r.entropy_L.push_back(tally.entropy_sum / static_cast<double>(r.num_tokens));
  }
  if (model.world().alone()) return r;
  sum_over_ranks(model.world(), std::span<std::int64_t>(r.counts_LE));
  sum_over_ranks(model.world(), std::span<std::int64_t>(r.coactivation_LEE));
  sum_over_ranks(model.world(), std::span<double>(r.entropy_L));
  return r;
}

double load_distance(const DataRouting& a, const DataRouting& b, int num_experts) {
  const std::size_t L = a.counts_LE.size() / static_cast<std::size_t>(num_experts);
  double sum = 0;
  for (std::size_t l = 0; l < L; ++l) {
    const auto x = layer_of(a.counts_LE, l, num_experts), y = layer_of(b.counts_LE, l, num_experts);
    const auto x_all = static_cast<double>(std::accumulate(x.begin(), x.end(), std::int64_t{0}));
    const auto y_all = static_cast<double>(std::accumulate(y.begin(), y.end(), std::int64_t{0}));
    for (std::size_t e = 0; e < x.size(); ++e)
      sum += std::abs(static_cast<double>(x[e]) / x_all - static_cast<double>(y[e]) / y_all) / 2;
  }
  return sum / static_cast<double>(L);
}

Exit eval_routing(const std::string& path, const std::string& output, const EvalDataOptions& options,
                  const EvalModelOptions& model_options, const CommonOptions& common, const Invocation& invocation,
                  World& world, Env env) {
  std::optional<PendingFile> out;
  world.agree([&] {
    if (world.rank() == 0 && !output.empty()) out.emplace(output, common.force);
  });
  EvalModel model(path, model_options, world, env, INT_MAX);  // plans are for all of them
  const std::vector<TokenSource> data = open_data(options, model);
  std::vector<DataRouting> sets;
  for (const TokenSource& source : data) sets.push_back(route_data(model, source, options.max_tokens));
  const RoutingShape shape{model.model().moe_layers(), model.config().num_experts, model.config().top_k};
  world.agree([&] {
    if (world.rank() != 0) return;
    nlohmann::json json = {
        {"command", "routing"}, {"model", model.json()}, {"output", output}, {"data", nlohmann::json::array()}};
    std::vector<std::pair<std::string, std::string>> digests = {{model.info().path, model.info().digest}};
    for (std::size_t d = 0; d < sets.size(); ++d) {
      json["data"].push_back(data_json(data[d]));
      json["data"].back()["routing"] = set_json(sets[d], shape);
      digests.emplace_back(data[d].info().path, data[d].info().fingerprint);
    }
    json["all"] = set_json(sum_of(sets), shape);
    for (std::size_t d = 0; d < sets.size(); ++d)
      for (std::size_t before = 0; before < sets.size(); ++before)
        json["distances"][d].push_back(load_distance(sets[d], sets[before], shape.num_experts));
    if (out) write_routing(*out, sets, shape, provenance_chain(invocation, model.info().provenance, digests));
    print_result(common, json,
                 labelled("model", model.text()) + (out ? labelled("wrote", output) : "") +
                     sets_table(sets, options.data, shape) + "\n" + layers_table(sum_of(sets), shape));
  });
  return Exit::kOk;
}

}  // namespace moe
