#include "lib/run/eval_windows.h"

#include <algorithm>
#include <vector>

#include "lib/run/data_order.h"

namespace moe {
namespace {

// Of the windows that all ranks run together, those of this rank.
struct Share {
  std::int64_t begin, end;
};
Share share_of_rank(std::int64_t begin, std::int64_t end, const World& world) {
  const std::int64_t n = end - begin;
  return {begin + n * world.rank() / world.size(), begin + n * (world.rank() + 1) / world.size()};
}

}  // namespace

void run_windows(Pass& pass, const World& world, const WindowRun& run, const FillWindow& fill,
                 const std::function<void(const WindowBatch&)>& use) {
  const auto& [num_seqs, seq_len] = pass.shape();
  const auto S = static_cast<std::size_t>(seq_len);
  const std::int64_t together = std::int64_t{num_seqs} * world.size();
  std::vector<std::int32_t> id(S * static_cast<std::size_t>(num_seqs)), target(id.size()), doc_start(id.size());
  for (std::int64_t begin = 0; begin < run.num_windows; begin += together) {
    const Share mine = share_of_rank(begin, std::min(run.num_windows, begin + together), world);
    const auto n = static_cast<std::size_t>(mine.end - mine.begin);
    for (std::size_t i = 0; i < n; ++i)
      fill(mine.begin + static_cast<std::int64_t>(i), std::span(id).subspan(i * S, S), std::span(target).subspan(i * S, S),
           std::span(doc_start).subspan(i * S, S));
    const auto targets = std::span<const std::int32_t>(target).first(n * S);
    pass.forward({.shape = {static_cast<int>(n), seq_len},
                  .id_T = std::span<const std::int32_t>(id).first(n * S),
                  .target_T = targets,
                  .doc_start_T = run.document_mask ? doc_start.data() : nullptr,
                  .with_gradient = false,
                  .tally = run.tally});
    const double loss = pass.take_losses().front();
    if (n > 0) use({mine.begin, static_cast<int>(n), targets, loss});
  }
}

int windows_at_a_time(std::int64_t num_windows, int seq_len, int num_ranks) {
  constexpr int kTokensAtATime = 2048;
  const std::int64_t share = (num_windows + num_ranks - 1) / num_ranks;
  return static_cast<int>(std::clamp<std::int64_t>(kTokensAtATime / seq_len, 1, std::max<std::int64_t>(1, share)));
}

RollingWindows::RollingWindows(const TokenSource& data, int seq, int stride, bool document_mask, std::int64_t max_tokens)
    : data_(data), seq_(seq), stride_(stride), document_mask_(document_mask) {
  const std::int64_t targets = data.info().num_tokens - 1;
  all_ = targets <= seq ? 1 : 1 + (targets - seq + stride - 1) / stride;
  wanted_ = max_tokens > 0 ? std::clamp<std::int64_t>(max_tokens / stride, 1, all_) : all_;
}

void RollingWindows::fill(std::int64_t window, std::span<std::int32_t> id, std::span<std::int32_t> target,
                          std::span<std::int32_t> doc_start) const {
  const std::int64_t first = window * all_ / wanted_ * stride_;
  fill_window(data_, document_mask_, first, id, target, doc_start);
  if (first > 0) std::fill_n(target.begin(), seq_ - stride_, -1);
}

}  // namespace moe
