#include "lib/run/evaluate.h"

#include <algorithm>
#include <vector>

#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/run/eval_windows.h"

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

}  // namespace moe
