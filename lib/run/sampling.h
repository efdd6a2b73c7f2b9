// The next token of a text from the model's logits, alone or with a draft: a pure function of them and of random numbers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moe {

struct Sampling {
  float temperature = 0;  // 0: the likeliest token
  int top_k = 0;          // of the so many likeliest only; 0: of all
  float top_p = 1;        // of the fewest likeliest that together have this probability; after top_k
  bool is_greedy() const { return temperature == 0 || top_k == 1; }
};
// uniform: in [0, 1). Equal logits: the lowest id is the likeliest.
std::int32_t choose_token(std::span<const float> logits_V, const Sampling& sampling, double uniform);
// [V]: the distribution that choose_token draws from.
std::vector<double> probabilities(std::span<const float> logits_V, const Sampling& sampling);

// A token that somebody else chose with another model's probabilities.
struct DraftedToken {
  std::int32_t token = 0;
  std::vector<double> probability_V;  // empty where the likeliest token is taken
};
DraftedToken draft_token(std::span<const float> logits_V, const Sampling& sampling, double uniform);
// The draft if it stands, else another token: with a draft drawn as it says, the token is distributed as choose_token's
// (Leviathan et al. 2023, section 2.3); without sampling it is choose_token's. Two random numbers.
std::int32_t choose_beside_draft(std::span<const float> logits_V, const Sampling& sampling, const DraftedToken& draft,
                                 double accept, double uniform);

}  // namespace moe
