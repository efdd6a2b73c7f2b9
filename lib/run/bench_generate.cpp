// `moe-bench generate`: prompts of random tokens go into the cache, then greedy decoding, against the time that reading the
// weights alone takes. Not here: texts (eval_generate_texts.cpp), the cache (lib/model/kv_cache.h).
#include "lib/run/bench_generate.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "lib/base/rng.h"
#include "lib/base/stopwatch.h"
#include "lib/base/text_list.h"
#include "lib/model/params.h"
#include "lib/run/bench.h"
#include "lib/run/bench_measure.h"
#include "lib/run/device_peak.h"
#include "lib/run/result.h"
#include "lib/run/sampling.h"
#include "lib/run/text_table.h"

namespace moe {

double dense_bytes(const ParamStore& params, const ModelConfig& c) {
  double elements = 0;
  for (const Param& p : params.all()) {
    const bool looked_up = p.spec.is_input_embedding && !c.tied_embeddings;
    if (!p.spec.is_expert && !looked_up && !c.is_mtp_layer(p.spec.layer()))
      elements += static_cast<double>(p.spec.num_elements());
  }
  return elements * static_cast<double>(size_of(params.dtype()));
}

double bytes_of_expert(const ModelConfig& c, DType dtype) {
  double elements = 0;
  for (const ParamSpec& spec : parameter_specs(c))
    if (spec.is_expert && spec.layer() == c.num_dense_layers)
      elements += static_cast<double>(spec.num_elements() / c.num_experts);
  return elements * static_cast<double>(size_of(dtype));
}

namespace {

// Larger than the caches: a read of it is one of memory.
std::size_t read_buffer_bytes() {
  const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return std::clamp<std::size_t>(3 * static_cast<std::size_t>(std::max(cache, 0L)), std::size_t{256} << 20,
                                 std::size_t{1} << 30);
}

class GenerateRun {
 public:
  GenerateRun(Model& model, const Env& env, int batch, const BenchOptions& o)
      : o_(o),
        model_(model),
        env_(env),
        batch_(batch),
        cache_(o.model, model.dtype(), batch, o.prompt_tokens + o.new_tokens, env.stream.device()),
        pass_(model, {.shape = {batch * o.prompt_tokens, 1}, .training = false, .cache = &cache_, .max_logits = batch},
              env) {}

  GenerateSample measure() {
    prefill();  // warms up
    prefill();
    sample_.batch = batch_;
    std::vector<double> seconds;
    for (int i = 0; i < o_.new_tokens; ++i) {
      const std::vector<std::vector<std::int64_t>> before = counts();
      const Stopwatch watch;
      extend(1);
      seconds.push_back(watch.seconds());
      add_bytes(before);
    }
    sample_.step = timing_of(std::move(seconds));
    const double steps = o_.new_tokens, layers = std::max(1, o_.model.num_moe_layers());
    sample_.weight_bytes =
        dense_bytes(model_.params(), o_.model) + sample_.chosen_experts / steps * bytes_of_expert(o_.model, model_.dtype());
    sample_.chosen_experts /= steps * layers;
    sample_.kv_bytes /= steps;
    sample_.check = check();
    return sample_;
  }

 private:
  std::vector<CacheRun> runs(int count) const {
    std::vector<CacheRun> list;
    for (int i = 0; i < batch_; ++i) list.push_back({.seq = i, .count = count});
    return list;
  }

  void prefill() {
    const Rng rng(o_.common.seed, "bench prompts");
    texts_.assign(static_cast<std::size_t>(batch_), {});
    first_logits_.clear();
    std::uint64_t n = 0;
    for (auto& text : texts_)
      for (int i = 0; i < o_.prompt_tokens; ++i)
        text.push_back(static_cast<std::int32_t>(rng.bits(n++) % static_cast<std::uint64_t>(o_.model.vocab_size)));
    for (int i = 0; i < batch_; ++i) cache_.set_length(i, 0);
    const Stopwatch watch;
    extend(o_.prompt_tokens);
    sample_.prefill_seconds = watch.seconds();
  }

  // The last `count` tokens of each text, and the next one behind them.
  void extend(int count) {
    std::vector<std::int32_t> id;
    for (const auto& text : texts_) id.insert(id.end(), text.end() - count, text.end());
    pass_.extend(runs(count), id, true);
    const CMat logits = pass_.logits_on_host();
    first_logits_.emplace_back(logits.f32(), logits.f32() + logits.cols);
    for (int i = 0; i < batch_; ++i) {
      const CMat row = logits.slice_rows(i, 1);
      texts_[static_cast<std::size_t>(i)].push_back(choose_token({row.f32(), static_cast<std::size_t>(row.cols)}, {}, 0));
    }
  }

