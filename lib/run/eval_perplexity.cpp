#include "lib/run/eval_perplexity.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "lib/base/log.h"
#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/result.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

double sum_of(const std::vector<double>& v) { return std::accumulate(v.begin(), v.end(), 0.0); }

nlohmann::json number_or_null(double x) { return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json(nullptr); }

// Runs of white space.
std::int64_t num_gaps(const std::string& text) {
  std::int64_t gaps = 0;
  bool in_gap = false;
  for (const char c : text) {
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    gaps += space && !in_gap;
    in_gap = space;
  }
  return gaps;
}

struct Perplexity {
  WindowLosses losses;
  TextSize size;
  double nats_per_byte() const { return losses.mean() / size.bytes_per_token; }
  double nats_per_word() const { return losses.mean() / size.words_per_token; }
};

nlohmann::json perplexity_json(const Perplexity& p) {
  const double mean = p.losses.mean();
  nlohmann::json j = {{"tokens", static_cast<std::int64_t>(p.losses.tokens())},
                      {"nats_per_token", mean},
                      {"standard_error", number_or_null(p.losses.standard_error())},
                      {"perplexity", std::exp(mean)},
                      {"bits_per_byte", nullptr},
                      {"byte_perplexity", nullptr},
                      {"word_perplexity", nullptr},
                      {"seconds", p.losses.seconds},
                      {"tokens_per_second", p.losses.tokens() / p.losses.seconds}};
  if (p.size.bytes_per_token > 0) {
    j["bits_per_byte"] = p.nats_per_byte() / std::log(2.0);
    j["byte_perplexity"] = std::exp(p.nats_per_byte());
  }
  if (p.losses.second_tokens.num_judged > 0) {
    j["second_token_acceptance"] = p.losses.second_tokens.acceptance();
    j["second_tokens"] = p.losses.second_tokens.num_judged;
  }
  if (p.size.words_per_token > 0) j["word_perplexity"] = number_or_null(std::exp(p.nats_per_word()));
  return j;
}

std::string table_of(const Perplexity& p) {
  TextTable table({"measure", ">value", ">standard error"});
  const double mean = p.losses.mean(), error = p.losses.standard_error();
  // Five digits: the exponential would show how the sums of another mesh or batch round.
  const auto five = [](double x) { return format_text(x < 10 ? "%.4f" : "%.5g", x); };
  const auto row = [&](const char* name, double value, double slope) {
    table.add({name, five(value), std::isfinite(error) ? five(slope * error) : "-"});
  };
  row("nats per token", mean, 1);
  row("perplexity", std::exp(mean), std::exp(mean));
  if (p.size.bytes_per_token > 0) {
    row("bits per byte", p.nats_per_byte() / std::log(2.0), 1 / p.size.bytes_per_token / std::log(2.0));
    row("byte perplexity", std::exp(p.nats_per_byte()), std::exp(p.nats_per_byte()) / p.size.bytes_per_token);
  }
  if (p.size.words_per_token > 0)
    row("word perplexity", std::exp(p.nats_per_word()), std::exp(p.nats_per_word()) / p.size.words_per_token);
  if (p.losses.second_tokens.num_judged > 0)
    table.add({"second-token acceptance", format_text("%.4f", p.losses.second_tokens.acceptance()), "-"});
  return table.text();
}

}  // namespace

double WindowLosses::loss() const { return sum_of(loss_W); }
double WindowLosses::tokens() const { return sum_of(tokens_W); }

double WindowLosses::standard_error() const {
  const auto n = static_cast<double>(loss_W.size());
  const double ratio = mean();
  double squares = 0;
  for (std::size_t w = 0; w < loss_W.size(); ++w) squares += std::pow(loss_W[w] - ratio * tokens_W[w], 2);
  return n < 2 ? std::nan("") : std::sqrt(squares * n / (n - 1)) / tokens();
}

WindowLosses window_losses(EvalModel& model, const TokenSource& data, const RollingWindows& windows) {
  const Stopwatch watch;
  const auto n = static_cast<std::size_t>(windows.size());
  const auto S = static_cast<std::size_t>(model.seq());
  std::vector<double> sums(2 * n + 2);  // loss, tokens of each window; second tokens judged, accepted; this rank's
  Pass pass(model.model(), model.pass_options(windows.size(), model.seq()), model.env());
  run_windows(
      pass, model.world(), {windows.size(), model.document_mask()},
      [&](std::int64_t w, auto id, auto target, auto doc_start) { windows.fill(w, id, target, doc_start); },
      [&](const WindowBatch& batch) {
        const std::span<const float> loss_BT = pass.losses();
        for (std::size_t i = 0; i < batch.target_BT.size(); ++i) {
          if (batch.target_BT[i] < 0) continue;
          const std::size_t window = static_cast<std::size_t>(batch.first) + i / S;
          sums[window] += static_cast<double>(loss_BT[i]);
          ++sums[n + window];
        }
        const SecondTokens second = pass.second_tokens();
        sums[2 * n] += static_cast<double>(second.num_judged);
        sums[2 * n + 1] += static_cast<double>(second.num_accepted);
      });
  if (!model.world().alone()) sum_over_ranks(model.world(), std::span<double>(sums));
  WindowLosses losses{{sums.begin(), sums.begin() + static_cast<std::ptrdiff_t>(n)},
                      {sums.begin() + static_cast<std::ptrdiff_t>(n), sums.begin() + static_cast<std::ptrdiff_t>(2 * n)},
                      watch.seconds(),
                      {static_cast<std::int64_t>(sums[2 * n]), static_cast<std::int64_t>(sums[2 * n + 1])}};
  if (!std::isfinite(losses.loss()))
    throw AgreedError(Exit::kNumeric, model.info().path + ": the loss is not finite", "moe-reshard verify looks for damage",
                      0);
  if (losses.tokens() == 0)
    throw AgreedError(Exit::kBadInput, data.info().path + ": expected tokens to score, found none with another before them",
                      "documents of one token have none; see --document-mask", 0);
  return losses;
}

