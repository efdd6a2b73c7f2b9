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

}  // namespace

std::int32_t choose_token(std::span<const float> logits_V, const Sampling& sampling, double uniform) {
  const auto top = std::max_element(logits_V.begin(), logits_V.end());
  if (sampling.temperature == 0 || sampling.top_k == 1) return static_cast<std::int32_t>(top - logits_V.begin());
  const auto weight = [&](std::int32_t id) {
    return std::exp((logits_V[static_cast<std::size_t>(id)] - *top) / static_cast<double>(sampling.temperature));
  };
  const bool cuts = sampling.top_k > 0 || sampling.top_p < 1;
  const std::size_t V = logits_V.size();
  std::vector<std::int32_t> ids(cuts ? 0 : V);
  if (cuts)
    ids = likeliest(logits_V, sampling.top_k > 0 ? std::min(V, static_cast<std::size_t>(sampling.top_k)) : V);
  else
    std::iota(ids.begin(), ids.end(), 0);
  double sum = std::accumulate(ids.begin(), ids.end(), 0.0, [&](double s, std::int32_t id) { return s + weight(id); });
  if (sampling.top_p < 1) {
    double kept = 0;
    std::size_t n = 0;
    while (n < ids.size() && (n == 0 || kept < static_cast<double>(sampling.top_p) * sum)) kept += weight(ids[n++]);
    ids.resize(n);
    sum = kept;
  }
  double left = uniform * sum;
  for (const std::int32_t id : ids)
    if ((left -= weight(id)) < 0) return id;
  return ids.back();
}

}  // namespace moe
