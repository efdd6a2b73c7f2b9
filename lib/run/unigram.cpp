#include "lib/run/unigram.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace moe {

double unigram_entropy(const TokenSource& source) {
  const std::int64_t n = std::min<std::int64_t>(source.info().num_tokens, std::int64_t{16} << 20);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
  source.read(0, ids);
  std::vector<double> counts(static_cast<std::size_t>(source.info().vocab_size));
  for (std::int32_t id : ids) ++counts[static_cast<std::size_t>(id)];
  double entropy = 0;
  for (double c : counts)
    if (c > 0) entropy -= c / static_cast<double>(n) * std::log(c / static_cast<double>(n));
  return entropy;
}

}  // namespace moe
