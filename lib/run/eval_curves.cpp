#include "lib/run/eval_curves.h"

#include <cmath>
#include <limits>

#include "lib/base/log.h"
#include "lib/io/files.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/metrics.h"
#include "lib/run/result.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double number_or_nan(const nlohmann::json& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && found->is_number() ? found->get<double>() : kNaN;
}

double mean_max_vio(const nlohmann::json& row) {
  const auto layers = row.find("layers");
  if (layers == row.end() || !layers->is_array() || layers->empty()) return kNaN;
  double sum = 0;
  for (const nlohmann::json& layer : *layers) sum += layer.is_object() ? number_or_nan(layer, "max_vio") : kNaN;
  return sum / static_cast<double>(layers->size());
}

// "runs/a/" and "runs/a/metrics.jsonl": a.
std::string name_of_run(const std::string& file) { return base_name(real_path(parent_directory(file))); }

std::string cell(double x) { return std::isfinite(x) ? format_text("%.4f", x) : "-"; }

nlohmann::json number_or_null(double x) { return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json(nullptr); }

}  // namespace

RunCurve read_run_curve(const std::string& path) {
  const std::string file = is_directory(path) ? path + "/metrics.jsonl" : path;
  if (!path_exists(file))
    throw Error(Exit::kNoInput, file + ": expected the metrics of a run, found no such file",
                "a run directory of moe-train has them");
  RunCurve run{.name = name_of_run(file), .eval_loss = kNaN};
  for (const nlohmann::json& row : read_metrics(file)) {
    if (row.contains("eval_loss")) run.eval_loss = number_or_nan(row, "eval_loss");
    const double step = number_or_nan(row, "step");
    if (!row.contains("loss") || !(step >= 0) || step > 1e15) continue;
    run.step_N.push_back(static_cast<std::int64_t>(step));
    run.loss_N.push_back(number_or_nan(row, "loss"));
    run.max_vio_N.push_back(mean_max_vio(row));
  }
  if (run.step_N.empty())
    throw Error(Exit::kBadInput, file + ": expected rows of steps, found none", "expected is metrics.jsonl of moe-train");
  return run;
}

Exit eval_curves(const std::vector<std::string>& paths, const std::string& svg, const CommonOptions& common) {
  if (paths.empty()) throw Error(Exit::kUsage, "curves: expected run directories, found none");
  if (!svg.empty() && !common.force && path_exists(svg))
    throw Error(Exit::kCannotCreate, svg + ": expected no such file, found one", "--force replaces it");
  std::vector<RunCurve> runs;
  TextTable table({"run", ">steps", ">training loss", ">held-out loss", ">MaxVio of a batch"});
  nlohmann::json rows = nlohmann::json::array();
  for (const std::string& path : paths) {
    const RunCurve& run = runs.emplace_back(read_run_curve(path));
    const double loss = end_of(run.loss_N), max_vio = end_of(run.max_vio_N);
    table.add({run.name, thousands(run.step_N.back()), cell(loss), cell(run.eval_loss), cell(max_vio)});
    rows.push_back({{"name", run.name},
                    {"path", path},
                    {"steps", run.step_N.back()},
                    {"train_loss", number_or_null(loss)},
                    {"eval_loss", number_or_null(run.eval_loss)},
                    {"max_vio", number_or_null(max_vio)}});
  }
  if (!svg.empty() && !common.dry_run) {
    replace_text_file(svg, draw_curves_svg("Loss and balance of experts", runs));
    log_info("wrote " + svg);
  }
  print_result(common, {{"command", "curves"}, {"runs", rows}},
               table.text() + "  training loss and MaxVio: means of the last tenth of the steps\n");
  return Exit::kOk;
}

}  // namespace moe
