#include "lib/io/router_trace.h"

#include <limits>
#include <optional>

#include "lib/base/error.h"
#include "lib/io/digest.h"
#include "lib/io/files.h"
#include "lib/io/h5.h"

namespace moe {
namespace {

constexpr const char* kKind = "moe-router-trace";
constexpr int kVersion = 1;
constexpr int kMostExperts = std::numeric_limits<std::int16_t>::max() + 1;

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Error(Exit::kBadInput, path + ": " + what);
}

// Of layer, step and expert in this order (man/moe-files.5); the experts may come in pieces.
Xxh3 begin_digest(const std::vector<std::int64_t>& layers, const std::vector<std::int64_t>& steps) {
  Xxh3 digest;
  digest.update(std::as_bytes(std::span(layers)));
  digest.update(std::as_bytes(std::span(steps)));
  return digest;
}

// "" or what is wrong with the experts of one token. `seen_E` holds the number of the last token that chose each.
std::string token_fault(std::span<const std::int16_t> idx_K, std::vector<std::int64_t>& seen_E, std::int64_t token) {
  for (const std::int16_t e : idx_K) {
    if (e < -1 || e >= static_cast<std::int64_t>(seen_E.size()))
      return "expected experts -1 to " + std::to_string(seen_E.size() - 1) + ", found " + std::to_string(e);
    if (e < 0) continue;
    std::int64_t& last = seen_E[static_cast<std::size_t>(e)];
    if (last == token) return "expected distinct experts for a token, found " + std::to_string(e) + " twice";
    last = token;
  }
  return "";
}

void check_experts(const std::string& path, const RouterTrace& t) {
  std::vector<std::int64_t> seen_E(static_cast<std::size_t>(t.shape.num_experts), -1);
  const auto K = static_cast<std::size_t>(t.shape.top_k), T = static_cast<std::size_t>(t.tokens_per_step);
  for (std::size_t at = 0, token = 0; at < t.idx_SLTK.size(); at += K, ++token)
    if (const std::string fault =
            token_fault(std::span(t.idx_SLTK).subspan(at, K), seen_E, static_cast<std::int64_t>(token));
        !fault.empty()) {
      const std::size_t row = token / T, L = t.shape.layers.size();
      refuse(path, "step " + std::to_string(t.step_S[row / L]) + ", layer " + std::to_string(t.shape.layers[row % L]) +
                       ", token " + std::to_string(token % T) + ": " + fault);
    }
}

void check_ascending(const std::string& path, const char* name, const std::vector<std::int64_t>& values) {
  if (values.empty()) refuse(path, std::string("dataset ") + name + ": expected at least one, found none");
  for (std::size_t i = 0; i < values.size(); ++i)
    if (values[i] < 0 || (i > 0 && values[i] <= values[i - 1]))
      refuse(path, std::string("dataset ") + name + ": expected ascending numbers from 0, found " +
                       std::to_string(values[i]) + " at " + std::to_string(i));
}

std::vector<std::int64_t> read_list(const H5Reader& h5, const std::string& path, const char* name) {
  const H5Dataset d = h5.dataset(name);
  if (d.dims.size() != 1 || d.type != H5Type::kI64)
    refuse(path, std::string("dataset ") + name + ": expected one dimension of i64");
  std::vector<std::int64_t> values(static_cast<std::size_t>(d.dims[0]));
  h5.read(name, H5Type::kI64, d.dims, values.data());
  check_ascending(path, name, values);
  return values;
}

}  // namespace

// The ring of the steps that are kept: step number i of the run lies at position i % most_steps.
struct RouterTraceWriter::State {
  State(const std::string& path, const RoutingShape& s, std::int64_t tokens, std::int64_t most, bool force)
      : shape(s), tokens_per_step(tokens), most_steps(most), out(path, force), ring(path + ".steps", true) {}

  std::int64_t step_values() const { return static_cast<std::int64_t>(shape.layers.size()) * tokens_per_step * shape.top_k; }
  std::int64_t position(std::int64_t number) const { return most_steps > 0 ? number % most_steps : number; }
  std::int64_t offset(std::int64_t number) const {
    return position(number) * step_values() * static_cast<std::int64_t>(sizeof(std::int16_t));
  }
  std::int64_t num_dropped() const { return most_steps > 0 ? std::max<std::int64_t>(0, num_steps - most_steps) : 0; }

  RoutingShape shape;
  std::int64_t tokens_per_step, most_steps;
  PendingFile out, ring;  // the ring is never published
  std::optional<File> file;
  std::vector<std::int64_t> steps;  // of each position of the ring
  std::int64_t num_steps = 0;       // that were added
};

RouterTraceWriter::RouterTraceWriter(const std::string& path, const RoutingShape& shape, std::int64_t tokens_per_step,
                                     std::int64_t most_steps, bool force)
    : state_(std::make_unique<State>(path, shape, tokens_per_step, most_steps, force)) {
  if (shape.layers.empty()) throw Error(Exit::kUsage, path + ": expected a model with MoE layers to trace, found none");
  if (shape.num_experts > kMostExperts)
    throw Error(Exit::kUsage, path + ": expected at most " + std::to_string(kMostExperts) + " experts, found " +
                                  std::to_string(shape.num_experts));
  const std::int64_t room = std::max<std::int64_t>(1, most_steps) * state_->step_values() * 2;
  require_free_space(parent_directory(path), 2 * room);
  state_->file.emplace(File::create(state_->ring.temporary_path()));
}
RouterTraceWriter::~RouterTraceWriter() = default;

