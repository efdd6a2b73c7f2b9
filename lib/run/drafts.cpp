#include "lib/run/drafts.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace moe {

void HiddenRows::append(Stream& stream, CMat rows, std::int64_t first, std::int64_t count) {
  if (count > 1 && rows.stride != rows.cols)
    throw std::invalid_argument("drafts: expected hidden states with a row stride of " + std::to_string(rows.cols) +
                                ", found " + std::to_string(rows.stride));
  const std::size_t num_bytes = static_cast<std::size_t>(count * rows.cols) * size_of(rows.dtype), before = bytes_.size();
  bytes_.resize(before + num_bytes);
  stream.copy(bytes_.data() + before, rows.row(first), num_bytes);
  stream.synchronize();
}

void HiddenRows::keep_last(std::size_t count, std::size_t row_bytes) {
  const std::size_t kept = std::min(bytes_.size(), count * row_bytes);
  bytes_.erase(bytes_.begin(), bytes_.end() - static_cast<std::ptrdiff_t>(kept));
}

CMat HiddenRows::view(DType dtype, std::int64_t cols) const {
  const std::size_t row_bytes = static_cast<std::size_t>(cols) * size_of(dtype);
  return {bytes_.data(), dtype, static_cast<std::int64_t>(bytes_.size() / row_bytes), cols, cols};
}

// Of the window, or of the drafts behind it.
std::int32_t Drafts::Chain::token(std::int64_t index) const {
  const auto i = static_cast<std::size_t>(index), n = wanted.window.size();
  return i < n ? wanted.window[i] : tokens[i - n];
}

Drafts::Drafts(Pass& pass, KvCache& cache, const Model& model, Stream& stream)
    : pass_(pass),
      cache_(cache),
      stream_(stream),
      num_modules_(pass.num_modules()),
      dtype_(model.dtype()),
      D_(model.config().d_model),
      alone_(pass.world().alone()),
      known_(static_cast<std::size_t>(num_modules_) * static_cast<std::size_t>(cache.num_seqs())) {}

void Drafts::forget(int seq) {
  for (int k = 0; k < num_modules_; ++k) {
    cache_.set_length(seq, 0, k + 1);
    known(k, seq).clear();
  }
}

void Drafts::add_hidden(int seq, CMat rows) { known(0, seq).append(stream_, rows, 0, rows.rows); }

// One module for all texts that want this draft.
struct Drafts::Step {
  int module;
  bool is_own;  // the module goes on from its own hidden states
  std::vector<Chain*> chains;
  std::vector<CacheRun> runs;
  std::vector<std::int32_t> id_T;
  HiddenRows hidden;
};

Drafts::Step Drafts::step_of(std::vector<Chain>& chains, int place) {
  Step s{.module = std::min(place, num_modules_ - 1),
         .is_own = place >= num_modules_,
         .chains = {},
         .runs = {},
         .id_T = {},
         .hidden = {}};
  for (Chain& c : chains) {
    if (c.wanted.count <= place) continue;
    const int seq = c.wanted.seq, begin = cache_.length(seq, s.module + 1);
    const std::int64_t end = c.last() + 1 + std::max(0, place - num_modules_ + 1);
    s.chains.push_back(&c);
    s.runs.push_back({.seq = seq, .count = static_cast<int>(end) - begin});
    for (std::int64_t i = begin; i < end; ++i) s.id_T.push_back(c.token(i + s.module + 1));
    if (!s.is_own) s.hidden.append(known(s.module, seq));
    s.hidden.append(c.uncertain);
  }
  return s;
}

// Drafts and hidden states that a step has made. Those of module k are certain up to k positions before the last.
void Drafts::read(const Step& s, const Choose& choose) {
  const Mat hidden = pass_.module_hidden(s.module);
  const CMat logits = pass_.logits_on_host();
  const bool is_last = s.module + 1 == num_modules_;
  std::int64_t row = 0;
  for (std::size_t i = 0; i < s.runs.size(); ++i) {
    Chain& c = *s.chains[i];
    const std::int64_t count = s.runs[i].count, uncertain = is_last ? 1 : std::min<std::int64_t>(s.module, count);
    if (!is_last) known(s.module + 1, c.wanted.seq).append(stream_, hidden, row, count - uncertain);
    c.uncertain.clear();
    c.uncertain.append(stream_, hidden, row + count - uncertain, uncertain);
    row += count;
    const auto* logits_V = static_cast<const float*>(logits.row(static_cast<std::int64_t>(i)));
    c.tokens.push_back(
        choose(c.which, static_cast<int>(c.tokens.size()), {logits_V, static_cast<std::size_t>(logits.cols)}));
  }
}

// Position p of module k has seen token p + k + 1, and h^k_p has seen token p + k: those of the text may stay.
void Drafts::take_back(const Chain& c) {
  for (int k = 0; k < std::min(c.wanted.count, num_modules_); ++k) {
    const std::int64_t stays = c.last() + 1 - k;
    cache_.set_length(c.wanted.seq, static_cast<int>(std::max<std::int64_t>(0, stays)), k + 1);
    known(k, c.wanted.seq).keep_last(k > 0 && stays >= 0 ? 1 : 0, static_cast<std::size_t>(D_) * size_of(dtype_));
  }
}

void Drafts::make(std::span<const Wanted> wanted, int most, const Choose& choose) {
  std::vector<Chain> chains;
  for (std::size_t i = 0; i < wanted.size(); ++i)
    if (wanted[i].count > 0) chains.push_back({wanted[i], i, {}, {}});
  for (int place = 0; place < most; ++place) {
    const Step step = step_of(chains, place);
    if (alone_ && step.runs.empty()) break;
    pass_.extend_module(step.module, step.runs, step.id_T, step.hidden.view(dtype_, D_));
    read(step, choose);
  }
  for (const Chain& c : chains) take_back(c);
}

}  // namespace moe
