// Held-out loss of a model. Every rank of its mesh calls.
#pragma once

#include <cstdint>
#include <string>

#include "lib/io/tokens.h"
#include "lib/model/model.h"

namespace moe {

struct Evaluation {
  double loss = 0;              // nats per counted token
  std::int64_t num_tokens = 0;  // counted tokens
  double seconds = 0;
  SecondTokens second_tokens{};  // of all, if the pass runs a module of multi-token prediction
};
// Windows of the pass's seq_len side by side from the start of the data, each seen without the one before; the last may be
// shorter. max_tokens 0: all; else windows spread evenly over the data. The ranks share the windows; the result is of all.
Evaluation evaluate(Pass& pass, World& world, const TokenSource& data, bool document_mask, std::int64_t max_tokens);

}  // namespace moe