std::int64_t RouterTraceWriter::num_steps() const { return state_->num_steps - state_->num_dropped(); }

void RouterTraceWriter::add_step(std::int64_t step, std::span<const std::int16_t> idx_LTK) {
  State& s = *state_;
  const bool is_late = s.num_steps > 0 && step <= s.steps[static_cast<std::size_t>(s.position(s.num_steps - 1))];
  if (static_cast<std::int64_t>(idx_LTK.size()) != s.step_values() || is_late)
    throw Error(Exit::kInternal, s.out.path() + ": step " + std::to_string(step) + " has a wrong size or comes late");
  s.file->write_at(s.offset(s.num_steps), std::as_bytes(idx_LTK));
  const auto at = static_cast<std::size_t>(s.position(s.num_steps));
  if (at == s.steps.size()) s.steps.push_back(step);
  s.steps[at] = step;
  ++s.num_steps;
}

std::string RouterTraceWriter::finish(const nlohmann::json& provenance) {
  State& s = *state_;
  const std::int64_t S = num_steps(), L = static_cast<std::int64_t>(s.shape.layers.size());
  if (S == 0) throw Error(Exit::kInternal, s.out.path() + ": a trace without a step");
  const std::vector<std::int64_t> layers(s.shape.layers.begin(), s.shape.layers.end());
  std::vector<std::int64_t> steps;
  for (std::int64_t n = s.num_dropped(); n < s.num_steps; ++n)
    steps.push_back(s.steps[static_cast<std::size_t>(s.position(n))]);
  Xxh3 digest = begin_digest(layers, steps);
  H5Writer h5(s.out.temporary_path(), kKind, kVersion);
  h5.write("layer", H5Type::kI64, {L}, layers.data());
  h5.write("step", H5Type::kI64, {S}, steps.data());
  h5.create("expert", H5Type::kI16, {S, L, s.tokens_per_step, s.shape.top_k});
  std::vector<std::int16_t> idx_LTK(static_cast<std::size_t>(s.step_values()));
  for (std::int64_t i = 0; i < S; ++i) {
    s.file->read_at(s.offset(s.num_dropped() + i), std::as_writable_bytes(std::span(idx_LTK)));
    h5.write_rows("expert", i, 1, idx_LTK.data());
    digest.update(std::as_bytes(std::span(idx_LTK)));
  }
  h5.write_text("provenance", provenance.dump());
  h5.attribute("num_experts", s.shape.num_experts);
  h5.attribute("top_k", s.shape.top_k);
  h5.attribute("tokens_per_step", s.tokens_per_step);
  h5.attribute("digest", digest.digest().hex());
  h5.finish();
  s.out.commit();
  return digest.digest().hex();
}

std::span<const std::int16_t> RouterTrace::of(std::size_t step, std::size_t layer) const {
  const auto size = static_cast<std::size_t>(tokens_per_step) * static_cast<std::size_t>(shape.top_k);
  return std::span(idx_SLTK).subspan((step * shape.layers.size() + layer) * size, size);
}

RouterTrace read_router_trace(const std::string& path) {
  const H5Reader h5(path, kKind, kVersion);
  RouterTrace t;
  const std::int64_t num_experts = h5.attribute_int("num_experts"), top_k = h5.attribute_int("top_k");
  if (num_experts < 1 || num_experts > kMostExperts || top_k < 1 || top_k > num_experts)
    refuse(path, "expected 1 <= top_k <= num_experts <= " + std::to_string(kMostExperts) + ", found " +
                     std::to_string(top_k) + " and " + std::to_string(num_experts));
  t.shape.num_experts = static_cast<int>(num_experts);
  t.shape.top_k = static_cast<int>(top_k);
  t.tokens_per_step = h5.attribute_int("tokens_per_step");
  const std::vector<std::int64_t> layers = read_list(h5, path, "layer");
  if (layers.back() > 1 << 20) refuse(path, "expected layers up to 2^20, found " + std::to_string(layers.back()));
  t.shape.layers.assign(layers.begin(), layers.end());
  t.step_S = read_list(h5, path, "step");
  const auto S = static_cast<std::int64_t>(t.step_S.size()), L = static_cast<std::int64_t>(layers.size());
  const H5Dataset expert = h5.dataset("expert");
  // What is allocated is what the file holds.
  if (t.tokens_per_step < 1 || expert.type != H5Type::kI16 || expert.dims != std::vector{S, L, t.tokens_per_step, top_k})
    refuse(path, "dataset expert: expected i16 [" + std::to_string(S) + "," + std::to_string(L) + "," +
                     std::to_string(t.tokens_per_step) + "," + std::to_string(top_k) + "], found another shape or type");
  t.idx_SLTK.resize(static_cast<std::size_t>(expert.elements()));
  h5.read("expert", H5Type::kI16, expert.dims, t.idx_SLTK.data());
  Xxh3 digest = begin_digest(layers, t.step_S);
  digest.update(std::as_bytes(std::span(t.idx_SLTK)));
  t.digest = digest.digest().hex();
  if (const std::string want = h5.attribute_text("digest"); want != t.digest)
    refuse(path, "expected digest " + want + ", found " + t.digest);
  check_experts(path, t);
  return t;
}

}  // namespace moe
