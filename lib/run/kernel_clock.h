// Where the time of a step goes: a Stream that carries a clock, and a table of kernels that stop the time of each call on
// the clock of the stream they are given. The model is run as it is; nothing in kernels/ or lib/model knows of it.
// Not here: what is made of the times (bench_step.cpp).
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "lib/model/model.h"

namespace moe {

// Kinds of work. A plain linear map belongs to the part of its weight; everything else to that of its kernel.
enum class StepPart : std::uint8_t {
  kAttentionGemm,
  kAttention,
  kRope,
  kNorm,
  kRouter,
  kPermute,
  kExpertGemm,
  kPlainFfnGemm,
  kSwiglu,
  kHeadLoss,
  kEmbedding,
  kOptimizer,
};
inline constexpr std::size_t kNumStepParts = 12;
const char* name_of(StepPart part);
// The segment of a block (DESIGN: pre, dispatch, experts, combine) that the part belongs to, or the end of the model.
const char* segment_of(StepPart part);
// Of a matrix or a bias, by its name; norms belong to kNorm.
StepPart part_of_param(const ParamSpec& spec);

// What is running. Kernels called in backward that are not backward_weight count as backward_input, also those that
// compute something again.
enum class StepPhase : std::uint8_t { kForward, kBackwardInput, kBackwardWeight, kUpdate };
inline constexpr std::size_t kNumStepPhases = 4;

// Seconds by part and phase.
struct StepTimes {
  std::array<std::array<double, kNumStepPhases>, kNumStepParts> seconds{};
  double of(StepPart part, StepPhase phase) const {
    return seconds[static_cast<std::size_t>(part)][static_cast<std::size_t>(phase)];
  }
  double of(StepPart part) const;
  double total() const;
};

// The stream that timed kernels must be given. The clock runs from the start on the CPU; elsewhere the marks that it puts
// around every kernel cost the device time, and so it only runs while it is asked to.
class ClockedStream : public Stream {
 public:
  ClockedStream(int num_threads, const Kernels& kernels) : ClockedStream(cpu_device(), num_threads, kernels) {}
  ClockedStream(const Device& device, int num_threads, const Kernels& kernels)
      : Stream(device, num_threads), kernels_(kernels), is_running_(is_cpu()) {}

  ~ClockedStream();
  const Kernels& original() const { return kernels_; }
  bool is_running() const { return is_running_; }
  void run_clock(bool on) { is_running_ = on; }
  // Plain linear maps of this model are told apart by the address of their weight or its gradient.
  void know_weights(const ParamStore& params);
  StepPart part_of_weight(const void* weight_or_gradient) const;

  void set_phase(StepPhase phase) { phase_ = phase; }
  // From `from`, a mark of this stream, to here.
  void add(StepPart part, bool is_weight_gradient, const TimeMark& from);
  StepTimes take_times();  // those since the last call; the stream was waited for

 private:
  const Kernels& kernels_;
  std::unordered_map<const void*, StepPart> weight2part_;
  StepPhase phase_ = StepPhase::kForward;
  struct Call {
    StepPart part;
    StepPhase phase;
    TimeMark from, to;
  };
  std::vector<Call> calls_;
  bool is_running_;
};

// The kernels of `original` with a clock around each. Every Stream they are given must be a ClockedStream.
Kernels timed_kernels(const Kernels& original);

}  // namespace moe
