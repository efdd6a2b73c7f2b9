// Checkpoints of Hugging Face: logits of the imported model are those of an independent implementation
// (scripts/golden/make_hf_golden.py); import and export give back every byte, in both layouts; nothing is lost silently.
// Not here: the file format (safetensors_test.cpp), config.json (hf_config_test.cpp).
#include "lib/io/manifest.h"
#include "lib/model/params.h"
#include "lib/run/hf_runs.h"
#include "tests/compare.h"
#include "tests/hf_case.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

class HfGolden : public HfTest, public ::testing::WithParamInterface<std::string> {};

double cross_entropy(std::span<const double> logits_V, std::int64_t target) {
  double sum = 0;
  for (const double l : logits_V) sum += std::exp(l);
  return std::log(sum) - logits_V[static_cast<std::size_t>(target)];
}

// Logits, and where there is a module of multi-token prediction its loss: position t predicts token t + 2.
TEST_P(HfGolden, LogitsAreThoseOfAnIndependentImplementation) {
  import(kGolden + GetParam(), run_);
  const CheckpointInfo info = open_checkpoint(run_);
  const ModelConfig config = model_of_state(info.state, run_);
  Model model(config, DType::kF32, false);
  load_weights(model, info);
  model.units().weights_changed();

  const SafetensorsFile expected(kGolden + GetParam() + ".expected.safetensors");
  const std::vector<std::int64_t> tokens = values_in<std::int64_t>(expected, "tokens");
  const std::vector<std::int32_t> id_T(tokens.begin(), tokens.end());
  std::vector<std::int32_t> target_T(id_T.begin() + 1, id_T.end());
  target_T.push_back(-1);
  Stream stream(2);
  const BatchShape shape{1, static_cast<int>(id_T.size())};
  Pass pass(model, {.shape = shape, .training = false, .num_modules = config.num_mtp_layers}, {stream, cpu_kernels()});
  pass.forward({.shape = shape, .id_T = id_T, .target_T = target_T, .with_gradient = false, .tally = false});
  const Mat l = pass.logits();
  const std::vector<double> want = values_in<double>(expected, "logits");
  EXPECT_TRUE(close_to(std::span<const float>(l.f32(), static_cast<std::size_t>(l.rows * l.cols)),
                       std::span<const double>(want), kLogitTolerance));
  const std::vector<double> module = values_in<double>(expected, "mtp_logits");
  ASSERT_EQ(config.num_mtp_layers, module.empty() ? 0 : 1);
  if (module.empty()) return;
  const auto V = static_cast<std::size_t>(config.vocab_size);
  double loss = 0;
  for (std::size_t t = 0; t + 2 < tokens.size(); ++t)
    loss += cross_entropy(std::span(module).subspan(t * V, V), tokens[t + 2]);
  EXPECT_NEAR(pass.take_losses().at(1), loss, kLogitTolerance * loss);
}

