#include "lib/run/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace moe {
namespace {

// The likeliest `n`, likeliest first.
std::vector<std::int32_t> likeliest(std::span<const float> logits_V, std::size_t n) {
  std::vector<std::int32_t> ids(logits_V.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto before = [&](std::int32_t a, std::int32_t b) {
    const float x = logits_V[static_cast<std::size_t>(a)], y = logits_V[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n), ids.end(), before);
  ids.resize(n);
  return ids;
}

std::int32_t likeliest_token(std::span<const float> logits_V) {
  return static_cast<std::int32_t>(std::max_element(logits_V.begin(), logits_V.end()) - logits_V.begin());
}

// Tokens that may be taken, each with a weight; in an order of their own.
struct Candidates {
  std::vector<std::int32_t> ids;
  std::vector<double> weights;
  double sum = 0;

  std::int32_t draw(double uniform) const {
    double left = uniform * sum;
    for (std::size_t i = 0; i < ids.size(); ++i)
      if ((left -= weights[i]) < 0) return ids[i];
    return ids.back();
  }
  std::vector<double> probabilities(std::size_t V) const {
    std::vector<double> p(V);
    for (std::size_t i = 0; i < ids.size(); ++i) p[static_cast<std::size_t>(ids[i])] = weights[i] / sum;
    return p;
  }
};

Candidates candidates(std::span<const float> logits_V, const Sampling& sampling) {
  const float top = *std::max_element(logits_V.begin(), logits_V.end());
  const std::size_t V = logits_V.size();
  Candidates c;
  if (sampling.top_k > 0 || sampling.top_p < 1) {
    c.ids = likeliest(logits_V, sampling.top_k > 0 ? std::min(V, static_cast<std::size_t>(sampling.top_k)) : V);
  } else {
    c.ids.resize(V);
    std::iota(c.ids.begin(), c.ids.end(), 0);
  }
  for (const std::int32_t id : c.ids)
    c.weights.push_back(
        std::exp((logits_V[static_cast<std::size_t>(id)] - top) / static_cast<double>(sampling.temperature)));
  c.sum = std::accumulate(c.weights.begin(), c.weights.end(), 0.0);
  if (sampling.top_p == 1) return c;
  double kept = 0;
  std::size_t n = 0;
  while (n < c.ids.size() && (n == 0 || kept < static_cast<double>(sampling.top_p) * c.sum)) kept += c.weights[n++];
  c.ids.resize(n);
  c.weights.resize(n);
  c.sum = kept;
  return c;
}

// What the model wants more often than the draft came: max(0, p - q).
Candidates left_over(const std::vector<double>& p_V, const std::vector<double>& q_V) {
  Candidates c;
  for (std::size_t i = 0; i < p_V.size(); ++i) {
    if (!(p_V[i] > q_V[i])) continue;
    c.ids.push_back(static_cast<std::int32_t>(i));
    c.weights.push_back(p_V[i] - q_V[i]);
    c.sum += c.weights.back();
  }
  return c;
}

}  // namespace

std::int32_t choose_token(std::span<const float> logits_V, const Sampling& sampling, double uniform) {
  return sampling.is_greedy() ? likeliest_token(logits_V) : candidates(logits_V, sampling).draw(uniform);
}

std::vector<double> probabilities(std::span<const float> logits_V, const Sampling& sampling) {
  if (!sampling.is_greedy()) return candidates(logits_V, sampling).probabilities(logits_V.size());
  std::vector<double> p(logits_V.size());
  p[static_cast<std::size_t>(likeliest_token(logits_V))] = 1;
  return p;
}

DraftedToken draft_token(std::span<const float> logits_V, const Sampling& sampling, double uniform) {
  if (sampling.is_greedy()) return {likeliest_token(logits_V), {}};
  const Candidates c = candidates(logits_V, sampling);
  return {c.draw(uniform), c.probabilities(logits_V.size())};
}

std::int32_t choose_beside_draft(std::span<const float> logits_V, const Sampling& sampling, const DraftedToken& draft,
                                 double accept, double uniform) {
  if (sampling.is_greedy()) return likeliest_token(logits_V);
  const std::vector<double> p = probabilities(logits_V, sampling);
  const auto at = static_cast<std::size_t>(draft.token);
  if (accept * draft.probability_V[at] < p[at]) return draft.token;
  const Candidates rest = left_over(p, draft.probability_V);
  return rest.ids.empty() ? choose_token(logits_V, sampling, uniform) : rest.draw(uniform);  // p and q are one
}

}  // namespace moe
