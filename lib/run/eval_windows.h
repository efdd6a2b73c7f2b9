// Forward passes over numbered windows, shared out over all ranks; and the windows that roll over data so that each token is
// scored once. Not here: what is done with losses and logits.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "lib/io/tokens.h"
#include "lib/model/model.h"

namespace moe {

// Windows [first, first + count) of one rank, after their forward; num_tokens of the pass's seq_len each. The pass's
// losses() and logits() are theirs, window after window.
struct WindowBatch {
  std::int64_t first = 0;
  int count = 0;
  std::span<const std::int32_t> target_BT;
  double loss = 0;  // sum over the counted targets, nats
};
// id, target (-1: not counted) and, with a document mask, the index of each token's first token that it sees.
using FillWindow = std::function<void(std::int64_t window, std::span<std::int32_t> id, std::span<std::int32_t> target,
                                      std::span<std::int32_t> doc_start)>;
struct WindowRun {
  std::int64_t num_windows = 0;
  bool document_mask = false;
  bool tally = false;  // the routers count (Pass::tallies)
};
// As many windows at a time as the pass has sequences, on each rank; a rank without one takes part in the exchanges. `fill`
// and `use` are called where a window is. Every rank of the mesh calls.
void run_windows(Pass& pass, const World& world, const WindowRun& run, const FillWindow& fill,
                 const std::function<void(const WindowBatch&)>& use);
// Sequences of a pass for so many windows: about 2048 tokens of a rank at a time, and no more than there are.
int windows_at_a_time(std::int64_t num_windows, int seq_len, int num_ranks);

// Windows of `seq` tokens that begin every `stride` tokens. The first one scores all of its targets, the others the last
// `stride`, so that each token but the first of the data is scored exactly once, with seq - stride tokens before it or all
// that there are. Data and documents: as fill_window (data_order.h) takes them.
class RollingWindows {
 public:
  // max_tokens > 0: windows spread evenly over the data that score about so many, at least one.
  RollingWindows(const TokenSource& data, int seq, int stride, bool document_mask, std::int64_t max_tokens);

  std::int64_t size() const { return wanted_; }
  bool is_all() const { return wanted_ == all_; }
  void fill(std::int64_t window, std::span<std::int32_t> id, std::span<std::int32_t> target,
            std::span<std::int32_t> doc_start) const;

 private:
  const TokenSource& data_;
  int seq_, stride_;
  bool document_mask_;
  std::int64_t all_, wanted_;
};

}  // namespace moe
