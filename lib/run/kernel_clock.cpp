#include "lib/run/kernel_clock.h"

namespace moe {

const char* name_of(StepPart part) {
  static constexpr const char* kNames[] = {"attention_gemm", "attention", "rope",        "norm",
                                           "router",         "permute",   "expert_gemm", "plain_ffn_gemm",
                                           "swiglu",         "head_loss", "embedding",   "optimizer"};
  return kNames[static_cast<int>(part)];
}

const char* segment_of(StepPart part) {
  static constexpr const char* kNames[] = {"pre",     "pre",     "pre",     "pre,head", "pre",       "dispatch,combine",
                                           "experts", "experts", "experts", "head",     "embedding", "update"};
  return kNames[static_cast<int>(part)];
}

StepPart part_of_param(const ParamSpec& spec) {
  const auto has = [&](const char* word) { return spec.name.find(word) != std::string::npos; };
  if (spec.shape.size() == 1 && !spec.is_bias) return StepPart::kNorm;
  if (has(".attn.")) return StepPart::kAttentionGemm;
  if (has(".router.")) return StepPart::kRouter;
  if (has(".experts.")) return StepPart::kExpertGemm;
  if (has(".shared.") || has(".mlp.")) return StepPart::kPlainFfnGemm;
  return StepPart::kHeadLoss;  // head, or the embedding that serves as head
}

double StepTimes::of(StepPart part) const {
  double sum = 0;
  for (const double s : seconds[static_cast<std::size_t>(part)]) sum += s;
  return sum;
}

double StepTimes::total() const {
  double sum = 0;
  for (std::size_t p = 0; p < kNumStepParts; ++p) sum += of(static_cast<StepPart>(p));
  return sum;
}

void ClockedStream::know_weights(const ParamStore& params) {
  for (const Param& p : params.all()) {
    weight2part_[p.weight.data] = part_of_param(p.spec);
    if (p.grad.data) weight2part_[p.grad.data] = part_of_param(p.spec);
  }
}

StepPart ClockedStream::part_of_weight(const void* p) const { return weight2part_.at(p); }

ClockedStream::~ClockedStream() { take_times(); }

void ClockedStream::add(StepPart part, bool is_weight_gradient, const TimeMark& from) {
  const bool in_backward = phase_ == StepPhase::kBackwardInput || phase_ == StepPhase::kBackwardWeight;
  const StepPhase phase = in_backward && is_weight_gradient ? StepPhase::kBackwardWeight : phase_;
  calls_.push_back({part, phase, from, time_mark()});
}

StepTimes ClockedStream::take_times() {
  StepTimes times;
  for (const Call& c : calls_) {
    times.seconds[static_cast<std::size_t>(c.part)][static_cast<std::size_t>(c.phase)] +=
        device().seconds_between(c.from, c.to);
    device().release_time_mark(c.from);
    device().release_time_mark(c.to);
  }
  calls_.clear();
  return times;
}

namespace {

// The part of a call: that of the noun, or for a plain linear map or a bias that of its weight.
template <class... Args>
StepPart part_of(const ClockedStream&, StepPart part, const Args&...) {
  return part;
}
struct ByWeight {};
StepPart part_of(const ClockedStream& s, ByWeight, const CMat&, const CMat& w, const Mat&, Store) {
  return s.part_of_weight(w.data);
}
StepPart part_of(const ClockedStream& s, ByWeight, const CMat&, const CMat&, const Mat& dw) {
  return s.part_of_weight(dw.data);
}

using Psum = std::span<const std::int64_t>;
StepPart part_of(const ClockedStream& s, ByWeight, const CMat& bias, const Psum&, const float*, const Mat&, Store) {
  return s.part_of_weight(bias.data);
}
StepPart part_of(const ClockedStream& s, ByWeight, const CMat&, const CMat& bias, const Psum&, float*) {
  return s.part_of_weight(bias.data);
}
StepPart part_of(const ClockedStream& s, ByWeight, const CMat&, const Psum&, const float*, const Mat& dbias) {
  return s.part_of_weight(dbias.data);
}

// Adds the time of its life.
class Lap {
 public:
  Lap(ClockedStream& stream, StepPart part, bool is_weight_gradient)
      : stream_(stream), part_(part), is_weight_(is_weight_gradient), from_(stream.time_mark()) {}
  Lap(const Lap&) = delete;
  Lap& operator=(const Lap&) = delete;
  ~Lap() { stream_.add(part_, is_weight_, from_); }

