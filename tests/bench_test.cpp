// The logic of moe-bench that has nothing to do with time: statistics, failed checks, tables, loads, shares of the work.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "lib/model/params.h"
#include "lib/run/bench_cases.h"
#include "lib/run/bench_step.h"
#include "lib/run/bench_table.h"

namespace moe {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const double kNan = std::numeric_limits<double>::quiet_NaN();
const Peaks kPeaks{.register_gflops = 400, .gemm_gflops = 350, .read_gbytes = 30, .copy_gbytes = 50};

BenchRow row_of(RateUnit unit, double error) {
  return {.name = "gemm/x",
          .shape = "1x7x11",
          .unit = unit,
          .work = 2e9,
          .num_sets = 3,
          .seconds = timing_of({0.01, 0.03, 0.02}),
          .error = error,
          .tolerance = 1e-5};
}

TEST(Timing, MedianOfOddEvenOneAndNone) {
  EXPECT_EQ(timing_of({3, 1, 2}).median, 2);
  EXPECT_EQ(timing_of({4, 1, 2, 3}).median, 2.5);
  const Timing one = timing_of({7});
  EXPECT_EQ(one.median, 7);
  EXPECT_EQ(one.min, 7);
  EXPECT_EQ(one.max, 7);
  EXPECT_EQ(one.num_repetitions, 1);
  EXPECT_EQ(timing_of({}).num_repetitions, 0);
}

TEST(Deviation, KeepsTheWorstAndNan) {
  WorstDeviation w;
  w.add(1, 1, 0);
  EXPECT_EQ(w.value(), 0);
  w.add(3, 2, 4);
  w.add(2.5, 2, 4);
  EXPECT_EQ(w.value(), 0.25);
  w.add(kNan, 2, 4);
  w.add(2, 1, 100);
  EXPECT_TRUE(std::isnan(w.value()));
}

TEST(Deviation, ScaleZeroAsksForEquality) {
  WorstDeviation w;
  w.add(1e-30, 0, 0);
  EXPECT_FALSE(w.value() <= 1e30);
}

TEST(Row, RateAndShareOfItsOwnPeak) {
  const BenchRow flops = row_of(RateUnit::kGflops, 0), bytes = row_of(RateUnit::kGbytes, 0);
  EXPECT_DOUBLE_EQ(flops.rate(), 100);
  EXPECT_DOUBLE_EQ(flops.percent_of_peak(kPeaks), 25);
  EXPECT_DOUBLE_EQ(bytes.percent_of_peak(kPeaks), 200);
}

TEST(Row, NoFigureWithoutItsCheck) {
  for (const double error : {1e-4, kNan, std::numeric_limits<double>::infinity()}) {
    const BenchRow row = row_of(RateUnit::kGflops, error);
    EXPECT_FALSE(row.passed());
    EXPECT_THAT(row_line(row, kPeaks), HasSubstr("FAILED"));
    EXPECT_THAT(row_line(row, kPeaks), Not(HasSubstr("100.0")));
    const nlohmann::json json = row_json(row, kPeaks);
    EXPECT_FALSE(json.contains("rate"));
    EXPECT_FALSE(json.at("passed").get<bool>());
    EXPECT_NO_THROW(nlohmann::json::parse(json.dump()));
  }
  EXPECT_THAT(row_line(row_of(RateUnit::kGflops, 1e-6), kPeaks), HasSubstr("100.0 GFLOP/s"));
}

TEST(Row, JsonHoldsTheSpread) {
  const nlohmann::json json = row_json(row_of(RateUnit::kGbytes, 0), kPeaks);
  EXPECT_DOUBLE_EQ(json.at("us").at("min").get<double>(), 1e4);
  EXPECT_DOUBLE_EQ(json.at("us").at("median").get<double>(), 2e4);
  EXPECT_DOUBLE_EQ(json.at("us").at("max").get<double>(), 3e4);
  EXPECT_EQ(json.at("unit"), "GB/s");
  EXPECT_EQ(json.at("operand_sets"), 3);
}

TEST(Row, ColumnsStandBelowTheirNames) {
  const std::string head = row_header(), line = row_line(row_of(RateUnit::kGflops, 0), kPeaks);
  EXPECT_EQ(head.front(), '#');
  EXPECT_EQ(head.size(), line.size());
  EXPECT_EQ(head.find("unit"), line.find("GFLOP/s"));
  for (const std::string& legend : row_legend()) EXPECT_EQ(legend.front(), '#');
}

TEST(ExpertRows, SumExactlyWhateverTheShape) {
  for (const ExpertLoad load : {ExpertLoad::kBalanced, ExpertLoad::kZipf, ExpertLoad::kOne})
    for (const int E : {1, 2, 7, 8})
      for (const std::int64_t R : {0, 1, 7, 64, 4099}) {
        const std::vector<std::int64_t> psum = expert_rows(load, R, E);
        ASSERT_EQ(psum.size(), static_cast<std::size_t>(E) + 1);
        EXPECT_EQ(psum.front(), 0);
        EXPECT_EQ(psum.back(), R);
        EXPECT_TRUE(std::is_sorted(psum.begin(), psum.end()));
      }
}

TEST(ExpertRows, LoadsAreWhatTheirNamesSay) {
  EXPECT_THAT(expert_rows(ExpertLoad::kBalanced, 10, 4), ElementsAre(0, 3, 6, 8, 10));
  EXPECT_THAT(expert_rows(ExpertLoad::kOne, 10, 4), ElementsAre(0, 0, 0, 10, 10));
  EXPECT_THAT(expert_rows(ExpertLoad::kZipf, 11, 3), ElementsAre(0, 6, 9, 11));
}

ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 256;
  c.num_layers = 2, c.d_model = 64, c.num_experts = 4;
  return c;
}

