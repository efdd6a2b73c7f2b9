#include "lib/run/eval_scaling.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "lib/base/log.h"
#include "lib/io/files.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/result.h"
#include "lib/run/scaling_picture.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

constexpr std::int64_t kMostBytes = std::int64_t{16} << 20;  // of a result

double number_of(const nlohmann::json& run, const char* key, const std::string& path) {
  const auto found = run.find(key);
  if (found != run.end() && found->is_number() && found->get<double>() > 0) return found->get<double>();
  throw Error(Exit::kBadInput,
              path + ": " + key + ": expected a number above 0, found " + (found == run.end() ? "none" : found->dump()),
              "expected is what moe-train --json writes");
}

std::vector<ScalingRun> read_runs(const std::vector<std::string>& paths) {
  if (paths.size() < 2)
    throw Error(Exit::kUsage, "scaling: expected results of two runs or more, found " + std::to_string(paths.size()));
  std::vector<ScalingRun> runs;
  for (const std::string& path : paths) runs.push_back(read_scaling_run(path));
  std::sort(runs.begin(), runs.end(), [](const auto& a, const auto& b) { return a.flop < b.flop; });
  for (std::size_t i = 1; i < runs.size(); ++i) {
    if (runs[i].is_held_out != runs[0].is_held_out)
      throw Error(Exit::kBadInput, runs[i].path + ": expected a loss of the kind of " + runs[0].path + ", found " +
                                       (runs[i].is_held_out ? "one on held-out text" : "the training loss"));
    if (runs[i].flop == runs[i - 1].flop)
      throw Error(Exit::kBadInput, runs[i].path + ": expected other compute than " + runs[i - 1].path + ", found the same");
  }
  return runs;
}

std::vector<ScalingPoint> points_of(const std::vector<ScalingRun>& runs) {
  std::vector<ScalingPoint> points;
  for (const ScalingRun& r : runs) points.push_back({r.flop, r.loss});
  return points;
}

ScalingFit fit_of(const std::vector<ScalingPoint>& points) try {
  return ScalingFit(points);
} catch (const std::invalid_argument& e) {
  throw Error(Exit::kCheckFailed, std::string("scaling: expected a law, found none: ") + e.what(),
              "look at the runs: are they trained alike, and long enough?");
}

struct Study {
  std::vector<ScalingRun> runs;
  std::vector<ScalingPoint> points;
  ScalingFit fit;
  double next_flop = 0, probability = 0;
  std::optional<ScalingPrediction> last;  // of the largest run, by the others

  ScalingPrediction next() const { return fit.predict(next_flop, probability); }
};

Study study_of(const std::vector<std::string>& paths, const EvalScalingOptions& o) {
  std::vector<ScalingRun> runs = read_runs(paths);
  const std::vector<ScalingPoint> points = points_of(runs);
  const double largest = points.back().flop, before = points[points.size() - 2].flop;
  const double next = o.predict > 0 ? o.predict : largest * (largest / before);
  return {std::move(runs), points, fit_of(points), next, o.probability, predict_last(points, o.probability)};
}

std::string interval_text(const ScalingPrediction& p) {
  return p.low ? format_text("%.4f to %.4f", *p.low, *p.high) : "no interval: no run is left over to tell the noise";
}

std::string law_text(const Study& s) {
  const ScalingLaw& law = s.fit.law();
  return format_text("L(C) = %.4f + %.4g C^-%.4f", law.floor, law.factor, law.exponent) +
         (s.fit.free_residuals() > 0 ? format_text(", residuals %.2f %%", 100 * s.fit.relative_error()) : "");
}

std::string check_text(const Study& s) {
  if (!s.last) return "needs three runs whose losses fall";
  const ScalingRun& last = s.runs.back();
  return last.name + " from the runs before: " + format_text("%.4f", s.last->loss) + ", found " +
         format_text("%.4f (%+.2f %%)", last.loss, 100 * (last.loss / s.last->loss - 1));
}

std::string text_of(const Study& s) {
  TextTable table({"run", ">parameters", ">active", ">tokens", ">FLOP", ">loss", ">law", ">off by"});
  for (const ScalingRun& r : s.runs) {
    const double law = s.fit.law()(r.flop);
    table.add({r.name, thousands(r.params_total), thousands(r.params_active), thousands(r.tokens),
               format_text("%.3e", r.flop), format_text("%.4f", r.loss), format_text("%.4f", law),
               format_text("%+.2f %%", 100 * (r.loss / law - 1))});
  }
  const ScalingPrediction next = s.next();
  return table.text() + labelled("counts", "active parameters without the input embedding, FLOP of forward and backward") +
         labelled("loss", s.runs[0].is_held_out ? "held-out text, nats per token" : "last training batch") +
         labelled("law", law_text(s)) + labelled("check", check_text(s)) +
         labelled("prediction", format_text("%.4f at %.3e FLOP; ", next.loss, s.next_flop) +
                                    (next.low ? format_text("%.0f %%: ", 100 * s.probability) : "") + interval_text(next));
}

