// The next token of a text from the model's logits: a pure function of them and of one random number.
#pragma once

#include <cstdint>
#include <span>

namespace moe {

struct Sampling {
  float temperature = 0;  // 0: the likeliest token
  int top_k = 0;          // of the so many likeliest only; 0: of all
  float top_p = 1;        // of the fewest likeliest that together have this probability; after top_k
};
// uniform: in [0, 1). Equal logits: the lowest id is the likeliest.
std::int32_t choose_token(std::span<const float> logits_V, const Sampling& sampling, double uniform);

}  // namespace moe
