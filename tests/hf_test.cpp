// Checkpoints of Hugging Face: logits of the imported model are those of an independent implementation
// (scripts/golden/make_hf_golden.py); import and export give back every byte, in both layouts; nothing is lost silently.
// Not here: the file format (safetensors_test.cpp), config.json (hf_config_test.cpp).
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "lib/io/manifest.h"
#include "lib/io/safetensors_directory.h"
#include "lib/model/model.h"
#include "lib/model/params.h"
#include "lib/run/hf_checkpoint.h"
#include "lib/run/hf_names.h"
#include "lib/run/hf_runs.h"
#include "lib/run/hf_stream.h"
#include "lib/run/train_state.h"
#include "tests/checkpoint_case.h"
#include "tests/compare.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using Bytes = std::vector<std::byte>;

const std::string kGolden = std::string(MOE_SOURCE_DIR) + "/tests/golden/hf/";
constexpr double kLogitTolerance = 1e-4;  // of the largest

Bytes bytes_of(const SafetensorsFile& file, const SafeTensor& t) {
  Bytes out(static_cast<std::size_t>(t.bytes()));
  file.read(t, 0, t.bytes() / static_cast<std::int64_t>(size_of(t.type)), out.data());
  return out;
}

// name -> (dtype and shape, bytes)
std::map<std::string, std::pair<std::string, Bytes>> tensors_of(const std::string& directory) {
  std::map<std::string, std::pair<std::string, Bytes>> all;
  const SafetensorsDirectory d(directory);
  for (const auto& [name, e] : d.tensors())
    all[name] = {std::string(name_of(e.tensor->type)) + " " + joined(e.tensor->shape), bytes_of(*e.file, *e.tensor)};
  return all;
}

// The same without quantisation, as the golden files say them.
std::map<std::string, std::pair<std::string, Bytes>> values_of(const std::string& directory) {
  if (!fs::exists(directory + ".values.safetensors")) return tensors_of(directory);
  std::map<std::string, std::pair<std::string, Bytes>> all;
  const SafetensorsFile file(directory + ".values.safetensors");
  for (const SafeTensor& t : file.tensors())
    all[t.name] = {std::string(name_of(t.type)) + " " + joined(t.shape), bytes_of(file, t)};
  return all;
}

class HfTest : public CheckpointTest {
 protected:
  void import(const std::string& from, const std::string& to, const std::string& dtype = "keep",
              std::int64_t memory = 1 << 20) {
    ASSERT_EQ(import_hf({.input = from, .output = to, .memory_bytes = memory, .dtype = dtype}, quiet(), invocation_),
              Exit::kOk);
  }
  void give_back(const std::string& from, const std::string& to, HfLayout layout, std::int64_t file_bytes = 1 << 30,
                 const std::string& dtype = "keep", std::int64_t memory = 1 << 20) {
    const HfOptions hf{
        .input = from, .output = to, .memory_bytes = memory, .dtype = dtype, .layout = layout, .file_bytes = file_bytes};
    ASSERT_EQ(export_hf(hf, quiet(), invocation_), Exit::kOk);
  }
  std::string refused(const std::string& from, Exit expected = Exit::kBadInput) {
    std::string message;
    const HfOptions hf{.input = from, .output = dir_ + "/refused", .memory_bytes = 1 << 20};
    EXPECT_EQ(code_of([&] { import_hf(hf, quiet(), invocation_); }, message), expected);
    EXPECT_FALSE(fs::exists(dir_ + "/refused/latest"));
    if (fs::exists(dir_ + "/refused")) {
      EXPECT_TRUE(names_in(dir_ + "/refused").empty());
    }
    return message;
  }
  // A copy of a golden directory that a test may spoil.
  std::string copy(const std::string& name) {
    fs::remove_all(dir_ + "/copy");
    fs::copy(kGolden + name, dir_ + "/copy", fs::copy_options::recursive);
    return dir_ + "/copy";
  }
  CommonOptions quiet() const { return {.json = dir_ + "/result.json"}; }

  Options options_{"moe-reshard", "", {}};
  Invocation invocation_{options_, {"moe-reshard", "import"}};
};

class HfGolden : public HfTest, public ::testing::WithParamInterface<std::string> {};

TEST_P(HfGolden, LogitsAreThoseOfAnIndependentImplementation) {
  import(kGolden + GetParam(), run_);
  const CheckpointInfo info = open_checkpoint(run_);
  const ModelConfig config = model_of_state(info.state, run_);
  Model model(config, DType::kF32, false);
  load_weights(model, info);
  model.units().weights_changed();

  const SafetensorsFile expected(kGolden + GetParam() + ".expected.safetensors");
  std::vector<std::int32_t> id_T;
  std::vector<double> want;
  for (const SafeTensor& t : expected.tensors()) {
    const Bytes raw = bytes_of(expected, t);
    if (t.name == "tokens")
      for (std::int64_t i = 0; i < t.shape[0]; ++i) {
        std::int64_t id;
        std::memcpy(&id, raw.data() + i * 8, 8);
        id_T.push_back(static_cast<std::int32_t>(id));
      }
    else if (t.name == "logits") {
      want.resize(raw.size() / 8);
      std::memcpy(want.data(), raw.data(), raw.size());
    }
  }
  Stream stream(2);
  const BatchShape shape{1, static_cast<int>(id_T.size())};
  Pass pass(model, {.shape = shape, .training = false}, {stream, cpu_kernels()});
  const std::vector<std::int32_t> target_T(id_T.size(), 0);
  pass.forward({.shape = shape, .id_T = id_T, .target_T = target_T, .with_gradient = false, .tally = false});
  const Mat l = pass.logits();
  EXPECT_TRUE(close_to(std::span<const float>(l.f32(), static_cast<std::size_t>(l.rows * l.cols)),
                       std::span<const double>(want), kLogitTolerance));
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

// Rewrites the one file of a directory with other names.
void rename_tensors(const std::string& directory, const std::function<std::string(const std::string&)>& rename) {
  const std::string path = directory + "/model.safetensors";
  std::vector<SafeTensor> list;
  std::vector<Bytes> data;
  {
    const SafetensorsFile file(path);
    for (const SafeTensor& t : file.tensors())
      if (const std::string name = rename(t.name); !name.empty()) {
        list.push_back(t), data.push_back(bytes_of(file, t));
        list.back().name = name;
      }
  }
  fs::remove(path);
  SafetensorsWriter w(path, list, {});
  for (std::size_t i = 0; i < list.size(); ++i) w.write(i, 0, elements_of(list[i].shape), data[i].data());
  w.finish();
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