nlohmann::json json_of(const ScalingPrediction& p) {
  const auto or_null = [](const std::optional<double>& x) { return x ? nlohmann::json(*x) : nlohmann::json(nullptr); };
  return {{"loss", p.loss}, {"low", or_null(p.low)}, {"high", or_null(p.high)}};
}

nlohmann::json json_of(const Study& s) {
  nlohmann::json runs = nlohmann::json::array();
  for (const ScalingRun& r : s.runs)
    runs.push_back({{"name", r.name},
                    {"path", r.path},
                    {"params_total", r.params_total},
                    {"params_active", r.params_active},
                    {"tokens", r.tokens},
                    {"flop", r.flop},
                    {"loss", r.loss},
                    {"law", s.fit.law()(r.flop)}});
  const ScalingLaw& law = s.fit.law();
  nlohmann::json next = json_of(s.next());
  next["flop"] = s.next_flop;
  const double error = s.fit.relative_error();
  return {{"command", "scaling"},
          {"loss", s.runs[0].is_held_out ? "held-out" : "training"},
          {"runs", runs},
          {"law", {{"floor", law.floor}, {"factor", law.factor}, {"exponent", law.exponent}}},
          {"relative_error", std::isfinite(error) ? nlohmann::json(error) : nlohmann::json(nullptr)},
          {"free_residuals", s.fit.free_residuals()},
          {"probability", s.probability},
          {"last_from_others", s.last ? json_of(*s.last) : nlohmann::json(nullptr)},
          {"prediction", next}};
}

ScalingPicture picture_of(const Study& s) {
  ScalingPicture p{.title = "Loss and training compute", .subtitle = law_text(s), .points = s.points};
  for (const ScalingRun& r : s.runs) p.names.push_back(r.name);
  p.predicted_flop = s.next_flop, p.probability = s.probability;
  p.loss_name = s.runs[0].is_held_out ? "loss on held-out text (nats per token)" : "training loss (nats per token)";
  if (s.next().low) p.subtitle += format_text("; band: %.0f %%", 100 * s.probability);
  return p;
}

}  // namespace

void add_eval_scaling_options(Options& o, EvalScalingOptions& s) {
  o.group("What runs wrote (scaling, curves)");
  o.add("predict", s.predict,
        "scaling: FLOP of the training whose loss is predicted; 0: as far beyond the largest run as that is beyond the one "
        "before")
      .value = "FLOP";
  o.add("probability", s.probability, "scaling: that a new run lies in the interval and the band");
  o.add("svg", s.svg,
        "scaling: write runs, law, band and prediction as a picture; curves: loss and imbalance of experts over the steps")
      .value = "FILE";
}

void check_eval_scaling_options(const Options& o, const EvalScalingOptions& s) {
  if (!(s.predict >= 0))
    throw Error(Exit::kUsage, "--predict: expected FLOP above 0, or 0, found " + o.find("predict").get());
  if (!(s.probability > 0 && s.probability < 1))
    throw Error(Exit::kUsage, "--probability: expected above 0 and below 1, found " + o.find("probability").get());
}

ScalingRun read_scaling_run(const std::string& path) {
  const nlohmann::json run = nlohmann::json::parse(read_text_file(path, kMostBytes), nullptr, false);
  if (!run.is_object())
    throw Error(Exit::kBadInput, path + ": expected a JSON object, found none", "expected is what moe-train --json writes");
  const auto number = [&](const char* key) { return number_of(run, key, path); };
  const auto whole = [&](const char* key) { return static_cast<std::int64_t>(std::llround(number(key))); };
  ScalingRun r{.name = base_name(path), .path = path};
  if (r.name.ends_with(".json")) r.name.resize(r.name.size() - 5);
  const std::int64_t steps = whole("steps"),
                     planned = run.value("planned_steps", nlohmann::json(0)) == 0 ? steps : whole("planned_steps");
  if (steps < planned)
    throw Error(
        Exit::kBadInput,
        path + ": expected a run of " + std::to_string(planned) + " steps, found " + std::to_string(steps) + " of them",
        "let it go on with --resume must");
  r.params_total = whole("params_total"), r.params_active = whole("params_active_no_embedding");
  r.tokens = steps * whole("tokens_per_step");
  r.flop = static_cast<double>(r.tokens) * number("flop_per_token");
  r.is_held_out = run.contains("eval_loss");
  r.loss = number(r.is_held_out ? "eval_loss" : "train_loss");
  return r;
}

Exit eval_scaling(const std::vector<std::string>& paths, const EvalScalingOptions& options, const CommonOptions& common) {
  if (!options.svg.empty() && !common.force && path_exists(options.svg))
    throw Error(Exit::kCannotCreate, options.svg + ": expected no such file, found one", "--force replaces it");
  const Study study = study_of(paths, options);
  if (!options.svg.empty() && !common.dry_run) {
    replace_text_file(options.svg, draw_scaling_svg(picture_of(study), study.fit));
    log_info("wrote " + options.svg);
  }
  print_result(common, json_of(study), text_of(study));
  return Exit::kOk;
}

}  // namespace moe
