#include "lib/run/eval_score.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>

#include "lib/comm/collectives.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/eval_model.h"
#include "lib/run/eval_windows.h"

namespace moe {
namespace {

// What the model is given of a request: all but the last of the tokens [num_cut, context + continuation), from `at` in
// window `window`; its targets are the token after each.
struct Placed {
  std::int64_t num_cut = 0;
  int length = 0;      // inputs; 0: nothing to score
  int num_scored = 0;  // the last targets
  std::int64_t window = 0;
  int at = 0;
};

std::string name_of(std::size_t number, const ScoreRequest& r) {
  return r.where.empty() ? "request " + std::to_string(number) : r.where;
}

[[noreturn]] void refuse(const std::string& name, const std::string& expected, const std::string& found, const char* hint) {
  throw AgreedError(Exit::kBadInput, name + ": expected " + expected + ", found " + found, hint, 0);
}

std::int32_t token_of(const ScoreRequest& r, std::int64_t i) {
  const auto at = static_cast<std::size_t>(i);
  return at < r.context.size() ? r.context[at] : r.continuation[at - r.context.size()];
}

void check_tokens(std::size_t number, const ScoreRequest& r, int vocab_size) {
  for (const auto* tokens : {&r.context, &r.continuation})
    for (const std::int32_t id : *tokens)
      if (id < 0 || id >= vocab_size)
        refuse(name_of(number, r), "tokens below " + std::to_string(vocab_size) + ", the model's vocabulary",
               std::to_string(id), "was the text encoded with the tokenizer of the model?");
}

Placed cut_to_window(std::size_t number, const ScoreRequest& r, int seq) {
  const auto context = static_cast<std::int64_t>(r.context.size()), n = static_cast<std::int64_t>(r.continuation.size());
  const std::int64_t scored = std::max<std::int64_t>(0, context > 0 ? n : n - 1);
  if (scored > seq)
    refuse(name_of(number, r), "a continuation of at most " + std::to_string(seq) + " tokens to score, the model's window",
           std::to_string(scored), "a larger --seq has room for it");
  if (scored == 0) return {};
  const std::int64_t cut = std::max<std::int64_t>(0, context + n - 1 - seq);
  return {.num_cut = cut, .length = static_cast<int>(context + n - 1 - cut), .num_scored = static_cast<int>(scored)};
}

// Windows of requests: each request, the longest first, goes where it leaves the least room.
class Packing {
 public:
  Packing(std::span<const ScoreRequest> requests, const EvalModel& model) : requests_(requests) {
    for (std::size_t i = 0; i < requests.size(); ++i) {
      check_tokens(i, requests[i], model.config().vocab_size);
      placed_.push_back(cut_to_window(i, requests[i], model.seq()));
      longest_ = std::max(longest_, placed_.back().length);
    }
    constexpr int kStep = 64;  // windows of few lengths: a pass serves many calls
    seq_ = std::min(model.seq(), (longest_ + kStep - 1) / kStep * kStep);
    pack();
  }

  int seq() const { return seq_; }
  std::int64_t num_windows() const { return static_cast<std::int64_t>(window2requests_.size()); }
  const Placed& placed(std::size_t request) const { return placed_[request]; }
  const std::vector<std::size_t>& requests_of(std::int64_t window) const {
    return window2requests_[static_cast<std::size_t>(window)];
  }

  void fill(std::int64_t window, std::span<std::int32_t> id, std::span<std::int32_t> target,
            std::span<std::int32_t> doc_start) const {
    std::fill(id.begin(), id.end(), 0);
    std::fill(target.begin(), target.end(), -1);
    int end = 0;
    for (const std::size_t number : requests_of(window)) {
      const Placed& p = placed_[number];
      for (int i = 0; i < p.length; ++i) {
        const auto at = static_cast<std::size_t>(p.at + i);
        id[at] = token_of(requests_[number], p.num_cut + i);
        if (i >= p.length - p.num_scored) target[at] = token_of(requests_[number], p.num_cut + i + 1);
        doc_start[at] = p.at;
      }
      end = p.at + p.length;
    }
    std::fill(doc_start.begin() + end, doc_start.end(), end);
  }

