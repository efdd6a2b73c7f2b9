#include "lib/io/routing_stats.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/io/digest.h"
#include "lib/io/files.h"
#include "lib/io/h5.h"

namespace moe {
namespace {

constexpr const char* kKind = "moe-routing";
constexpr int kVersion = 1;

std::int64_t layers_of(const RoutingShape& shape) { return static_cast<std::int64_t>(shape.layers.size()); }
std::int64_t row_size(const RoutingShape& shape) { return layers_of(shape) * shape.num_experts; }

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Error(Exit::kBadInput, path + ": " + what);
}

// Every layer of a step routed the same number of slots, top_k a token.
void check_rows(const std::string& path, const RoutingStats& s) {
  const std::int64_t num_layers = layers_of(s.shape), num_experts = s.shape.num_experts;
  for (std::size_t i = 1; i < s.step_S.size(); ++i)
    if (s.step_S[i] <= s.step_S[i - 1])
      refuse(path,
             "expected ascending steps, found " + std::to_string(s.step_S[i]) + " after " + std::to_string(s.step_S[i - 1]));
  std::int64_t of_step = 0;
  for (std::size_t row = 0; row < s.step_S.size() * static_cast<std::size_t>(num_layers); ++row) {
    const auto counts_E =
        std::span(s.counts_SLE).subspan(row * static_cast<std::size_t>(num_experts), static_cast<std::size_t>(num_experts));
    std::int64_t sum = 0;
    for (const std::int64_t c : counts_E)
      if (c < 0 || __builtin_add_overflow(sum, c, &sum)) refuse(path, "expected counts from 0, found " + std::to_string(c));
    const bool first_layer = row % static_cast<std::size_t>(num_layers) == 0;
    if (first_layer) of_step = sum;
    if (sum != of_step || sum % s.shape.top_k != 0)
      refuse(path, "step " + std::to_string(s.step_S[row / static_cast<std::size_t>(num_layers)]) +
                       ": expected counts that sum to tokens x top-k in every layer, found " + std::to_string(sum));
  }
}

void check_coactivation(const std::string& path, const RoutingStats& s) {
  const auto n = static_cast<std::size_t>(s.shape.num_experts);
  for (std::size_t l = 0; l < s.shape.layers.size(); ++l)
    for (std::size_t a = 0; a < n; ++a)
      for (std::size_t b = 0; b <= a; ++b) {
        const std::int64_t ab = s.coactivation_LEE[(l * n + a) * n + b], ba = s.coactivation_LEE[(l * n + b) * n + a];
        if (ab != ba || ab < 0)
          refuse(path,
                 "expected a symmetric co-activation matrix, found " + std::to_string(ab) + " and " + std::to_string(ba));
      }
}

// Of all numbers of the file, as man/moe-files.5 says.
std::string digest_of(const std::vector<std::int64_t>& layers, const std::vector<std::int64_t>& steps,
                      const std::vector<std::int64_t>& counts, const std::vector<std::int64_t>& coactivation) {
  Xxh3 digest;
  for (const auto* numbers : {&layers, &steps, &counts, &coactivation}) digest.update(std::as_bytes(std::span(*numbers)));
  return digest.digest().hex();
}

}  // namespace

RoutingRecorder::RoutingRecorder(std::string path, RoutingShape shape, nlohmann::json provenance)
    : path_(std::move(path)), shape_(std::move(shape)), provenance_(std::move(provenance)) {
  coactivation_LEE_.assign(static_cast<std::size_t>(row_size(shape_) * shape_.num_experts), 0);
}

// The co-activation matrix is a sum over steps, so it is taken over only if no row is dropped; else it begins anew.
void RoutingRecorder::resume(std::int64_t last_step) {
  if (!path_exists(path_)) return;
  const RoutingStats old = read_routing_stats(path_);
  if (old.shape.layers != shape_.layers || old.shape.num_experts != shape_.num_experts || old.shape.top_k != shape_.top_k)
    throw Error(Exit::kBadInput,
                path_ + ": expected statistics of " + std::to_string(shape_.layers.size()) + " layers, " +
                    std::to_string(shape_.num_experts) + " experts, top-" + std::to_string(shape_.top_k) +
                    ", found those of another model",
                "another -o keeps both");
  const auto kept = std::upper_bound(old.step_S.begin(), old.step_S.end(), last_step) - old.step_S.begin();
  steps_.assign(old.step_S.begin(), old.step_S.begin() + kept);
  counts_SLE_.assign(old.counts_SLE.begin(), old.counts_SLE.begin() + kept * row_size(shape_));
  if (static_cast<std::size_t>(kept) == old.step_S.size()) coactivation_LEE_ = old.coactivation_LEE;
}