TextSize text_size(const TokenSource& data) {
  constexpr std::int64_t kMostTokens = std::int64_t{16} << 20;  // words of long data: as in its beginning
  const TokenFileInfo& info = data.info();
  TextSize size;
  if (info.num_bytes > 0) size.bytes_per_token = static_cast<double>(info.num_bytes) / static_cast<double>(info.num_tokens);
  std::unique_ptr<Tokenizer> tokenizer;
  try {
    tokenizer = restore_tokenizer(info.tokenizer, info.tokenizer_model);
  } catch (const Error& e) {  // a build without its library
    log_warning(std::string("words are not counted: ") + e.what());
  }
  if (!tokenizer) return size;
  const auto documents = data.document_offsets();
  std::int64_t words = 0, tokens = 0;
  std::vector<std::int32_t> ids;
  for (std::size_t d = 0; d + 1 < documents.size() && tokens < kMostTokens; ++d) {
    ids.resize(static_cast<std::size_t>(std::min(documents[d + 1] - documents[d], kMostTokens - tokens)));
    data.read(documents[d], ids);
    words += num_gaps(tokenizer->decode(ids)) + 1;
    tokens += static_cast<std::int64_t>(ids.size());
  }
  size.words_per_token = static_cast<double>(words) / static_cast<double>(tokens);
  return size;
}

TokenSource open_eval_data(const EvalDataOptions& options, const EvalModel& model) {
  std::optional<TokenSource> data;
  model.world().agree([&] {
    if (options.data.size() != 1)
      throw Error(Exit::kUsage, "--data: expected one token file or text, found " + std::to_string(options.data.size()));
    data.emplace(TokenSource::open(options.data[0]));
    model.check_data(data->info());
    if (options.stride > model.seq())
      throw Error(Exit::kUsage, "--stride: expected at most --seq, " + std::to_string(model.seq()) + ", found " +
                                    std::to_string(options.stride));
  });
  return std::move(*data);
}

RollingWindows eval_windows(const TokenSource& data, const EvalDataOptions& o, const EvalModel& model) {
  return {data, model.seq(), o.stride > 0 ? o.stride : model.seq(), model.document_mask(), o.max_tokens};
}

nlohmann::json data_json(const TokenSource& data) {
  const TokenFileInfo& info = data.info();
  return {{"path", info.path},
          {"fingerprint", info.fingerprint},
          {"tokens", info.num_tokens},
          {"documents", info.num_documents},
          {"tokenizer", info.tokenizer}};
}

nlohmann::json protocol_json(const RollingWindows& windows, const EvalDataOptions& o, const EvalModel& model) {
  return {{"windows", windows.size()},
          {"all_windows", windows.is_all()},
          {"seq", model.seq()},
          {"stride", o.stride > 0 ? o.stride : model.seq()},
          {"document_mask", model.document_mask()},
          {"first_token_scored", false}};
}

std::string protocol_text(const RollingWindows& windows, const EvalDataOptions& o, const EvalModel& model) {
  const int seq = model.seq(), stride = o.stride > 0 ? o.stride : seq;
  const std::string before =
      stride == seq ? "those before it in its window" : "at least " + std::to_string(seq - stride) + " before it";
  return thousands(windows.size()) + (windows.size() == 1 ? " window" : " windows") +
         (windows.is_all() ? "" : ", spread over the data,") + " of " + std::to_string(seq) + " tokens, one every " +
         std::to_string(stride) + "; each token scored once, seeing " + before +
         (model.document_mask() ? " of its document; first tokens of documents are not scored"
                                : "; the first is not scored");
}

Exit eval_perplexity(const std::string& path, const EvalDataOptions& options, const EvalModelOptions& model_options,
                     const CommonOptions& common, World& world, Env env) {
  EvalModel model(path, model_options, world, env, kPerplexityModules);
  const TokenSource data = open_eval_data(options, model);
  const RollingWindows windows = eval_windows(data, options, model);
  Perplexity result{window_losses(model, data, windows), {}};
  world.agree([&] {
    if (world.rank() != 0) return;
    result.size = text_size(data);
    nlohmann::json json = perplexity_json(result);
    json["command"] = "perplexity";
    json["model"] = model.json();
    json["data"] = data_json(data);
    json["protocol"] = protocol_json(windows, options, model);
    print_result(common, json,
                 labelled("model", model.text()) +
                     labelled("data", data.info().path + ", " + thousands(data.info().num_tokens) + " tokens") +
                     labelled("protocol", protocol_text(windows, options, model)) +
                     labelled("scored", thousands(static_cast<std::int64_t>(result.losses.tokens())) + " tokens in " +
                                            short_float(result.losses.seconds) + " s") +
                     table_of(result));
  });
  return Exit::kOk;
}

}  // namespace moe
