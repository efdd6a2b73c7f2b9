// Drafts of the tokens behind texts in a cache, by the model's modules of multi-token prediction (lib/model/mtp.h): draft j
// is module j's; behind the last module come its own drafts of its own hidden states, one position further each, as serving
// systems use a single module. A module's part of the cache holds positions whose tokens are no drafts; what a draft
// touched is taken back at once, and computed again with the tokens that came. Not here: whether a draft stands
// (generate_loop.h).
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "lib/model/model.h"

namespace moe {

// Rows of hidden states on the host, one after the other.
class HiddenRows {
 public:
  // Of the device, where they lie one after the other too; waits for them.
  void append(Stream& stream, CMat rows, std::int64_t first, std::int64_t count);
  void append(const HiddenRows& rows) { bytes_.insert(bytes_.end(), rows.bytes_.begin(), rows.bytes_.end()); }
  void keep_last(std::size_t count, std::size_t row_bytes);
  void clear() { bytes_.clear(); }
  CMat view(DType dtype, std::int64_t cols) const;

 private:
  std::vector<std::byte> bytes_;
};

class Drafts {
 public:
  // pass: over this cache, with modules.
  Drafts(Pass& pass, KvCache& cache, const Model& model, Stream& stream);

  void forget(int seq);  // the text begins anew
  // h^0 of a text's next positions, the first one behind those of the calls before. Their next tokens are known when the
  // drafts are made.
  void add_hidden(int seq, CMat rows);

  struct Wanted {
    int seq;
    std::span<const std::int32_t> window;  // the text; all but its last token have been through the model
    int count;                             // of drafts
  };
  // Token of draft `place` of wanted[which], from its logits.
  using Choose = std::function<std::int32_t(std::size_t which, int place, std::span<const float> logits_V)>;
  // Up to `most` drafts each, which is the same on all ranks. A collective call.
  void make(std::span<const Wanted> wanted, int most, const Choose& choose);

 private:
  // What goes on of one text.
  struct Chain {
    Wanted wanted;
    std::size_t which;
    std::vector<std::int32_t> tokens;  // drafts so far
    HiddenRows uncertain;              // hidden states for the next module that come from drafts
    std::int64_t last() const { return static_cast<std::int64_t>(wanted.window.size()) - 2; }  // position
    std::int32_t token(std::int64_t index) const;
  };
  struct Step;
  Step step_of(std::vector<Chain>& chains, int place);
  void read(const Step& step, const Choose& choose);
  void take_back(const Chain& chain);
  HiddenRows& known(int module, int seq) { return known_[static_cast<std::size_t>(module * cache_.num_seqs() + seq)]; }

  Pass& pass_;
  KvCache& cache_;
  Stream& stream_;
  int num_modules_;
  DType dtype_;
  std::int64_t D_;
  bool alone_;
  std::vector<HiddenRows> known_;  // [module][seq]: h^k from the module's length in the cache on
};

}  // namespace moe