void RoutingRecorder::add_step(std::int64_t step, std::span<const std::int64_t> counts_LE) {
  if (static_cast<std::int64_t>(counts_LE.size()) != row_size(shape_) || (!steps_.empty() && step <= steps_.back()))
    throw Error(Exit::kInternal, path_ + ": step " + std::to_string(step) + " has a wrong size or comes late");
  steps_.push_back(step);
  counts_SLE_.insert(counts_SLE_.end(), counts_LE.begin(), counts_LE.end());
}

void RoutingRecorder::add_coactivation(std::span<const std::int64_t> coactivation_LEE) {
  if (coactivation_LEE.size() != coactivation_LEE_.size())
    throw Error(Exit::kInternal, path_ + ": the co-activation matrix has a wrong size");
  std::transform(coactivation_LEE.begin(), coactivation_LEE.end(), coactivation_LEE_.begin(), coactivation_LEE_.begin(),
                 std::plus<>());
}

void RoutingRecorder::save() const {
  const std::int64_t num_steps = static_cast<std::int64_t>(steps_.size()), num_layers = layers_of(shape_);
  require_free_space(parent_directory(path_),
                     static_cast<std::int64_t>(8 * (steps_.size() + counts_SLE_.size() + coactivation_LEE_.size())));
  PendingFile out(path_, true);
  H5Writer h5(out.temporary_path(), kKind, kVersion);
  const std::vector<std::int64_t> layers(shape_.layers.begin(), shape_.layers.end());
  h5.write("layer", H5Type::kI64, {num_layers}, layers.data());
  h5.write("step", H5Type::kI64, {num_steps}, steps_.data());
  h5.write("counts", H5Type::kI64, {num_steps, num_layers, shape_.num_experts}, counts_SLE_.data());
  h5.write("coactivation", H5Type::kI64, {num_layers, shape_.num_experts, shape_.num_experts}, coactivation_LEE_.data());
  h5.write_text("provenance", provenance_.dump());
  h5.attribute("num_experts", shape_.num_experts);
  h5.attribute("top_k", shape_.top_k);
  h5.attribute("digest", digest_of(layers, steps_, counts_SLE_, coactivation_LEE_));
  h5.finish();
  out.commit();
}

RoutingStats read_routing_stats(const std::string& path) {
  const H5Reader h5(path, kKind, kVersion);
  RoutingStats s;
  const std::int64_t num_experts = h5.attribute_int("num_experts"), top_k = h5.attribute_int("top_k");
  if (num_experts < 1 || num_experts > 1 << 20 || top_k < 1 || top_k > num_experts)
    refuse(path,
           "expected 1 <= top_k <= num_experts, found " + std::to_string(top_k) + " and " + std::to_string(num_experts));
  s.shape.num_experts = static_cast<int>(num_experts);
  s.shape.top_k = static_cast<int>(top_k);
  const H5Dataset layer = h5.dataset("layer"), step = h5.dataset("step");
  if (layer.dims.size() != 1 || step.dims.size() != 1) refuse(path, "datasets layer and step: expected one dimension");
  const std::int64_t num_layers = layer.dims[0], num_steps = step.dims[0];
  // The sizes that follow from the dimensions must be those of the file before anything is allocated.
  if (h5.dataset("counts").dims != std::vector{num_steps, num_layers, num_experts} ||
      h5.dataset("coactivation").dims != std::vector{num_layers, num_experts, num_experts})
    refuse(path, "expected counts [" + std::to_string(num_steps) + "," + std::to_string(num_layers) + "," +
                     std::to_string(num_experts) + "] and a co-activation matrix to match, found others");
  const auto read = [&](const char* name, std::vector<std::int64_t> dims) {
    std::int64_t n = 1;
    for (const std::int64_t d : dims) n *= d;
    std::vector<std::int64_t> values(static_cast<std::size_t>(n));
    h5.read(name, H5Type::kI64, dims, values.data());
    return values;
  };
  const std::vector<std::int64_t> layers = read("layer", {num_layers});
  for (const std::int64_t l : layers) {
    if (l < 0 || l > 1 << 20 || (!s.shape.layers.empty() && l <= s.shape.layers.back()))
      refuse(path, "dataset layer: expected ascending indices from 0, found " + std::to_string(l));
    s.shape.layers.push_back(static_cast<int>(l));
  }
  s.step_S = read("step", {num_steps});
  s.counts_SLE = read("counts", {num_steps, num_layers, num_experts});
  s.coactivation_LEE = read("coactivation", {num_layers, num_experts, num_experts});
  // Files of earlier versions have no digest.
  const std::string found = digest_of(layers, s.step_S, s.counts_SLE, s.coactivation_LEE);
  if (const std::string want = h5.has_attribute("digest") ? h5.attribute_text("digest") : found; want != found)
    refuse(path, "expected digest " + want + ", found " + found);
  check_rows(path, s);
  check_coactivation(path, s);
  return s;
}

}  // namespace moe
