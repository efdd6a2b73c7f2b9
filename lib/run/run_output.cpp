#include "lib/run/run_output.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "lib/base/error.h"
#include "lib/base/log.h"
#include "lib/base/provenance.h"
#include "lib/io/files.h"
#include "lib/run/picture.h"

namespace moe {
namespace {

// However the two are spelled: "run" and "./run/step-00000010", but not "run" and "run2/step-00000010".
bool is_step_of(const std::string& checkpoint, const std::string& run_dir) {
  std::error_code gone;
  return std::filesystem::equivalent(std::filesystem::path(checkpoint).parent_path(), run_dir, gone);
}

}  // namespace

RunOutput::RunOutput(const TrainOptions& options, const Invocation& invocation, bool is_first_rank,
                     const nlohmann::json& parent_provenance, const TokenFileInfo& data, std::int64_t resumed_step,
                     const std::vector<int>& moe_layers)
    : options_(options), invocation_(invocation), is_first_rank_(is_first_rank), data_(data) {
  if (!writes()) return;
  const bool resumed = resumed_step >= 0;
  const bool own = resumed && is_step_of(options.resume_from->path, options.output);
  if (!own && has_checkpoint(options.output) && !options.common.force)
    throw Error(Exit::kCannotCreate, options.output + ": holds the checkpoints of a run",
                "continue it with --resume auto, choose another --output, or overwrite it with --force");
  make_directories(options.output);
  lock_.emplace(options.output);
  provenance_ = provenance_chain(invocation, parent_provenance, {{data.path, data.fingerprint}});
  metrics_ = std::make_unique<MetricsFile>(path("metrics.jsonl"), resumed_step, own);
  if (moe_layers.empty()) return;
  routing_.emplace(
      path("routing.h5"),
      RoutingShape{.layers = moe_layers, .num_experts = options.model.num_experts, .top_k = options.model.top_k},
      provenance_);
  if (own) routing_->resume(resumed_step);
}

void RunOutput::write_step(const StepResult& result, const RateBase& base, double run_seconds) {
  if (!writes()) return;
  metrics_->write(metrics_row(result, base, run_seconds));
  if (!routing_) return;
  std::vector<std::int64_t> counts_LE;
  for (const LayerResult& layer : result.layers)
    counts_LE.insert(counts_LE.end(), layer.counts_E.begin(), layer.counts_E.end());
  routing_->add_step(result.step, counts_LE);
}

void RunOutput::write_event(const nlohmann::json& row) {
  if (writes()) metrics_->write(row);
}

std::vector<std::int64_t> RunOutput::collect_coactivation(Trainer& trainer) {
  std::vector<std::int64_t> pairs_LEE = trainer.take_coactivation();
  if (routing_) routing_->add_coactivation(pairs_LEE);
  return pairs_LEE;
}

SaveRequest RunOutput::request(Model& model, Trainer& trainer, const RunCounters& counters) {
  SaveRequest r{counters.step,
                make_state(invocation_.options, counters, data_),
                provenance_,
                {options_.keep_last, options_.keep_every},
                options_.common.force};
  r.state["layout"] = layout_json(model.mesh());
  collect_coactivation(trainer);
  if (!routing_) return r;
  // A copy: it must say what the checkpoint says, and this run goes on.
  r.when_published = [routing = *routing_] { routing.save(); };
  return r;
}

std::string RunOutput::draw(const std::vector<LayerResult>& layers, double unigram_entropy) const {
  if (!writes()) return "";
  RunPicture picture{.title = "moe-train " + options_.preset, .subtitle = data_.path, .unigram_entropy = unigram_entropy};
  std::map<std::int64_t, CurvePoint> points;
  for (const nlohmann::json& row : read_metrics(path("metrics.jsonl"))) {
    if (!row.contains("step")) continue;
    CurvePoint& p = points[row.at("step").get<std::int64_t>()];
    p.step = row.at("step");
    if (row.contains("loss") && row.at("loss").is_number()) p.train_loss = row.at("loss");
    if (row.contains("lr")) p.lr = row.at("lr");
    if (row.contains("eval_loss") && row.at("eval_loss").is_number()) p.eval_loss = row.at("eval_loss");
    if (!row.contains("layers")) continue;
    p.max_vio = 0;
    for (const auto& layer : row.at("layers")) p.max_vio = std::max(p.max_vio, layer.at("max_vio").get<double>());
  }
  for (const auto& [step, point] : points) picture.points.push_back(point);
  for (const LayerResult& l : layers) {
    LayerLoad load{.layer = l.layer};
    double total = 0;
    for (std::int64_t c : l.counts_E) total += static_cast<double>(c);
    for (std::int64_t c : l.counts_E)
      load.load_E.push_back(static_cast<double>(c) / total * static_cast<double>(l.counts_E.size()));
    picture.load.push_back(std::move(load));
  }
  replace_text_file(path("run.svg"), draw_run_svg(picture));
  return path("run.svg");
}

}  // namespace moe
