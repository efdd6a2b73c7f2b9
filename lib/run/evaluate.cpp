#include "lib/run/evaluate.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "lib/base/error.h"
#include "lib/base/rng.h"
#include "lib/run/data_order.h"
#include "lib/base/stopwatch.h"

namespace moe {

Evaluation evaluate(Pass& pass, const TokenSource& data, bool document_mask, std::int64_t max_tokens) {
  const Stopwatch watch;
  const auto& [num_seqs, seq_len] = pass.shape();
  const auto S = static_cast<std::size_t>(seq_len);
  const std::int64_t all = (data.info().num_tokens - 1 + seq_len - 1) / seq_len;
  const std::int64_t wanted = max_tokens > 0 ? std::clamp<std::int64_t>(max_tokens / seq_len, 1, all) : all;
  std::vector<std::int32_t> id(S * static_cast<std::size_t>(num_seqs)), target(id.size()), doc_start(id.size());
  Evaluation result;
  double total = 0;
  for (std::int64_t begin = 0; begin < wanted; begin += num_seqs) {
    std::fill(target.begin(), target.end(), -1);
    for (std::int64_t w = begin; w < std::min<std::int64_t>(wanted, begin + num_seqs); ++w) {
      const std::size_t at = static_cast<std::size_t>(w - begin) * S;
      fill_window(data, document_mask, w * all / wanted * seq_len, std::span(id).subspan(at, S),
                  std::span(target).subspan(at, S), std::span(doc_start).subspan(at, S));
    }
    total += pass.forward({.shape = pass.shape(),
                           .id_T = id,
                           .target_T = target,
                           .doc_start_T = document_mask ? doc_start.data() : nullptr,
                           .with_gradient = false,
                           .tally = false});
    result.num_tokens += std::count_if(target.begin(), target.end(), [](std::int32_t t) { return t >= 0; });
  }
  result.loss = total / static_cast<double>(std::max<std::int64_t>(1, result.num_tokens));
  result.seconds = watch.seconds();
  return result;
}

namespace {

std::int32_t choose(const float* logits, std::int64_t V, float temperature, double uniform) {
  const float top = *std::max_element(logits, logits + V);
  if (temperature == 0) return static_cast<std::int32_t>(std::find(logits, logits + V, top) - logits);
  double sum = 0;
  for (std::int64_t v = 0; v < V; ++v) sum += std::exp((logits[v] - top) / static_cast<double>(temperature));
  double left = uniform * sum;
  for (std::int64_t v = 0; v < V; ++v)
    if ((left -= std::exp((logits[v] - top) / static_cast<double>(temperature))) < 0) return static_cast<std::int32_t>(v);
  return static_cast<std::int32_t>(V - 1);
}

}  // namespace

std::string sample_text(Pass& pass, const Tokenizer& tokenizer, const std::string& prompt, const SampleOptions& options) {
  std::vector<std::int32_t> text = tokenizer.encode(prompt);
  if (text.empty()) throw Error(Exit::kUsage, "--sample: expected a prompt of at least one token, found an empty one");
  const auto S = static_cast<std::size_t>(pass.shape().seq_len);
  const Rng rng(options.seed, "sample");
  std::vector<std::int32_t> id(S), target(S, -1);
  std::size_t begin = text.size() > S ? text.size() - S : 0;  // first token in the window
  for (int i = 0; i < options.num_tokens; ++i) {
    if (text.size() - begin > S) begin = text.size() - std::max<std::size_t>(1, S / 2);
    const std::size_t n = text.size() - begin;
    std::fill(std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(begin), n, id.begin()), id.end(), 0);
    pass.forward({.shape = pass.shape(), .id_T = id, .target_T = target, .with_gradient = false, .tally = false});
    const auto* logits = static_cast<const float*>(pass.logits().row(static_cast<std::int64_t>(n) - 1));
    text.push_back(choose(logits, pass.logits().cols, options.temperature, rng.uniform(static_cast<std::uint64_t>(i))));
  }
  return tokenizer.decode(text);
}

}  // namespace moe