  std::vector<std::vector<std::int64_t>> counts() {
    std::vector<std::vector<std::int64_t>> list;
    pass_.pull_tallies();
    for (const int layer : model_.moe_layers())
      if (!o_.model.is_mtp_layer(layer)) list.push_back(pass_.tallies()[static_cast<std::size_t>(layer)].counts_E);
    return list;
  }
  void add_bytes(const std::vector<std::vector<std::int64_t>>& before) {
    const auto after = counts();
    for (std::size_t i = 0; i < after.size(); ++i)
      for (std::size_t e = 0; e < after[i].size(); ++e) sample_.chosen_experts += after[i][e] > before[i][e];
    for (int i = 0; i < batch_; ++i)
      sample_.kv_bytes += static_cast<double>(cache_.length(i) * KvCache::bytes_per_token(o_.model, model_.dtype()));
  }

  // The largest difference of the logits of the first text from those of the whole text, in parts of the largest of them:
  // the median over the steps, because near ties of the router's scores fall the other way now and then in bf16.
  StepCheck check() {
    std::vector<std::int32_t> text = texts_.front();
    text.pop_back();
    Pass whole(model_, {.shape = {1, static_cast<int>(text.size())}, .training = false}, env_);
    whole.forward({.shape = whole.shape(), .id_T = text, .target_T = text, .with_gradient = false, .tally = false});
    std::vector<double> deviations;
    for (int back = 0; back < o_.new_tokens; ++back)
      deviations.push_back(deviation(*(first_logits_.rbegin() + back), whole.logits_of(whole.logits().rows - 1 - back)));
    const auto middle = deviations.begin() + static_cast<std::ptrdiff_t>(deviations.size() / 2);
    std::ranges::nth_element(deviations, middle);
    return {"logits_of_cache_batch_" + std::to_string(batch_), *middle, 0, o_.dtype == DType::kF32 ? 1e-3 : 0.1};
  }

  // A number that is none is the largest of all.
  static double deviation(const std::vector<float>& got, const std::vector<float>& want) {
    double largest = 1e-30;
    for (const float v : want) largest = std::max(largest, std::abs(static_cast<double>(v)));
    WorstDeviation worst;
    for (std::size_t v = 0; v < want.size(); ++v) worst.add(got[v], want[v], largest);
    return std::isfinite(worst.value()) ? worst.value() : HUGE_VAL;
  }

