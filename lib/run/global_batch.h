// The sequences of a step, cut over micro-batches and ranks. Any number of ranks: shares differ by at most one sequence, and
// may be empty. The global batch is the same however it is cut.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lib/model/block.h"
#include "lib/run/data_order.h"
#include "lib/tensor/host_room.h"

namespace moe {

struct BatchCut {
  int batch = 1;        // sequences of a step, of all ranks
  int micro_batch = 0;  // of one rank at a time; 0: all of its share
  int seq = 1;
  int num_ranks = 1, rank = 0;

  int micro_batch_per_rank() const;  // never 0
  int num_micro_batches() const;     // the same on every rank
  // Sequences [first, first + count) of the step that this rank computes in its i-th micro-batch.
  struct Range {
    int first = 0, count = 0;
  };
  Range range(int i) const;
};

// This rank's sequences of one step, where copies to the device run from. load() when none is on its way.
class GlobalBatch {
 public:
  GlobalBatch(const BatchCut& cut, bool document_mask, const Device& device);

  void load(const DataOrder& order, std::int64_t first_sample);
  std::int64_t num_counted() const { return num_counted_; }  // targets here that count
  std::int64_t num_mtp_counted(int module) const;            // the same of a module of multi-token prediction
  // loss_scale: 1 / counted tokens of the global batch.
  MicroBatch micro_batch(int i, double loss_scale) const;
  const BatchCut& cut() const { return cut_; }

 private:
  BatchCut cut_;
  bool document_mask_;
  std::vector<int> micro2first_;  // first sequence of a micro-batch in the room
  std::unique_ptr<HostRoom> room_;
  std::span<std::int32_t> id_BT_, target_BT_, doc_start_BT_;
  std::int64_t num_counted_ = 0;
};

}  // namespace moe
