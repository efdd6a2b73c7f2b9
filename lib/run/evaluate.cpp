#include "lib/run/evaluate.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "lib/base/error.h"
#include "lib/base/rng.h"
#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/run/data_order.h"

namespace moe {

namespace {

// The windows of one pass of all ranks that are this rank's.
struct Windows {
  std::int64_t begin, end;
};
Windows windows_of_rank(std::int64_t begin, std::int64_t end, const World& world) {
  const std::int64_t n = end - begin;
  return {begin + n * world.rank() / world.size(), begin + n * (world.rank() + 1) / world.size()};
}

}  // namespace

Evaluation evaluate(Pass& pass, World& world, const TokenSource& data, bool document_mask, std::int64_t max_tokens) {
  const Stopwatch watch;
  const auto& [num_seqs, seq_len] = pass.shape();
  const auto S = static_cast<std::size_t>(seq_len);
  const std::int64_t all = (data.info().num_tokens - 1 + seq_len - 1) / seq_len;
  const std::int64_t wanted = max_tokens > 0 ? std::clamp<std::int64_t>(max_tokens / seq_len, 1, all) : all;
  const std::int64_t together = std::int64_t{num_seqs} * world.size();
  std::vector<std::int32_t> id(S * static_cast<std::size_t>(num_seqs)), target(id.size()), doc_start(id.size());
  double sums[2] = {};  // loss, counted tokens
  for (std::int64_t begin = 0; begin < wanted; begin += together) {
    const Windows mine = windows_of_rank(begin, std::min(wanted, begin + together), world);
    const auto n = static_cast<std::size_t>(mine.end - mine.begin);
    for (std::size_t i = 0; i < n; ++i) {
      const std::int64_t window = mine.begin + static_cast<std::int64_t>(i);
      fill_window(data, document_mask, window * all / wanted * seq_len, std::span(id).subspan(i * S, S),
                  std::span(target).subspan(i * S, S), std::span(doc_start).subspan(i * S, S));
    }
    const auto targets = std::span<const std::int32_t>(target).first(n * S);
    sums[0] += pass.forward({.shape = {static_cast<int>(n), seq_len},
                             .id_T = std::span<const std::int32_t>(id).first(n * S),
                             .target_T = targets,
                             .doc_start_T = document_mask ? doc_start.data() : nullptr,
                             .with_gradient = false,
                             .tally = false});
    sums[1] += static_cast<double>(std::count_if(targets.begin(), targets.end(), [](std::int32_t t) { return t >= 0; }));
  }
  if (!world.alone())
    world.lane().call("evaluation", [&] { all_reduce_sum(world.comm(), "evaluation", std::span<double>(sums)); });
  return {.loss = sums[0] / std::max(1.0, sums[1]),
          .num_tokens = static_cast<std::int64_t>(sums[1]),
          .seconds = watch.seconds()};
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

std::string sample_text(Pass& pass, const World& world, const Tokenizer& tokenizer, const std::string& prompt,
                        const SampleOptions& options) {
  std::vector<std::int32_t> text = tokenizer.encode(prompt);
  if (text.empty())
    throw AgreedError(Exit::kUsage, "--sample: expected a prompt of at least one token, found an empty one", "", 0);
  const auto S = static_cast<std::size_t>(pass.shape().seq_len);
  const bool has_text = world.rank() == 0;
  const Rng rng(options.seed, "sample");
  std::vector<std::int32_t> id(has_text ? S : 0), target(id.size(), -1);
  std::size_t begin = text.size() > S ? text.size() - S : 0;  // first token in the window
  for (int i = 0; i < options.num_tokens; ++i) {
    if (text.size() - begin > S) begin = text.size() - std::max<std::size_t>(1, S / 2);
    const std::size_t n = text.size() - begin;
    if (has_text) std::fill(std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(begin), n, id.begin()), id.end(), 0);
    pass.forward({.shape = {has_text ? 1 : 0, pass.shape().seq_len},
                  .id_T = id,
                  .target_T = target,
                  .with_gradient = false,
                  .tally = false});
    if (!has_text) continue;
    const auto* logits = static_cast<const float*>(pass.logits().row(static_cast<std::int64_t>(n) - 1));
    text.push_back(choose(logits, pass.logits().cols, options.temperature, rng.uniform(static_cast<std::uint64_t>(i))));
  }
  return tokenizer.decode(text);
}

}  // namespace moe
