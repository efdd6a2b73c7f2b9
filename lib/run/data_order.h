// Which tokens a training sample holds: a pure function of (seed, epoch, global sample index), whatever the number of
// ranks, threads or restarts.
#pragma once

#include <cstdint>
#include <span>

#include "lib/io/tokens.h"

namespace moe {

// id = the tokens from `first` on, target = each one's next token; -1 past the end of the data (ids 0 there) and, when
// documents are masked, where the next token opens another document. doc_start: index inside the window of the first
// token of each token's document, 0 without masking. All three have the window's length.
void fill_window(const TokenSource& source, bool document_mask, std::int64_t first, std::span<std::int32_t> id,
                 std::span<std::int32_t> target, std::span<std::int32_t> doc_start);

class DataOrder {
 public:
  // Throws Error(kBadInput) if the data is shorter than one sample of seq_len + 1 tokens.
  DataOrder(const TokenSource& source, std::uint64_t seed, int seq_len, bool document_mask);

  std::int64_t samples_per_epoch() const { return samples_per_epoch_; }
  // First token of global sample `index`: epoch = index / samples_per_epoch; each epoch cuts the data at another offset
  // in [0, seq_len) and permutes its windows.
  std::int64_t first_token(std::int64_t index) const;

  // The tokens of global sample `index`; see fill_window.
  void fill(std::int64_t index, std::span<std::int32_t> id, std::span<std::int32_t> target,
            std::span<std::int32_t> doc_start) const;

 private:
  const TokenSource& source_;
  std::uint64_t seed_;
  int seq_len_;
  bool document_mask_;
  std::int64_t samples_per_epoch_;
};

}  // namespace moe