 private:
  void pack() {
    std::vector<std::size_t> order(placed_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return placed_[a].length > placed_[b].length; });
    std::multimap<int, std::size_t> room2window;
    for (const std::size_t number : order) {
      Placed& p = placed_[number];
      if (p.length == 0) continue;
      auto found = room2window.lower_bound(p.length);
      if (found == room2window.end()) {
        found = room2window.emplace(seq_, window2requests_.size());
        window2requests_.emplace_back();
      }
      const auto [room, window] = *found;
      p.window = static_cast<std::int64_t>(window);
      p.at = seq_ - room;
      window2requests_[window].push_back(number);
      room2window.erase(found);
      if (room > p.length) room2window.emplace(room - p.length, window);
    }
  }

  std::span<const ScoreRequest> requests_;
  std::vector<Placed> placed_;
  std::vector<std::vector<std::size_t>> window2requests_;  // in the order of their places
  int longest_ = 0, seq_ = 1;
};

class Scorer {
 public:
  explicit Scorer(EvalModel& model) : model_(model) {}

  std::vector<ScoreResult> operator()(std::span<const ScoreRequest> requests) {
    const Packing packing(requests, model_);
    std::vector<double> sums(2 * requests.size());  // log-likelihood, scored tokens that are not the likeliest; of this rank
    if (packing.num_windows() > 0) {
      make_pass(packing);
      run_windows(
          *pass_, model_.world(), {packing.num_windows(), true},
          [&](std::int64_t w, auto id, auto target, auto doc_start) { packing.fill(w, id, target, doc_start); },
          [&](const WindowBatch& batch) { add(packing, batch, sums); });
      if (!model_.world().alone()) sum_over_ranks(model_.world(), std::span<double>(sums));
    }
    std::vector<ScoreResult> results;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      const Placed& p = packing.placed(i);
      if (!std::isfinite(sums[2 * i]))
        throw AgreedError(Exit::kNumeric, name_of(i, requests[i]) + ": the log-likelihood is not finite", "", 0);
      results.push_back({sums[2 * i], sums[2 * i + 1] == 0, p.num_scored, p.num_cut});
    }
    return results;
  }

 private:
  void make_pass(const Packing& packing) {
    const PassOptions wanted = model_.pass_options(packing.num_windows(), packing.seq());
    const bool fits =
        pass_ && pass_->shape().seq_len == wanted.shape.seq_len && pass_->shape().num_seqs >= wanted.shape.num_seqs;
    if (fits) return;
    pass_.reset();
    pass_ = std::make_unique<Pass>(model_.model(), wanted, model_.env());
  }

  void add(const Packing& packing, const WindowBatch& batch, std::vector<double>& sums) const {
    const std::vector<std::int32_t> likeliest = pass_->greedy();
    const std::span<const float> losses = pass_->losses();
    for (int w = 0; w < batch.count; ++w)
      for (const std::size_t number : packing.requests_of(batch.first + w)) {
        const Placed& p = packing.placed(number);
        const std::int64_t end = std::int64_t{w} * packing.seq() + p.at + p.length;
        for (std::int64_t t = end - p.num_scored; t < end; ++t) {
          const auto i = static_cast<std::size_t>(t);
          sums[2 * number] -= static_cast<double>(losses[i]);
          sums[2 * number + 1] += likeliest[i] != batch.target_BT[i];
        }
      }
  }

  EvalModel& model_;
  std::unique_ptr<Pass> pass_;
};

}  // namespace

ScoreFunction score_function(EvalModel& model) {
  return [scorer = std::make_shared<Scorer>(model)](std::span<const ScoreRequest> requests) { return (*scorer)(requests); };
}

}  // namespace moe
