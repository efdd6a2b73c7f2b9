// The table and the JSON of `moe-bench dispatch`.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "lib/run/bench_dispatch.h"
#include "lib/run/bench_ranks.h"

namespace moe {
namespace {

const char* mode_name(DispatchMode mode) { return mode == DispatchMode::kFlat ? "flat" : "two-level"; }

double mean_of(const std::vector<double>& rows_r) {
  return std::accumulate(rows_r.begin(), rows_r.end(), 0.0) / static_cast<double>(std::max<std::size_t>(1, rows_r.size()));
}

double percent_of_link(double gbytes, double link_gbits) { return 100 * 8 * gbytes / link_gbits; }

}  // namespace

bool DispatchRow::passed() const {
  return num_wrong == 0 && inter_bytes == inter_bytes_expected && inter_bytes_min == least_bytes_expected;
}
double max_over_mean_rows(const std::vector<double>& rows_r) {
  const double mean = mean_of(rows_r);
  return mean > 0 ? *std::max_element(rows_r.begin(), rows_r.end()) / mean : 1;
}

double DispatchRow::imbalance() const { return max_over_mean_rows(rows_r); }
double DispatchRow::inter_rows_per_token() const {
  return tokens > 0 ? inter_bytes / 2 / row_bytes / static_cast<double>(tokens) : 0;
}
double DispatchRow::exchange_seconds() const {
  return of(DispatchPhase::kDispatch).median + of(DispatchPhase::kCombine).median;
}
double DispatchRow::rank_gbytes() const {
  return (inter_bytes + intra_bytes) / static_cast<double>(rows_r.size()) / exchange_seconds() * 1e-9;
}
double DispatchRow::node_gbytes() const { return 2 * busiest_node_bytes / exchange_seconds() * 1e-9; }
double DispatchRow::node_gbytes(DispatchPhase phase) const { return busiest_node_bytes / of(phase).median * 1e-9; }

std::vector<std::string> dispatch_legend(double link_gbits) {
  std::vector<std::string> lines = {
      "# us        median over repetitions of the slowest rank, after a barrier; forward: plan, dispatch, combine in a row;",
      "#           backward: the dispatch of combine's gradient, the gates' gradients, the combine of dispatch's gradient",
      "# inter_MB  payload rows between nodes of one dispatch and its combine, sum over ranks, 1e6 bytes; min_MB: the",
      "#           distinct other nodes of each token x row bytes x 2, without which it cannot be; intra_MB: inside nodes",
      "# GB/s      rank: payload that a rank sends, mean over ranks; node: what crosses the border of the busiest node in",
      "#           one direction; both of dispatch and combine together, 1e9 bytes",
      "# max/mean  rows received by ranks in a repetition, mean over repetitions",
      "# check     every row, sum and gate of every repetition, and the bytes against the routing; FAILED: no figures"};
  if (link_gbits > 0)
    lines.insert(lines.begin() + 6, format_text("# %%link     node GB/s of a link of %g Gbit/s", link_gbits));
  return lines;
}

std::string dispatch_header() {
  return format_text("%-4s %-9s %5s %8s %8s %8s %8s %9s %9s %9s %9s %9s %6s %6s %6s %8s %s", "#", "mode", "reps", "plan us",
                     "dispatch", "combine", "gates", "forward", "backward", "inter_MB", "min_MB", "intra_MB", "rank", "node",
                     "%link", "max/mean", "check");
}

std::string dispatch_line(const DispatchRow& r, double link_gbits) {
  std::string line = format_text("%-4s %-9s %5d", r.name.c_str(), mode_name(r.mode), r.seconds[0].num_repetitions);
  if (!r.passed())
    return line + format_text(
                      " FAILED: %lld wrong rows, sums or gates; %.0f bytes between nodes, expected %.0f; least %.0f, "
                      "expected %.0f",
                      static_cast<long long>(r.num_wrong), r.inter_bytes, r.inter_bytes_expected, r.inter_bytes_min,
                      r.least_bytes_expected);
  for (std::size_t p = 0; p < kNumDispatchPhases; ++p)
    line += format_text(p < 4 ? " %8.0f" : " %9.0f", 1e6 * r.seconds[p].median);
  line += format_text(" %9.3f %9.3f %9.3f %6.2f %6.2f", 1e-6 * r.inter_bytes, 1e-6 * r.inter_bytes_min, 1e-6 * r.intra_bytes,
                      r.rank_gbytes(), r.node_gbytes());
  line += link_gbits > 0 ? format_text(" %6.1f", percent_of_link(r.node_gbytes(), link_gbits)) : format_text(" %6s", "-");
  return line + format_text(" %8.2f ok", r.max_over_mean);
}

std::vector<std::string> histogram_lines(const DispatchRow& r) {
  constexpr std::size_t kMostRanks = 16;
  const auto [least, most] = std::minmax_element(r.rows_r.begin(), r.rows_r.end());
  std::vector<std::string> lines = {format_text("# %s %s: rows received by a rank: %.0f to %.0f, mean %.1f", r.name.c_str(),
                                                r.description.c_str(), *least, *most, mean_of(r.rows_r))};
  const std::size_t n = r.rows_r.size();
  for (std::size_t i = 0; i < n; ++i) {
    if (n > kMostRanks && i == kMostRanks / 2) {
      lines.push_back("#   ... " + std::to_string(n - kMostRanks) + " more ...");
      i = n - kMostRanks / 2;
    }
    lines.push_back(format_text("#   rank %3zu %8.0f %s", i, r.rows_r[i], bar_text(r.rows_r[i], *most, 40).c_str()));
  }
  return lines;
}

std::string comparison_line(const DispatchRow& flat, const DispatchRow& two_level) {
  return format_text("# %s flat over two-level: bytes between nodes %.3f, time of dispatch and combine %.3f",
                     flat.name.c_str(), flat.inter_bytes / two_level.inter_bytes,
                     flat.exchange_seconds() / two_level.exchange_seconds());
}

nlohmann::json comparison_json(const DispatchRow& flat, const DispatchRow& two_level) {
  return {{"workload", flat.name},
          {"inter_node_bytes_ratio", flat.inter_bytes / two_level.inter_bytes},
          {"exchange_time_ratio", flat.exchange_seconds() / two_level.exchange_seconds()}};
}

namespace {
template <class Value>
double sum_of(const std::vector<DispatchRow>& layers, Value value) {
  return std::accumulate(layers.begin(), layers.end(), 0.0,
                         [&](double sum, const DispatchRow& r) { return sum + value(r); });
}
double worst_balance(const std::vector<DispatchRow>& layers) {
  return std::max_element(layers.begin(), layers.end(),
                          [](const DispatchRow& a, const DispatchRow& b) { return a.max_over_mean < b.max_over_mean; })
      ->max_over_mean;
}
double mean_balance(const std::vector<DispatchRow>& layers) {
  return sum_of(layers, [](const DispatchRow& r) { return r.max_over_mean; }) / static_cast<double>(layers.size());
}
double mean_rows_per_token(const std::vector<DispatchRow>& layers) {
  return sum_of(layers, [](const DispatchRow& r) { return r.inter_rows_per_token(); }) / static_cast<double>(layers.size());
}
}  // namespace

std::string total_line(const std::vector<DispatchRow>& layers) {
  return format_text(
      "# all layers %s: inter_MB %.3f, min_MB %.3f, intra_MB %.3f, %.4f rows a token and layer between nodes; "
      "dispatch and combine %.0f us; max/mean %.3f, worst layer %.3f",
      mode_name(layers[0].mode), 1e-6 * sum_of(layers, [](const DispatchRow& r) { return r.inter_bytes; }),
      1e-6 * sum_of(layers, [](const DispatchRow& r) { return r.inter_bytes_min; }),
      1e-6 * sum_of(layers, [](const DispatchRow& r) { return r.intra_bytes; }), mean_rows_per_token(layers),
      1e6 * sum_of(layers, [](const DispatchRow& r) { return r.exchange_seconds(); }), mean_balance(layers),
      worst_balance(layers));
}

nlohmann::json total_json(const std::vector<DispatchRow>& layers) {
  const auto whole = [](double bytes) { return static_cast<std::int64_t>(std::llround(bytes)); };
  return {{"dispatch", mode_name(layers[0].mode)},
          {"layers", layers.size()},
          {"inter_node_bytes", whole(sum_of(layers, [](const DispatchRow& r) { return r.inter_bytes; }))},
          {"inter_node_bytes_min", whole(sum_of(layers, [](const DispatchRow& r) { return r.inter_bytes_min; }))},
          {"intra_node_bytes", whole(sum_of(layers, [](const DispatchRow& r) { return r.intra_bytes; }))},
          {"inter_node_rows_per_token", mean_rows_per_token(layers)},
          {"exchange_us", 1e6 * sum_of(layers, [](const DispatchRow& r) { return r.exchange_seconds(); })},
          {"rows_received_max_over_mean", mean_balance(layers)},
          {"rows_received_max_over_mean_worst", worst_balance(layers)}};
}

nlohmann::json dispatch_json(const DispatchRow& r, double link_gbits) {
  const auto whole = [](double bytes) { return static_cast<std::int64_t>(std::llround(bytes)); };
  nlohmann::json json = {{"workload", r.name},
                         {"description", r.description},
                         {"dispatch", mode_name(r.mode)},
                         {"passed", r.passed()},
                         {"wrong", r.num_wrong},
                         {"repetitions", r.seconds[0].num_repetitions},
                         {"inter_node_bytes", whole(r.inter_bytes)},
                         {"inter_node_bytes_min", whole(r.inter_bytes_min)},
                         {"intra_node_bytes", whole(r.intra_bytes)},
                         {"control_bytes", whole(r.control_bytes)},
                         {"busiest_node_bytes", whole(2 * r.busiest_node_bytes)},
                         {"inter_node_bytes_of_run", r.sent_inter_bytes},
                         {"intra_node_bytes_of_run", r.sent_intra_bytes},
                         {"rows_received", r.rows_r},
                         {"rows_received_max_over_mean", r.max_over_mean},
                         {"mean_rows_max_over_mean", r.imbalance()},
                         {"tokens", r.tokens},
                         {"inter_node_rows_per_token", r.inter_rows_per_token()}};
  if (r.layer >= 0) json["layer"] = r.layer;
  if (!r.passed()) return json;
  for (std::size_t p = 0; p < kNumDispatchPhases; ++p)
    json[std::string(kDispatchPhaseNames[p]) + "_us"] = timing_json(r.seconds[p]);
  json["rank_gbytes_per_s"] = r.rank_gbytes();
  json["node_gbytes_per_s"] = r.node_gbytes();
  json["node_gbytes_per_s_dispatch"] = r.node_gbytes(DispatchPhase::kDispatch);
  json["node_gbytes_per_s_combine"] = r.node_gbytes(DispatchPhase::kCombine);
  if (link_gbits > 0) json["percent_of_link"] = percent_of_link(r.node_gbytes(), link_gbits);
  return json;
}

}  // namespace moe
