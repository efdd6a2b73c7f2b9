#include "lib/run/data_order.h"

#include <algorithm>
#include <vector>

#include "lib/base/error.h"
#include "lib/base/rng.h"

namespace moe {

void fill_window(const TokenSource& source, bool document_mask, std::int64_t first, std::span<std::int32_t> id,
                 std::span<std::int32_t> target, std::span<std::int32_t> doc_start) {
  const std::int64_t left = source.info().num_tokens - first;
  const auto n = static_cast<std::size_t>(std::min<std::int64_t>(static_cast<std::int64_t>(id.size()), left - 1));
  std::vector<std::int32_t> tokens(n + 1);
  source.read(first, tokens);
  std::fill(id.begin(), id.end(), 0);
  std::fill(target.begin(), target.end(), -1);
  std::fill(doc_start.begin(), doc_start.end(), 0);
  std::copy_n(tokens.begin(), n, id.begin());
  std::copy_n(tokens.begin() + 1, n, target.begin());
  if (!document_mask) return;
  const auto docs = source.document_offsets();
  auto next = std::upper_bound(docs.begin(), docs.end(), first);  // first boundary after the window's first token
  std::int32_t start = 0;
  for (std::size_t i = 0; i < id.size(); ++i) {
    const std::int64_t at = first + static_cast<std::int64_t>(i);
    while (next != docs.end() && *next <= at) {
      start = static_cast<std::int32_t>(i);
      ++next;
    }
    doc_start[i] = start;
    if (next != docs.end() && *next == at + 1) target[i] = -1;  // the next token opens another document
  }
}

DataOrder::DataOrder(const TokenSource& source, std::uint64_t seed, int seq_len, bool document_mask)
    : source_(source), seed_(seed), seq_len_(seq_len), document_mask_(document_mask) {
  const std::int64_t tokens = source.info().num_tokens;
  if (tokens < seq_len + 1)
    throw Error(Exit::kBadInput,
                source.info().path + ": expected at least " + std::to_string(seq_len + 1) + " tokens (--seq + 1), found " +
                    std::to_string(tokens),
                "give more text or a smaller --seq");
  // One window less than fits, where there are several: room for the offset of the epoch.
  samples_per_epoch_ = std::max<std::int64_t>(1, (tokens - 1) / seq_len - 1);
}

std::int64_t DataOrder::first_token(std::int64_t index) const {
  const std::int64_t epoch = index / samples_per_epoch_;
  const Rng rng(seed_, "data.epoch." + std::to_string(epoch));
  const std::int64_t slack = source_.info().num_tokens - 1 - samples_per_epoch_ * seq_len_;
  const std::int64_t offset =
      static_cast<std::int64_t>(rng.uniform(0) * static_cast<double>(std::min<std::int64_t>(slack + 1, seq_len_)));
  const auto n = static_cast<std::uint64_t>(samples_per_epoch_);
  const auto window = permuted_index(rng, n, static_cast<std::uint64_t>(index % samples_per_epoch_));
  return offset + static_cast<std::int64_t>(window) * seq_len_;
}

void DataOrder::fill(std::int64_t index, std::span<std::int32_t> id, std::span<std::int32_t> target,
                     std::span<std::int32_t> doc_start) const {
  fill_window(source_, document_mask_, first_token(index), id, target, doc_start);
}

}  // namespace moe
