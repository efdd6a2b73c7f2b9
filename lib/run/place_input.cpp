#include "lib/run/place_input.h"

#include <algorithm>
#include <memory>
#include <numeric>

#include "lib/base/error.h"
#include "lib/io/files.h"
#include "lib/io/h5.h"
#include "lib/io/router_trace.h"
#include "lib/io/routing_stats.h"
#include "lib/run/place_loads_csv.h"
#include "lib/run/place_text.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

constexpr std::int64_t kMostTableBytes = std::int64_t{1} << 28;
constexpr std::size_t kMostSteps = 256;      // whose loads are kept one by one
constexpr std::size_t kMostTokens = 100000;  // whose decisions are, of a layer

// Place of the i-th of `kept` things taken evenly from n.
std::size_t even_place(std::size_t i, std::size_t kept, std::size_t n) { return i * n / kept; }

struct StepRange {
  std::size_t first, count;
};
StepRange steps_between(const std::vector<std::int64_t>& step_S, std::int64_t first, std::int64_t last) {
  const auto begin = std::lower_bound(step_S.begin(), step_S.end(), first);
  const auto end = std::max(begin, std::upper_bound(step_S.begin(), step_S.end(), last));
  return {static_cast<std::size_t>(begin - step_S.begin()), static_cast<std::size_t>(end - begin)};
}

// load_E and step_load_SE (=) of steps whose rows per expert `counts(s)` gives; num_tokens where nothing was dropped.
template <class Counts>
void take_steps(const StepRange& steps, std::size_t num_experts, int top_k, const Counts& counts, LayerLoads& layer) {
  layer.load_E.assign(num_experts, 0);
  const std::size_t kept = std::min(steps.count, kMostSteps);
  std::size_t next = 0;
  for (std::size_t s = 0; s < steps.count; ++s) {
    const auto counts_E = counts(steps.first + s);
    std::transform(layer.load_E.begin(), layer.load_E.end(), counts_E.begin(), layer.load_E.begin(),
                   [](double sum, auto n) { return sum + static_cast<double>(n); });
    if (next == kept || s != even_place(next, kept, steps.count)) continue;
    for (const auto n : counts_E) layer.step_load_SE.push_back(static_cast<float>(n));
    ++next;
  }
  layer.num_tokens = std::accumulate(layer.load_E.begin(), layer.load_E.end(), 0.0) / top_k;
}

Loads shaped(const RoutingShape& shape) {
  return {shape.num_experts, shape.top_k, shape.layers, std::vector<LayerLoads>(shape.layers.size())};
}

Loads loads_of(const RoutingStats& s, std::int64_t first, std::int64_t last) {
  Loads loads = shaped(s.shape);
  const auto num_experts = static_cast<std::size_t>(s.shape.num_experts);
  for (std::size_t l = 0; l < loads.layers.size(); ++l) {
    LayerLoads& layer = loads.of_layer[l];
    take_steps(
        steps_between(s.step_S, first, last), num_experts, s.shape.top_k,
        [&](std::size_t step) {
          return std::span(s.counts_SLE).subspan((step * loads.layers.size() + l) * num_experts, num_experts);
        },
        layer);
    const auto pairs = std::span(s.coactivation_LEE).subspan(l * num_experts * num_experts, num_experts * num_experts);
    // A resumed run may have begun anew and not got there yet.
    if (std::any_of(pairs.begin(), pairs.end(), [](std::int64_t n) { return n > 0; }))
      layer.coactivation_EE.assign(pairs.begin(), pairs.end());
  }
  return loads;
}

// sample_TK and, in the unit of num_tokens, coactivation_EE (=) of tokens taken evenly from the steps.
void take_tokens(const RouterTrace& t, const StepRange& steps, std::size_t l, LayerLoads& layer) {
  const auto top_k = static_cast<std::size_t>(t.shape.top_k), per_step = static_cast<std::size_t>(t.tokens_per_step);
  const auto num_experts = static_cast<std::size_t>(t.shape.num_experts);
  const std::size_t all = steps.count * per_step, kept = std::min(all, kMostTokens);
  layer.num_tokens = static_cast<double>(all);
  layer.coactivation_EE.assign(num_experts * num_experts, 0);
  for (std::size_t i = 0; i < kept; ++i) {
    const std::size_t token = even_place(i, kept, all);
    while (layer.psum_sample_S1.size() <= token / per_step) layer.psum_sample_S1.push_back(static_cast<std::int64_t>(i));
    const auto expert_K = t.of(steps.first + token / per_step, l).subspan(token % per_step * top_k, top_k);
    layer.sample_TK.insert(layer.sample_TK.end(), expert_K.begin(), expert_K.end());
    for (const std::int16_t a : expert_K)
      for (const std::int16_t b : expert_K)
        if (a >= 0 && b >= 0)
          layer.coactivation_EE[static_cast<std::size_t>(a) * num_experts + static_cast<std::size_t>(b)] += 1;
  }
  layer.psum_sample_S1.push_back(static_cast<std::int64_t>(kept));
  for (double& n : layer.coactivation_EE) n *= static_cast<double>(all) / static_cast<double>(kept);
}