// Every product of the model belongs to a part: together they are the model's FLOP but for the norms' weights.
TEST(StepParts, HoldTheWholeWork) {
  ModelConfig c = small_config();
  const BatchShape shape{3, 7};
  for (const bool tied : {false, true})
    for (const int shared : {0, 1}) {
      c.attention = tied ? AttentionKind::kMla : AttentionKind::kGqa, c.router_bias = tied, c.q_lora_rank = 24 * shared;
      c.tied_embeddings = tied, c.num_shared_experts = shared, c.num_dense_layers = shared, c.dense_ffn = 96 * shared;
      const auto flop = flop_by_part(c, shape);
      double sum = 0, norms = 0;
      for (const double f : flop) sum += f;
      for (const ParamSpec& spec : parameter_specs(c))
        if (spec.shape.size() == 1) norms += 6.0 * static_cast<double>(spec.num_elements() * shape.num_tokens());
      const double want = flop_per_token(c, shape.seq_len, true) * static_cast<double>(shape.num_tokens());
      EXPECT_NEAR(sum + norms, want, 1e-9 * want);
      EXPECT_EQ(flop[static_cast<std::size_t>(StepPart::kPlainFfnGemm)] > 0, shared > 0);
    }
}

TEST(StepParts, AttentionIsHalfOfTheFullCount) {
  const ModelConfig c = small_config();
  const double D = c.num_heads * c.head_dim, full = 12.0 * c.num_layers * D * 7 * 21;
  EXPECT_DOUBLE_EQ(flop_by_part(c, {3, 7})[static_cast<std::size_t>(StepPart::kAttention)], full / 2);
}

// A step through the timed kernels gives the same bits, and each part that the model has was seen.
TEST(Clock, ChangesNothingAndSeesEveryPart) {
  ModelConfig c = small_config();
  c.num_dense_layers = 1, c.dense_ffn = 96;
  std::vector<std::int32_t> ids(21);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 37 % 256);
  const MicroBatch batch{.shape = {3, 7}, .id_T = ids, .target_T = ids, .loss_scale = 1.0 / 21};
  const auto gradients = [&](Stream& stream, ClockedStream* clock, const Kernels& kernels, double& loss) {
    auto model = std::make_unique<Model>(c, DType::kF32, true);
    model->initialize(5);
    if (clock) clock->know_weights(model->params());
    Pass pass(*model, {.shape = batch.shape}, {stream, kernels});
    pass.forward(batch);
    loss = pass.take_losses().front();
    if (clock) clock->set_phase(StepPhase::kBackwardInput);
    pass.backward(batch);
    return model;
  };
  Stream plain(2);
  ClockedStream clocked(2, cpu_kernels());
  const Kernels timed = timed_kernels(cpu_kernels());
  double want = 0, got = 0;
  const auto a = gradients(plain, nullptr, cpu_kernels(), want), b = gradients(clocked, &clocked, timed, got);
  EXPECT_EQ(got, want);
  for (std::size_t i = 0; i < a->params().all().size(); ++i) {
    const Param &p = a->params().all()[i], &q = b->params().all()[i];
    EXPECT_EQ(std::memcmp(p.grad.data, q.grad.data, sizeof(float) * static_cast<std::size_t>(p.spec.num_elements())), 0)
        << p.spec.name;
  }
  const StepTimes times = clocked.take_times();
  for (std::size_t p = 0; p < kNumStepParts; ++p) {
    const auto part = static_cast<StepPart>(p);
    if (part == StepPart::kOptimizer) continue;
    EXPECT_GT(times.of(part, StepPhase::kForward), 0) << name_of(part);
  }
  EXPECT_GT(times.of(StepPart::kExpertGemm, StepPhase::kBackwardInput), 0);
  EXPECT_GT(times.of(StepPart::kExpertGemm, StepPhase::kBackwardWeight), 0);
  EXPECT_GT(times.of(StepPart::kPlainFfnGemm, StepPhase::kBackwardWeight), 0);
  EXPECT_EQ(clocked.take_times().total(), 0);
}

