// moe-eval perplexity and compare: losses of windows that roll over a token file. Not here: the windows (eval_windows.h),
// the statistics of pairs (paired.h).
#pragma once

#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/run/eval_model.h"
#include "lib/run/eval_windows.h"

namespace moe {

struct EvalDataOptions {
  std::vector<std::string> data;
  int stride = 0;               // tokens between the beginnings of windows; 0: --seq
  std::int64_t max_tokens = 0;  // 0: all
};

// The losses of each window, on every rank the same.
struct WindowLosses {
  std::vector<double> loss_W, tokens_W;  // nats and scored tokens of each window
  double seconds = 0;
  SecondTokens second_tokens{};  // of all windows, if the model has a module of multi-token prediction
  double loss() const;
  double tokens() const;
  double mean() const { return loss() / tokens(); }  // nats per token
  // Of mean(): windows are the sample, since tokens of one window are not independent (Cochran, ratio estimator). NaN of
  // one.
  double standard_error() const;
};
// AgreedError: 65 if no token is scored, 76 if a loss is not finite.
WindowLosses window_losses(EvalModel& model, const TokenSource& data, const RollingWindows& windows);

// What tokens stand for, of the whole file; 0 where the file does not say.
struct TextSize {
  double bytes_per_token = 0;
  double words_per_token = 0;  // words: runs of white space and one, of each document, as lm-evaluation-harness counts
};
TextSize text_size(const TokenSource& data);

inline constexpr int kPerplexityModules = 1;  // that it uses: the first one's acceptance
Exit eval_perplexity(const std::string& path, const EvalDataOptions& options, const EvalModelOptions& model,
                     const CommonOptions& common, World& world, Env env);
// Exit code 0 whatever the difference is.
Exit eval_compare(const std::string& a, const std::string& b, const EvalDataOptions& options, const EvalModelOptions& model,
                  const CommonOptions& common, World& world, Env env);

// The one file of --data, and the stride, checked against the model. Errors are agreed on.
TokenSource open_eval_data(const EvalDataOptions& options, const EvalModel& model);
RollingWindows eval_windows(const TokenSource& data, const EvalDataOptions& options, const EvalModel& model);
nlohmann::json data_json(const TokenSource& data);
nlohmann::json protocol_json(const RollingWindows& windows, const EvalDataOptions& options, const EvalModel& model);
std::string protocol_text(const RollingWindows& windows, const EvalDataOptions& options, const EvalModel& model);

}  // namespace moe
