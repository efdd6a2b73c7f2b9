#include "lib/run/metrics.h"

#include <sys/resource.h>

#include <cstdio>
#include <span>
#include <sstream>

#include "lib/base/error.h"
#include "lib/base/log.h"

namespace moe {

std::int64_t tokens_of(const StepResult& r, const RateBase& base) { return std::int64_t{r.batch} * base.seq; }

double tokens_per_second(const StepResult& r, const RateBase& base) {
  return static_cast<double>(tokens_of(r, base)) / r.seconds;
}

double gflops(const StepResult& r, const RateBase& base) { return base.flop_per_token * tokens_per_second(r, base) / 1e9; }

double mean_max_vio(const StepResult& r) {
  double sum = 0;
  for (const LayerResult& l : r.layers) sum += l.load.max_vio;
  return r.layers.empty() ? 0 : sum / static_cast<double>(r.layers.size());
}

namespace {

constexpr std::int64_t kMostBytes = std::int64_t{4} << 30;  // of the file: millions of steps
constexpr std::size_t kMostWaitingBytes = std::size_t{64} << 20;

double peak_memory_gib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / (1 << 20);
}

nlohmann::json layer_row(const LayerResult& l, std::int64_t slots) {
  return {{"layer", l.layer},       {"max_vio", l.load.max_vio},
          {"cv", l.load.cv},        {"dead", l.load.dead},
          {"entropy", l.entropy},   {"dropped_fraction", static_cast<double>(l.dropped) / static_cast<double>(slots)},
          {"bias_min", l.bias_min}, {"bias_max", l.bias_max}};
}

double mean(const std::vector<double>& values) {
  double total = 0;
  for (const double v : values) total += v;
  return total / static_cast<double>(values.size());
}

std::int64_t sum(const std::vector<std::int64_t>& counts) {
  std::int64_t total = 0;
  for (std::int64_t c : counts) total += c;
  return total > 0 ? total : 1;
}

}  // namespace

nlohmann::json metrics_row(const StepResult& r, const RateBase& base, double run_seconds) {
  const double rate = gflops(r, base);
  nlohmann::json row = {{"step", r.step},
                        {"loss", r.loss},
                        {"aux_loss", r.aux},
                        {"seq_aux_loss", r.seq_aux},
                        {"global_aux_loss", r.global_aux},
                        {"z_loss", r.z},
                        {"grad_norm", r.grad_norm},
                        {"lr", r.lr},
                        {"bias_update_speed", r.bias_update_speed},
                        {"batch", r.batch},
                        {"tokens", r.tokens},
                        {"tokens_per_second", tokens_per_second(r, base)},
                        {"gflops", rate},
                        {"peak_fraction", base.gemm_peak_gflops > 0 ? rate / base.gemm_peak_gflops : 0},
                        {"step_ms", 1e3 * r.seconds},
                        {"data_ms", 1e3 * r.data_seconds},
                        {"forward_ms", 1e3 * r.forward_seconds},
                        {"backward_ms", 1e3 * r.backward_seconds},
                        {"optimizer_ms", 1e3 * r.optimizer_seconds},
                        {"exposed_ms", 1e3 * r.exposed_seconds},
                        {"peak_memory_gib", peak_memory_gib()},
                        {"updated", r.updated},
                        {"seconds", run_seconds}};
  if (r.experts_seconds) row["experts_ms"] = 1e3 * *r.experts_seconds;
  if (r.exchange_seconds) row["exchange_ms"] = 1e3 * *r.exchange_seconds;
  if (r.device_bytes > 0) row["device_memory_gib"] = r.device_bytes / (1 << 30);
  if (r.ema_seconds > 0) row["ema_ms"] = 1e3 * r.ema_seconds;
  if (!r.mtp_loss.empty()) row["mtp_loss"] = r.mtp_loss, row["mtp_weight"] = r.mtp_weight;
  nlohmann::json layers = nlohmann::json::array();
  for (const LayerResult& l : r.layers) layers.push_back(layer_row(l, sum(l.counts_E)));
  row["layers"] = std::move(layers);
  return row;
}

std::string step_line(const StepResult& r, const RateBase& base, std::int64_t last_step) {
  char text[200], mtp[32] = "";
  if (!r.mtp_loss.empty()) std::snprintf(mtp, sizeof mtp, "  mtp %.4f", mean(r.mtp_loss));
  const std::string of = last_step > 0 ? "/" + std::to_string(last_step) : "";
  std::snprintf(text, sizeof text,
                "step %5lld%s  loss %.4f%s  grad %.2f  lr %.1e  %6.1f ms  %6.0f tok/s  %4.0f GF/s %3.0f%%  imb %.2f%s",
                static_cast<long long>(r.step), of.c_str(), r.loss, mtp, r.grad_norm, r.lr, 1e3 * r.seconds,
                tokens_per_second(r, base), gflops(r, base),
                base.gemm_peak_gflops > 0 ? 100 * gflops(r, base) / base.gemm_peak_gflops : 0.0, mean_max_vio(r),
                r.updated ? "" : "  NOT FINITE: skipped");
  return text;
}

std::vector<nlohmann::json> read_metrics(const std::string& path) {
  std::vector<nlohmann::json> rows;
  if (!path_exists(path)) return rows;
  std::istringstream in(read_text_file(path, kMostBytes));
  for (std::string line; std::getline(in, line);) {
    nlohmann::json row = nlohmann::json::parse(line, nullptr, false);
    if (row.is_object()) rows.push_back(std::move(row));
  }
  return rows;
}

MetricsFile::MetricsFile(const std::string& path, std::int64_t resumed_step, bool resumed) {
  std::vector<nlohmann::json> kept;
  if (resumed) kept = read_metrics(path);
  std::string text;
  for (const nlohmann::json& row : kept)
    if (row.value("step", std::int64_t{0}) <= resumed_step) text += row.dump() + "\n";
  replace_text_file(path, text);  // at once: killed here, a run keeps its rows
  file_.emplace(File::edit(path));
  end_ = file_->size();
  if (resumed) write({{"event", "resume"}, {"step", resumed_step}});
}

MetricsFile::~MetricsFile() {
  if (waiting_.empty() || flush()) return;
  log_warning(file_->path() + ": " + std::to_string(waiting_.size()) + " bytes of rows could not be written and are lost");
}

void MetricsFile::write(const nlohmann::json& row) {
  const bool was_behind = !waiting_.empty();
  waiting_ += row.dump() + "\n";
  if (flush()) {
    if (was_behind) log_warning(file_->path() + ": can be written again; no row is lost");
    return;
  }
  if (!was_behind) log_warning(failure_ + "; rows wait in memory, training goes on");
  if (waiting_.size() > kMostWaitingBytes) throw Error(Exit::kIo, failure_, "rows have waited in memory for too long");
}

// A row that was written in part is written over.
bool MetricsFile::flush() try {
  file_->write_at(end_, std::as_bytes(std::span(waiting_)));
  end_ += static_cast<std::int64_t>(waiting_.size());
  waiting_.clear();
  return true;
} catch (const Error& e) {
  failure_ = e.what();
  return false;
}

}  // namespace moe