  const BenchOptions& o_;
  Model& model_;
  Env env_;
  int batch_;
  KvCache cache_;
  Pass pass_;
  std::vector<std::vector<std::int32_t>> texts_;
  std::vector<std::vector<float>> first_logits_;  // of the first text, step by step
  GenerateSample sample_;
};

double tokens_per_second(const GenerateSample& s) { return s.batch / s.step.median; }
double limit(const GenerateSample& s, double gbytes) { return s.batch * gbytes * 1e9 / s.weight_bytes; }

std::string table_of(const std::vector<GenerateSample>& samples, const BenchOptions& o, double gbytes) {
  TextTable table(
      {">batch", ">prefill/s", ">decode/s", ">ms a step", ">weights MB", ">experts", ">KV MB", ">limit/s", ">%"});
  const auto number = [](double x, int digits) {
    char text[40];
    std::snprintf(text, sizeof text, "%.*f", digits, x);
    return std::string(text);
  };
  for (const GenerateSample& s : samples) {
    const bool ok = s.check.passed();
    table.add({std::to_string(s.batch), number(s.batch * o.prompt_tokens / s.prefill_seconds, 0),
               ok ? number(tokens_per_second(s), 1) : "FAILED", number(1e3 * s.step.median, 2),
               number(s.weight_bytes * 1e-6, 1), number(s.chosen_experts, 1), number(s.kv_bytes * 1e-6, 1),
               number(limit(s, gbytes), 1), ok ? number(100 * tokens_per_second(s) / limit(s, gbytes), 1) : "-"});
  }
  return table.text();
}

nlohmann::json json_of(const std::vector<GenerateSample>& samples, const BenchOptions& o, double gbytes) {
  nlohmann::json list = nlohmann::json::array();
  for (const GenerateSample& s : samples) {
    nlohmann::json row = {{"batch", s.batch},
                          {"prefill_tokens_per_second", s.batch * o.prompt_tokens / s.prefill_seconds},
                          {"step_us", timing_json(s.step)},
                          {"weight_bytes_per_step", s.weight_bytes},
                          {"experts_per_layer", s.chosen_experts},
                          {"kv_bytes_per_step", s.kv_bytes},
                          {"limit_tokens_per_second", limit(s, gbytes)},
                          {"checks", checks_json({s.check})}};
    if (s.check.passed()) {
      row["decode_tokens_per_second"] = tokens_per_second(s);
      row["percent_of_limit"] = 100 * tokens_per_second(s) / limit(s, gbytes);
    }
    list.push_back(std::move(row));
  }
  return list;
}

std::vector<std::string> head_lines(const BenchOptions& o) {
  const ModelConfig& c = o.model;
  const ParamCounts n = count_parameters(c);
  char text[300];
  std::snprintf(text, sizeof text,
                "# model: d %d, %d layers, %d heads, %d experts top-%d of width %d, vocab %d, %s; %.1f M parameters, %.1f M "
                "active; %lld bytes of cache a token",
                c.d_model, c.num_layers, c.num_heads, c.num_experts, c.top_k, c.expert_ffn, c.vocab_size, name_of(o.dtype),
                static_cast<double>(n.total) * 1e-6, static_cast<double>(n.active) * 1e-6,
                static_cast<long long>(KvCache::bytes_per_token(c, o.dtype)));
  return {"# moe-bench generate --shape " + o.shape + ": " + std::to_string(o.prompt_tokens) + " tokens of prompt, " +
              std::to_string(o.new_tokens) + " new tokens, greedy",
          text};
}

}  // namespace

std::vector<int> batch_list(const BenchOptions& o) {
  std::vector<int> list;
  for (const std::string& part : split_list(o.batches)) {
    const bool number = !part.empty() && part.size() < 6 && part.find_first_not_of("0123456789") == std::string::npos;
    if (!number || std::stoi(part) < 1)
      throw Error(Exit::kUsage, "--batches: expected numbers from 1 on, as 1,16, found " + o.batches);
    list.push_back(std::stoi(part));
  }
  return list;
}

Exit bench_generate(const BenchOptions& o, const Compute& compute) {
  std::FILE* out = table_file(o);
  for (const std::string& line : head_lines(o)) std::fprintf(out, "%s\n", line.c_str());
  const std::vector<int> batches = batch_list(o);
  if (o.common.dry_run) return Exit::kOk;
  Stream stream = compute_stream(compute, o.common);
  const Env env{stream, compute.kernels};
  Model model(o.model, o.dtype, false, compute.kernels, compute.device);
  model.initialize(o.common.seed);
  std::vector<GenerateSample> samples;
  for (const int batch : batches) samples.push_back(GenerateRun(model, env, batch, o).measure());
  const std::size_t buffer = read_buffer_bytes();
  const double gbytes = compute.on_cpu() ? measure_bandwidth(stream, 2 * buffer).read_gbytes : measure_device_copy(stream);
  if (compute.on_cpu())
    std::fprintf(out, "# %s; %d threads; %s kernels; read of %zu MB: %.1f GB/s\n", processor_name().c_str(),
                 stream.num_threads(), compute.kernels.isa, buffer >> 20, gbytes);
  else
    std::fprintf(out, "# %s; copy inside its memory, read and written: %.1f GB/s\n", compute.device.name, gbytes);
  std::fprintf(out, "%s", table_of(samples, o, gbytes).c_str());
  std::fprintf(out,
               "# limit: reading the weights of a step, of experts those that were chosen, once at the bandwidth above; %%: "
               "decode/limit\n");
  nlohmann::json json = bench_json("generate");
  json["shape"] = o.shape;
  json["machine"] = machine_json(env);
  json[compute.on_cpu() ? "read_gbytes_per_s" : "copy_gbytes_per_s"] = gbytes;
  if (compute.on_cpu()) json["read_buffer_bytes"] = buffer;
  json["kv_bytes_per_token"] = KvCache::bytes_per_token(o.model, o.dtype);
  json["prompt_tokens"] = o.prompt_tokens;
  json["new_tokens"] = o.new_tokens;
  json["batches"] = json_of(samples, o, gbytes);
  write_result_json(o.common.json, json);
  const bool passed = std::ranges::all_of(samples, [](const GenerateSample& s) { return s.check.passed(); });
  return passed ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
