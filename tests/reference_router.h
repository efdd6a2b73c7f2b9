// The router of the specification: which experts a token takes, with which gates, and the losses that balance them.
// The formulas are those of reference.h. Not here: the experts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/model/config.h"
#include "tests/reference.h"
#include "tests/reference_ops.h"

namespace moe::reference {

struct Routing {
  Matrix logits_TE, scores_TE;
  std::vector<std::vector<int>> experts;  // [T][K] in order of falling selection score, ties to the lowest index
  Matrix gates_TK;
  std::vector<std::int64_t> counts;  // [E]
};

// At most num_kept nodes per token; expert2node: [E], or empty: no limit.
struct NodeLimit {
  std::span<const std::int32_t> expert2node;
  int num_kept = 1;
};
// bias: [E] or empty. Throws std::invalid_argument where the nodes that a token keeps hold fewer than K allowed experts.
Routing route(const ModelConfig&, const Matrix& logits_TE, std::span<const double> bias, const NodeLimit& = {});

// The K largest of `score`, in falling order; equal scores in order of their index.
std::vector<int> largest(std::span<const double> score, int K);

// Which losses of one layer act on the router: coefficients, the segments of the sequence-wise one, the given f.
struct Balance {
  ReferenceLoss coefficient;
  int num_seqs = 1, seq_len = 1;
  std::span<const double> global_f;  // [E], may be empty where coefficient.global_aux is 0
};
// Adds this layer's terms.
void add_balance_terms(const ModelConfig&, const Routing&, const Balance&, ReferenceTerms& terms);
// d(loss)/d(logits) from d(loss)/d(gates) of the experts' path and from this layer's balance terms.
Matrix route_backward(const ModelConfig&, const Routing&, const Matrix& dgates_TK, const Balance&);

}  // namespace moe::reference
