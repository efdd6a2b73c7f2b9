#include "lib/run/global_batch.h"

#include <algorithm>

#include "lib/model/mtp.h"

namespace moe {

int BatchCut::micro_batch_per_rank() const {
  const int share = (batch + num_ranks - 1) / num_ranks;
  return micro_batch > 0 ? std::min(micro_batch, share) : share;
}

int BatchCut::num_micro_batches() const {
  const int together = micro_batch_per_rank() * num_ranks;
  return (batch + together - 1) / together;
}

BatchCut::Range BatchCut::range(int i) const {
  const int together = micro_batch_per_rank() * num_ranks, begin = i * together;
  const std::int64_t count = std::min(together, batch - begin);
  const auto at = [&](int r) { return begin + static_cast<int>(count * r / num_ranks); };
  return {at(rank), at(rank + 1) - at(rank)};
}

GlobalBatch::GlobalBatch(const BatchCut& cut, bool document_mask, const Device& device)
    : cut_(cut), document_mask_(document_mask), room_(std::make_unique<HostRoom>(device)) {
  int sequences = 0;
  for (int i = 0; i < cut.num_micro_batches(); ++i) {
    micro2first_.push_back(sequences);
    sequences += cut.range(i).count;
  }
  const std::size_t tokens = static_cast<std::size_t>(sequences) * static_cast<std::size_t>(cut.seq);
  const auto room = room_->of<std::int32_t>(3 * tokens);
  id_BT_ = room.first(tokens), target_BT_ = room.subspan(tokens, tokens), doc_start_BT_ = room.last(tokens);
}

void GlobalBatch::load(const DataOrder& order, std::int64_t first_sample) {
  const auto S = static_cast<std::size_t>(cut_.seq);
  std::size_t at = 0;
  for (int i = 0; i < cut_.num_micro_batches(); ++i)
    for (int s = 0; s < cut_.range(i).count; ++s, at += S)
      order.fill(first_sample + cut_.range(i).first + s, id_BT_.subspan(at, S), target_BT_.subspan(at, S),
                 doc_start_BT_.subspan(at, S));
  num_counted_ = std::count_if(target_BT_.begin(), target_BT_.end(), [](std::int32_t t) { return t >= 0; });
}

std::int64_t GlobalBatch::num_mtp_counted(int module) const {
  std::int64_t counted = 0;
  for (int i = 0; i < cut_.num_micro_batches(); ++i) counted += num_mtp_targets(micro_batch(i, 1), module);
  return counted;
}

MicroBatch GlobalBatch::micro_batch(int i, double loss_scale) const {
  const BatchShape shape{cut_.range(i).count, cut_.seq};
  const auto at = static_cast<std::size_t>(micro2first_[static_cast<std::size_t>(i)]) * static_cast<std::size_t>(cut_.seq);
  const auto T = static_cast<std::size_t>(shape.num_tokens());
  return {.shape = shape,
          .id_T = id_BT_.subspan(at, T),
          .target_T = target_BT_.subspan(at, T),
          .doc_start_T = document_mask_ ? doc_start_BT_.data() + at : nullptr,
          .loss_scale = loss_scale,
          .share = static_cast<float>(shape.num_seqs) / static_cast<float>(cut_.batch),
          .last_of_step = i + 1 == cut_.num_micro_batches()};
}

}  // namespace moe
