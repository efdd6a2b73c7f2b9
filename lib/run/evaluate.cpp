#include "lib/run/evaluate.h"

#include <algorithm>
#include <vector>

#include "lib/base/error.h"
#include "lib/base/rng.h"
#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/run/eval_windows.h"
#include "lib/run/sampling.h"

namespace moe {

Evaluation evaluate(Pass& pass, World& world, const TokenSource& data, bool document_mask, std::int64_t max_tokens) {
  const Stopwatch watch;
  const int seq = pass.shape().seq_len;
  const RollingWindows windows(data, seq, seq, document_mask, max_tokens);
  double sums[4] = {};  // loss, counted tokens; second tokens judged, accepted
  run_windows(
      pass, world, {windows.size(), document_mask},
      [&](std::int64_t w, auto id, auto target, auto doc_start) { windows.fill(w, id, target, doc_start); },
      [&](const WindowBatch& batch) {
        sums[0] += batch.loss;
        sums[1] += static_cast<double>(
            std::count_if(batch.target_BT.begin(), batch.target_BT.end(), [](std::int32_t t) { return t >= 0; }));
        const SecondTokens second = pass.second_tokens();
        sums[2] += static_cast<double>(second.num_judged);
        sums[3] += static_cast<double>(second.num_accepted);
      });
  if (!world.alone())
    world.lane().call("evaluation", [&] { all_reduce_sum(world.comm(), "evaluation", std::span<double>(sums)); });
  return {.loss = sums[0] / std::max(1.0, sums[1]),
          .num_tokens = static_cast<std::int64_t>(sums[1]),
          .seconds = watch.seconds(),
          .second_tokens = {static_cast<std::int64_t>(sums[2]), static_cast<std::int64_t>(sums[3])}};
}

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
    text.push_back(choose_token(pass.logits_of(static_cast<std::int64_t>(n) - 1), {.temperature = options.temperature},
                                rng.uniform(static_cast<std::uint64_t>(i))));
  }
  return tokenizer.decode(text);
}

}  // namespace moe
