// The loss of a model that knows only how frequent each token is: what a trained model must fall below.
#pragma once

#include "lib/io/tokens.h"

namespace moe {

// Entropy of the token frequencies in nats per token; of long data the first 16 Mi tokens.
double unigram_entropy(const TokenSource& source);

}  // namespace moe