TEST_P(HfGolden, ThereAndBackIsTheSameToTheByte) {
  const std::string source = kGolden + GetParam();
  const bool fused = GetParam().ends_with("_fused"), either = GetParam().starts_with("gpt_oss");  // which has one layout
  const HfLayout own = fused ? HfLayout::kFused : HfLayout::kPerExpert,
                 other = fused ? HfLayout::kPerExpert : HfLayout::kFused;
  import(source, run_);
  give_back(run_, dir_ + "/back", own);
  give_back(run_, dir_ + "/small", own, 5000, "keep", 70'000);
  EXPECT_GT(names_in(dir_ + "/small").size(), 4u);
  auto want = values_of(source);
  if (want.begin()->second.first.starts_with("F16")) {  // F16 is widened, which changes no value
    import(source, run_ + "32", "fp32");
    EXPECT_EQ(open_checkpoint(run_ + "32").digest, open_checkpoint(run_).digest);
    for (auto& [name, t] : want) {
      Bytes wide(t.second.size() * 2);
      convert_elements(SafeType::kF16, t.second.data(), static_cast<std::int64_t>(t.second.size() / 2), DType::kF32,
                       wide.data());
      t = {"F32" + t.first.substr(3), wide};
    }
  }
  EXPECT_TRUE(want == tensors_of(dir_ + "/back"));
  EXPECT_TRUE(want == tensors_of(dir_ + "/small"));
  // Through the other layout, with little memory: many small shard files, and the same digest.
  give_back(run_, dir_ + "/other", other);
  EXPECT_EQ(tensors_of(dir_ + "/other") == want, either);
  import(dir_ + "/other", run_ + "2", "keep", 1 << 16);
  EXPECT_EQ(open_checkpoint(run_).digest, open_checkpoint(run_ + "2").digest);
  give_back(run_ + "2", dir_ + "/again", own);
  EXPECT_TRUE(want == tensors_of(dir_ + "/again"));
  EXPECT_EQ(read_text_file(dir_ + "/again/config.json", 1 << 20), read_text_file(dir_ + "/back/config.json", 1 << 20));
}

INSTANTIATE_TEST_SUITE_P(Families, HfGolden,
                         ::testing::Values("mixtral", "mixtral_fused", "qwen3_moe", "qwen3_moe_fused", "olmoe",
                                           "olmoe_fused", "deepseek", "deepseek_v2", "deepseek_v2_fused", "deepseek_v3",
                                           "deepseek_v3_fp8", "kimi_k2", "gpt_oss", "gpt_oss_mxfp4"),
                         [](const auto& info) { return info.param; });

// A model of each family, with everything that it has.
ModelConfig model_of(HfFamily family) {
  ModelConfig m;
  m.vocab_size = 50, m.num_heads = 4, m.num_kv_heads = 2, m.head_dim = 6, m.d_model = 24, m.expert_ffn = 5;
  m.qk_norm = family == HfFamily::kQwen3Moe ? QkNorm::kHead : family == HfFamily::kOlmoe ? QkNorm::kFull : QkNorm::kNone;
  const bool mla = family == HfFamily::kDeepseekV2 || is_deepseek_v3(family);
  if (family == HfFamily::kQwen3Moe || mla || family == HfFamily::kDeepseek) m.num_dense_layers = 1, m.dense_ffn = 7;
  if (mla || family == HfFamily::kDeepseek) m.num_shared_experts = 2;
  if (mla) m.attention = AttentionKind::kMla, m.rope_interleaved = true;
  if (family == HfFamily::kDeepseekV2) m.router_renormalize = false;
  if (is_deepseek_v3(family))
    m.q_lora_rank = 9, m.router_score = Score::kSigmoid, m.router_bias = true, m.num_mtp_layers = 2;
  if (family != HfFamily::kGptOss) return m;
  m.attention_bias = m.attention_sinks = m.router_logit_bias = m.expert_bias = true;
  m.swiglu_limit = 7, m.sliding_window = 3, m.layer_types = "sliding,full";
  return m;
}

TEST_F(HfTest, EveryNameIsABoxOfOneParameter) {
  for (int f = 0; f <= static_cast<int>(HfFamily::kGptOss); ++f)
    for (const HfLayout layout : {HfLayout::kPerExpert, HfLayout::kFused, HfLayout::kPacked}) {
      const auto family = static_cast<HfFamily>(f);
      if (layout == HfLayout::kPacked && family != HfFamily::kGptOss) continue;
      const ModelConfig m = model_of(family);
      EXPECT_EQ(hf_family_of(m, "m", name_of(family)), family);
      const std::vector<HfParam> params = hf_params(m);
      std::vector<std::vector<Box>> boxes(params.size());
      std::map<std::string, std::vector<int>> theirs;  // how often each of their elements is one of ours
      for (const HfTensor& t : hf_tensors(m, family, layout)) {
        if (!t.duplicate) boxes[t.param].push_back(t.box);
        std::vector<int>& used = theirs[t.name];
        used.resize(static_cast<std::size_t>(elements_of(t.shape)));
        std::int64_t count = 0;
        for (const Box& block : hf_blocks(t, t.box, 16))
          for_each_hf_run(t, block, [&](const HfRun& r) {
            for (std::int64_t i = 0; i < r.count; ++i, ++count) ++used.at(static_cast<std::size_t>(r.first + i * r.step));
          });
        EXPECT_EQ(count, elements_of(t.box.extent)) << t.name;
      }
      for (const auto& [name, used] : theirs) EXPECT_THAT(used, ::testing::Each(1)) << name;
      for (std::size_t i = 0; i < params.size(); ++i)
        EXPECT_EQ(coverage_fault(params[i].shape, boxes[i]), "") << params[i].name;
    }
}

TEST_F(HfTest, NothingIsLostOrTakenSilently) {
  const std::string lost = "model.layers.1.block_sparse_moe.experts.3.w2.weight";
  rename_tensors(copy("mixtral"), [&](const std::string& n) { return n == lost ? "" : n; });
  EXPECT_THAT(refused(dir_ + "/copy"), HasSubstr("missing (1): " + lost));
  rename_tensors(copy("mixtral"), [&](const std::string& n) { return n == lost ? lost + "s" : n; });
  const std::string message = refused(dir_ + "/copy");
  EXPECT_THAT(message, HasSubstr(lost + " (nearest: " + lost + "s)"));
  EXPECT_THAT(message, HasSubstr("unexpected (1): " + lost + "s"));
  rename_tensors(copy("mixtral"),
                 [&](const std::string& n) { return n == lost ? "model.layers.1.mlp.experts.down_proj" : n; });
  EXPECT_THAT(refused(dir_ + "/copy"), HasSubstr("found both"));
  const std::string up = "model.layers.0.self_attn.q_proj.weight", down = "model.layers.0.self_attn.k_proj.weight";
  rename_tensors(copy("mixtral"), [&](const std::string& n) { return n == up ? down : n == down ? up : n; });
  EXPECT_THAT(refused(dir_ + "/copy"), HasSubstr(up + " expected [16,16], found [8,16]"));
}

TEST_F(HfTest, NotFiniteIsRefusedAndNothingStays) {
  const std::string path = copy("mixtral") + "/model.safetensors";
  std::fstream f(path, std::ios::in | std::ios::out | std::ios::binary);
  f.seekp(-4, std::ios::end);
  f.write("\0\0\xc0\x7f", 4);
  f.close();
  EXPECT_THAT(refused(dir_ + "/copy"), HasSubstr("not finite"));
}

TEST_F(HfTest, OutputsAreNotOverwritten) {
  import(kGolden + "olmoe", run_);
  std::string message;
  const HfOptions again{.input = kGolden + "olmoe", .output = run_, .memory_bytes = 1 << 20};
  EXPECT_EQ(code_of([&] { import_hf(again, quiet(), invocation_); }, message), Exit::kCannotCreate);
  const std::string out = dir_ + "/out";
  give_back(run_, out, HfLayout::kFused);
  const HfOptions hf{.input = run_, .output = out, .memory_bytes = 1 << 20};
  CommonOptions force = quiet();
  EXPECT_EQ(code_of([&] { export_hf(hf, force, invocation_); }, message), Exit::kCannotCreate);
  force.force = true;
  EXPECT_EQ(export_hf(hf, force, invocation_), Exit::kOk);
  EXPECT_TRUE(tensors_of(out).contains("model.layers.0.mlp.experts.0.up_proj.weight"));
  std::ofstream(out + "/notes.txt") << "mine";
  EXPECT_EQ(code_of([&] { export_hf(hf, force, invocation_); }, message), Exit::kCannotCreate);
  EXPECT_TRUE(fs::exists(out + "/notes.txt"));
  for (const std::string& name : names_in(dir_)) EXPECT_FALSE(name.starts_with(".tmp")) << name;
}

TEST_F(HfTest, RoundsToNearestEven) {
  const float in[] = {1.0f, 1.00390625f, 1.01171875f, -3.14159265f, 0.0f};  // ties go to the even neighbour
  std::uint16_t out[5];
  convert_elements(SafeType::kF32, reinterpret_cast<const std::byte*>(in), 5, DType::kBF16,
                   reinterpret_cast<std::byte*>(out));
  EXPECT_THAT(out, ::testing::ElementsAre(0x3f80, 0x3f80, 0x3f82, 0xc049, 0));
  const std::uint16_t half[] = {0x0001, 0x83ff, 0x0400, 0x3c01, 0xfbff, 0x8000};
  float wide[6];
  convert_elements(SafeType::kF16, reinterpret_cast<const std::byte*>(half), 6, DType::kF32,
                   reinterpret_cast<std::byte*>(wide));
  EXPECT_THAT(wide, ::testing::ElementsAre(0x1p-24f, -1023 * 0x1p-24f, 0x1p-14f, 1 + 0x1p-10f, -65504.0f, 0.0f));
}

}  // namespace
}  // namespace moe