// Kernels that do nothing.
template <class Function>
struct Nothing;
template <class R, class... Args>
struct Nothing<R (*)(Args...)> {
  static R call(Args...) { return R(); }
};
template <class... Functions>
void disable(Functions&... functions) {
  ((functions = Nothing<Functions>::call), ...);
}
Kernels lazy_kernels() {
  Kernels k = cpu_kernels();
  disable(k.gemm.forward, k.gemm.backward_input, k.gemm.backward_weight);
  disable(k.grouped_gemm.forward, k.grouped_gemm.backward_input, k.grouped_gemm.backward_weight);
  disable(k.rmsnorm.forward, k.rmsnorm.backward_input, k.rmsnorm.backward_weight, k.rope.forward, k.latent.split,
          k.latent.join);
  disable(k.attention.forward, k.attention.backward, k.swiglu.forward, k.swiglu.backward_input);
  disable(k.bias.forward, k.bias.backward_gate, k.bias.backward_weight);
  disable(k.router.forward, k.router.backward_gates, k.router.backward_scores);
  disable(k.permute.plan, k.permute.gather, k.permute.combine);
  disable(k.embedding.forward, k.embedding.backward_weight, k.cross_entropy.forward);
  disable(k.adamw.step, k.adamw.sum_of_squares);
  return k;
}

// Each row's check passes with the kernels of every instruction set, and fails with kernels that do nothing.
TEST(Rows, ChecksCanFail) {
  ModelConfig c = small_config();
  c.num_heads = c.num_kv_heads = 2, c.head_dim = 16, c.expert_ffn = 24, c.d_model = 40, c.num_experts = 5;
  Stream stream(2);
  std::vector<std::pair<const Kernels*, bool>> cases;
  for (const char* isa : {"amx", "avx512", "avx2", "generic"})
    if (const Kernels* k = cpu_kernels_by_isa(isa)) cases.push_back({k, true});
  const Kernels lazy = lazy_kernels();
  cases.push_back({&lazy, false});
  ModelConfig latent = c;
  latent.attention = AttentionKind::kMla, latent.rope_interleaved = true;
  latent.q_lora_rank = 12, latent.kv_lora_rank = 20, latent.qk_nope_head_dim = 8, latent.qk_rope_head_dim = 6;
  latent.v_head_dim = 10;
  for (const auto& [kernels, right] : cases)
    for (const ModelConfig* config : {&c, &latent}) {
      if (config == &latent && right && kernels != cases.front().first) continue;
      const BenchTarget target{{stream, *kernels}, *config, {2, 7}};
      for (const auto entries :
           {gemm_entries, grouped_entries, attention_entries, row_op_entries, ffn_op_entries, routing_entries})
        for (const BenchEntry& entry : entries(target)) {
          if (entry.name.find("square") != std::string::npos) continue;
          const BenchCase made = entry.make();
          EXPECT_EQ(made.error() <= made.tolerance, right)
              << kernels->isa << " " << entry.name << " " << entry.shape << " error " << made.error();
        }
    }
}

StepReport report_with(double found) {
  StepReport r{.model = small_config(), .shape = {3, 7}, .peaks = kPeaks, .gemm_peak_after = 360};
  r.seconds = timing_of({0.5});
  r.median.seconds = 0.5;
  r.checks = {{"loss", found, 5, 6}};
  return r;
}

TEST(StepReport, NoFigureWithoutItsChecks) {
  for (const double found : {4.9, 6.1, kNan}) {
    const StepReport r = report_with(found);
    EXPECT_THAT(step_lines(r), Contains(HasSubstr("FAILED")));
    EXPECT_THAT(step_lines(r), Not(Contains(HasSubstr("tokens_per_second"))));
    EXPECT_FALSE(step_json(r).contains("tokens_per_second"));
  }
  EXPECT_THAT(step_lines(report_with(5.5)), Contains(HasSubstr("tokens_per_second            42")));
  EXPECT_DOUBLE_EQ(step_json(report_with(5.5)).at("tokens_per_second").get<double>(), 42);
  EXPECT_EQ(report_with(5.5).gemm_peak(), 360);
}

TEST(StepReport, FirstLossIsNearLnV) {
  ModelConfig c = small_config();
  EXPECT_NEAR(expected_first_loss(c), std::log(256.0), 0.02);
  c.d_model = 512;
  EXPECT_NEAR(expected_first_loss(c), std::log(256.0) + 0.1024, 1e-6);
}

}  // namespace
}  // namespace moe