Loads loads_of(const RouterTrace& t, std::int64_t first, std::int64_t last) {
  Loads loads = shaped(t.shape);
  const StepRange steps = steps_between(t.step_S, first, last);
  const auto num_experts = static_cast<std::size_t>(t.shape.num_experts);
  for (std::size_t l = 0; l < loads.layers.size(); ++l) {
    take_steps(
        steps, num_experts, t.shape.top_k,
        [&](std::size_t step) {
          std::vector<std::int64_t> counts_E(num_experts);
          for (const std::int16_t e : t.of(step, l))
            if (e >= 0) ++counts_E[static_cast<std::size_t>(e)];
          return counts_E;
        },
        loads.of_layer[l]);
    if (steps.count > 0) take_tokens(t, steps, l, loads.of_layer[l]);
  }
  return loads;
}

template <class Recorded>
RecordedLoads recorded(Recorded&& data) {
  const auto kept = std::make_shared<const std::decay_t<Recorded>>(std::forward<Recorded>(data));
  return {kept->step_S, [kept](std::int64_t first, std::int64_t last) { return loads_of(*kept, first, last); }};
}

// JSON begins with a bracket, CSV never does.
Loads parse_table(const std::string& text, const std::string& path) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  const bool json = first != std::string::npos && (text[first] == '[' || text[first] == '{');
  return json ? parse_loads_json(text, path) : parse_loads_csv(text, path);
}

std::string model_text(int num_experts, const std::vector<int>& layers) {
  return std::to_string(num_experts) + " experts in layers " + ranges_text({layers.begin(), layers.end()});
}

}  // namespace

void add_place_inputs(Options& o, PlaceInputs& i) {
  o.group("Inputs and output");
  o.add("routing", i.routing, "how tokens were routed: routing.h5 of a run, or a trace of moe-train --router-trace").value =
      "FILE";
  o.add("loads", i.loads,
        "the same as a table instead: CSV, a line per layer, a column per expert; or JSON [layers][experts]")
      .value = "FILE";
  o.add("topology", i.topology, "nodes and ranks, as \"node:4 rank:8\", or \"rank:8,8,4\" where nodes differ").value =
      "TEXT";
  o.add("replica-choice", i.replica_choice, "which copy of an expert a token takes: all in turn, or the nearest first",
        {"spread", "nearest"});
  o.add("output", i.output, "file to write").value = "FILE";
}

RecordedLoads open_loads(const std::string& path) {
  const std::string kind = has_h5_signature(path) ? h5_kind(path) : "";
  if (kind == "moe-routing") return recorded(read_routing_stats(path));
  if (kind == "moe-router-trace") return recorded(read_router_trace(path));
  if (!kind.empty())
    throw Error(Exit::kBadInput,
                path + ": expected routing statistics, a router trace or a table, found a file of kind '" + kind + "'");
  return {{},
          [loads = parse_table(read_text_file(path, kMostTableBytes), path)](std::int64_t, std::int64_t) { return loads; }};
}

Loads read_loads(const std::string& path, std::int64_t first_step, std::int64_t last_step) {
  return open_loads(path).of(first_step, last_step);
}

const std::string& loads_path(const PlaceInputs& inputs) {
  if (!inputs.routing.empty() && !inputs.loads.empty())
    throw Error(Exit::kUsage, "expected --routing or --loads, found both");
  if (inputs.routing.empty() && inputs.loads.empty())
    throw Error(Exit::kUsage, "expected --routing or --loads, found none",
                "--routing RUN/routing.h5 is what moe-train recorded");
  return inputs.routing.empty() ? inputs.loads : inputs.routing;
}

Loads read_loads(const PlaceInputs& inputs) { return read_loads(loads_path(inputs)); }

void need_same_model(const Placement& placement, const std::string& plan_path, const Loads& loads) {
  if (placement.layers == loads.layers && placement.num_experts == loads.num_experts) return;
  throw Error(Exit::kBadInput,
              plan_path + ": expected a plan of the model of the loads, " + model_text(loads.num_experts, loads.layers) +
                  ", found " + model_text(placement.num_experts, placement.layers),
              "a table of loads names its layers in a first column 'layer'");
}

Topology plan_topology(const PlanFile& plan, const std::string& plan_path, const PlaceInputs& inputs) {
  const Topology topology = inputs.topology.empty() ? Topology{plan.rank2node} : parse_topology(inputs.topology);
  if (topology.num_ranks() != plan.placement.num_ranks())
    throw Error(Exit::kUsage, "--topology: expected the " + std::to_string(plan.placement.num_ranks()) + " ranks of " +
                                  plan_path + ", found " + std::to_string(topology.num_ranks()));
  return topology;
}

}  // namespace moe
