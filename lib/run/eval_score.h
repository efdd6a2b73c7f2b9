// Log-likelihoods of continuations under a model: what perplexity, tasks and comparisons are made of. Not here: where the
// requests come from (eval_tasks.h, eval_perplexity.h), files.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace moe {

// P(continuation | context). Tokens of both together may be more than the model's window: the front of the context is then
// cut off (num_cut says how many tokens), as lm-evaluation-harness does; a continuation longer than the window is an error.
struct ScoreRequest {
  std::vector<std::int32_t> context, continuation;  // context empty: the continuation's first token is not scored
  std::string where;                                // what errors name: file and line; "": the number of the request
};
struct ScoreResult {
  double log_likelihood = 0;  // nats, of the scored tokens of the continuation
  bool is_greedy = false;     // every scored token was the likeliest (ties: the lowest id)
  std::int64_t num_scored = 0, num_cut = 0;
};
// Results in the order of the requests. Every rank of the mesh calls with the same requests and gets the same results, which
// do not depend on the mesh, the number of ranks or the size of batches beyond rounding.
using ScoreFunction = std::function<std::vector<ScoreResult>(std::span<const ScoreRequest>)>;

class EvalModel;
// Requests are packed into windows no longer than they need, the longest first, each of them a document of its own (tokens
// see no other request); the windows are shared out over all ranks. AgreedError 65 for a continuation that does not fit into
// the model's window or a token that it does not know, 76 for a log-likelihood that is not finite. `model` outlives it.
ScoreFunction score_function(EvalModel& model);

}  // namespace moe