 private:
  ClockedStream& stream_;
  StepPart part_;
  bool is_weight_;
  TimeMark from_;
};

// Function pointers hold no state: the original table travels with the stream, the noun and the function in the type.
enum class Kind : std::uint8_t { kPlain, kWeightGradient };
template <auto kNoun, auto kFunction, auto kPart, Kind kKind, class Function>
struct Timed;
template <auto kNoun, auto kFunction, auto kPart, Kind kKind, class R, class... Args>
struct Timed<kNoun, kFunction, kPart, kKind, R (*)(Stream&, Args...)> {
  static R call(Stream& stream, Args... args) {
    auto& clocked = static_cast<ClockedStream&>(stream);
    if (!clocked.is_running()) return (clocked.original().*kNoun.*kFunction)(stream, args...);
    const Lap lap(clocked, part_of(clocked, kPart, args...), kKind == Kind::kWeightGradient);
    return (clocked.original().*kNoun.*kFunction)(stream, args...);
  }
};

template <auto kNoun, auto kFunction, auto kPart, Kind kKind = Kind::kPlain>
void wrap(Kernels& k) {
  auto& function = k.*kNoun.*kFunction;
  function = Timed<kNoun, kFunction, kPart, kKind, std::remove_reference_t<decltype(function)>>::call;
}

void wrap_products(Kernels& k) {
  constexpr auto kExperts = StepPart::kExpertGemm;
  wrap<&Kernels::gemm, &GemmKernels::forward, ByWeight{}>(k);
  wrap<&Kernels::gemm, &GemmKernels::backward_input, ByWeight{}>(k);
  wrap<&Kernels::gemm, &GemmKernels::backward_weight, ByWeight{}, Kind::kWeightGradient>(k);
  wrap<&Kernels::grouped_gemm, &GroupedGemmKernels::forward, kExperts>(k);
  wrap<&Kernels::grouped_gemm, &GroupedGemmKernels::backward_input, kExperts>(k);
  wrap<&Kernels::grouped_gemm, &GroupedGemmKernels::backward_weight, kExperts, Kind::kWeightGradient>(k);
  wrap<&Kernels::bias, &BiasKernels::forward, ByWeight{}>(k);
  wrap<&Kernels::bias, &BiasKernels::backward_gate, ByWeight{}>(k);
  wrap<&Kernels::bias, &BiasKernels::backward_weight, ByWeight{}, Kind::kWeightGradient>(k);
}

void wrap_blocks(Kernels& k) {
  wrap<&Kernels::rmsnorm, &RmsNormKernels::forward, StepPart::kNorm>(k);
  wrap<&Kernels::rmsnorm, &RmsNormKernels::backward_input, StepPart::kNorm>(k);
  wrap<&Kernels::rmsnorm, &RmsNormKernels::backward_weight, StepPart::kNorm, Kind::kWeightGradient>(k);
  wrap<&Kernels::rope, &RopeKernels::forward, StepPart::kRope>(k);
  wrap<&Kernels::rope, &RopeKernels::backward, StepPart::kRope>(k);
  wrap<&Kernels::latent, &LatentKernels::split, StepPart::kAttention>(k);
  wrap<&Kernels::latent, &LatentKernels::join, StepPart::kAttention>(k);
  wrap<&Kernels::attention, &AttentionKernels::forward, StepPart::kAttention>(k);
  wrap<&Kernels::attention, &AttentionKernels::backward, StepPart::kAttention>(k);
  wrap<&Kernels::swiglu, &SwigluKernels::forward, StepPart::kSwiglu>(k);
  wrap<&Kernels::swiglu, &SwigluKernels::backward_input, StepPart::kSwiglu>(k);
}

void wrap_routing(Kernels& k) {
  constexpr auto kRouter = StepPart::kRouter, kPermute = StepPart::kPermute;
  wrap<&Kernels::router, &RouterKernels::forward, kRouter>(k);
  wrap<&Kernels::router, &RouterKernels::backward_gates, kRouter>(k);
  wrap<&Kernels::router, &RouterKernels::backward_scores, kRouter>(k);
  wrap<&Kernels::router, &RouterKernels::count_top_k, kRouter>(k);
  wrap<&Kernels::router, &RouterKernels::balance_loss, kRouter>(k);
  wrap<&Kernels::router, &RouterKernels::z_loss, kRouter>(k);
  wrap<&Kernels::permute, &PermuteKernels::plan, kPermute>(k);
  wrap<&Kernels::permute, &PermuteKernels::gather, kPermute>(k);
  wrap<&Kernels::permute, &PermuteKernels::combine, kPermute>(k);
}

void wrap_ends(Kernels& k) {
  wrap<&Kernels::embedding, &EmbeddingKernels::forward, StepPart::kEmbedding>(k);
  wrap<&Kernels::embedding, &EmbeddingKernels::backward_weight, StepPart::kEmbedding, Kind::kWeightGradient>(k);
  wrap<&Kernels::cross_entropy, &CrossEntropyKernels::forward, StepPart::kHeadLoss>(k);
  wrap<&Kernels::adamw, &AdamWKernels::step, StepPart::kOptimizer>(k);
  wrap<&Kernels::adamw, &AdamWKernels::sum_of_squares, StepPart::kOptimizer>(k);
}

}  // namespace

Kernels timed_kernels(const Kernels& original) {
  Kernels k = original;
  wrap_products(k);
  wrap_blocks(k);
  wrap_routing(k);
  wrap_ends(k);
  return k;
}

}  // namespace moe
