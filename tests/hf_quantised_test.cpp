// Quantised weights and modules of multi-token prediction of Hugging Face checkpoints: codes against their definition, what
// belongs together and is not there, copies that differ, modules left out.
// Not here: values of whole models, which hf_test.cpp compares to the byte.
#include <cmath>

#include "lib/run/hf_dequantize.h"
#include "lib/run/hf_source.h"
#include "tests/hf_case.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(HfDequantize, Codes) {
  EXPECT_EQ(e4m3_to_float(0x00), 0.0f);
  EXPECT_TRUE(std::signbit(e4m3_to_float(0x80)));
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9f);  // the least subnormal
  EXPECT_EQ(e4m3_to_float(0x07), 7 * 0x1p-9f);
  EXPECT_EQ(e4m3_to_float(0x08), 0x1p-6f);  // the least normal
  EXPECT_EQ(e4m3_to_float(0x38), 1.0f);
  EXPECT_EQ(e4m3_to_float(0xbc), -1.5f);
  EXPECT_EQ(e4m3_to_float(0x7e), 448.0f);
  EXPECT_EQ(e4m3_to_float(0xfe), -448.0f);
  EXPECT_TRUE(std::isnan(e4m3_to_float(0x7f)) && std::isnan(e4m3_to_float(0xff)));
  for (int code = 1; code < 0x7f; ++code)
    EXPECT_GT(e4m3_to_float(static_cast<std::uint8_t>(code)), e4m3_to_float(static_cast<std::uint8_t>(code - 1)));
  std::vector<float> e2m1;
  for (int code = 0; code < 16; ++code) e2m1.push_back(e2m1_to_float(static_cast<std::uint8_t>(code)));
  EXPECT_THAT(e2m1, ::testing::ElementsAre(0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -.5f, -1, -1.5f, -2, -3, -4, -6));
  EXPECT_EQ(e8m0_to_float(0), 0x1p-127f);
  EXPECT_EQ(e8m0_to_float(127), 1.0f);
  EXPECT_EQ(e8m0_to_float(254), 0x1p127f);
  EXPECT_TRUE(std::isnan(e8m0_to_float(255)));
}

// Any part of a tensor is what the whole has there.
TEST(HfDequantize, PartsAreThoseOfTheWhole) {
  const Fp8Blocks shape{.cols = 7, .block_rows = 2, .block_cols = 3};  // [5, 7]: 3 x 3 scales
  std::vector<std::byte> codes(35);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = std::byte(i * 3);
  const std::vector<float> scales = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  std::vector<float> whole(35), part(35);
  dequantize_fp8(shape, 0, codes, scales, whole.data());
  for (std::size_t i = 0; i < 35; ++i)
    EXPECT_EQ(whole[i], e4m3_to_float(static_cast<std::uint8_t>(i * 3)) * scales[i / 7 / 2 * 3 + i % 7 / 3]) << i;
  for (std::size_t first = 0; first < 35; ++first)
    for (std::size_t n = 1; first + n <= 35; ++n) {
      const auto row = static_cast<std::size_t>(shape.scale_row(static_cast<std::int64_t>(first)));
      dequantize_fp8(shape, static_cast<std::int64_t>(first), std::span(codes).subspan(first, n),
                     std::span(scales).subspan(row * 3), part.data());
      EXPECT_TRUE(std::equal(part.begin(), part.begin() + static_cast<std::ptrdiff_t>(n),
                             whole.begin() + static_cast<std::ptrdiff_t>(first)));
    }
  std::vector<std::byte> pairs(48);
  for (std::size_t i = 0; i < pairs.size(); ++i) pairs[i] = std::byte(i * 5 + 1);
  const std::vector<std::byte> powers = {std::byte(127), std::byte(100), std::byte(130)};
  whole.resize(96), part.resize(96);
  dequantize_mxfp4(0, 96, pairs.data(), powers.data(), whole.data());
  EXPECT_EQ(whole[0], 0.5f);  // the low half of 0x01
  EXPECT_EQ(whole[3], 0);     // the high half of 0x06
  EXPECT_EQ(whole[34], e2m1_to_float((17 * 5 + 1) & 15) * 0x1p-27f);
  for (const auto& [first, n] : {std::pair(1, 1), {1, 40}, {31, 2}, {33, 63}, {64, 32}, {95, 1}}) {
    dequantize_mxfp4(first, n, pairs.data() + first / 2, powers.data() + first / 32, part.data());
    EXPECT_TRUE(std::equal(part.begin(), part.begin() + n, whole.begin() + first)) << first;
  }
}

class HfQuantised : public HfTest {
 protected:
  // Overwrites bytes of a tensor of a copy, from its beginning.
  void spoil(const std::string& name, const Bytes& bytes) {
    std::string path;
    std::int64_t at = 0;
    {
      const SafetensorsDirectory d(dir_ + "/copy");
      const auto& entry = d.tensors().at(name);
      path = entry.file->path(), at = entry.tensor->begin_bytes;
    }
    std::fstream f(path, std::ios::in | std::ios::out | std::ios::binary);
    std::uint64_t header = 0;
    f.read(reinterpret_cast<char*>(&header), 8);
    f.seekp(static_cast<std::streamoff>(8 + header) + at);
    f.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  void edit_config(const std::function<void(nlohmann::json&)>& change) {
    const std::string path = dir_ + "/copy/config.json";
    nlohmann::json config = nlohmann::json::parse(read_text_file(path, 1 << 20));
    change(config);
    fs::remove(path);
    write_text_file(path, config.dump());
  }
};

const std::string kFp8 = "model.layers.1.self_attn.o_proj.weight";

TEST_F(HfQuantised, WhatBelongsTogetherIsThere) {
  const auto without = [&](const std::string& golden, const std::string& lost, const std::string& as = "") {
    rename_tensors(copy(golden), [&](const std::string& n) { return n == lost ? as : n; });
    return refused(dir_ + "/copy");
  };
  EXPECT_THAT(without("deepseek_v3_fp8", kFp8 + "_scale_inv"), HasSubstr("expected " + kFp8 + "_scale_inv beside it"));
  EXPECT_THAT(without("deepseek_v3_fp8", kFp8), HasSubstr("unexpected (1): " + kFp8 + "_scale_inv"));
  const std::string bias = "model.layers.1.mlp.gate.e_score_correction_bias";
  EXPECT_THAT(without("deepseek_v3_fp8", bias), HasSubstr("missing (1): " + bias));
  EXPECT_THAT(without("kimi_k2", bias), HasSubstr("missing (1): " + bias));
  copy("deepseek_v3_fp8");
  edit_config([](auto& c) { c["quantization_config"]["weight_block_size"] = {4, 4}; });
  EXPECT_THAT(refused(dir_ + "/copy"), HasSubstr("_scale_inv: expected ["));
  copy("deepseek_v3_fp8");
  edit_config([](auto& c) { c.erase("quantization_config"); });
  EXPECT_THAT(refused(dir_ + "/copy"), HasSubstr("unexpected ("));
}

TEST_F(HfQuantised, PackedExpertsAreWhole) {
  copy("gpt_oss_mxfp4");
  edit_config([](auto& c) { c.erase("quantization_config"); });
  EXPECT_THAT(refused(dir_ + "/copy"), HasSubstr("gate_up_proj_blocks"));
  // Its tensors in one file, so that they can be renamed.
  for (const char* part : {"_blocks", "_scales"}) {
    copy("gpt_oss_mxfp4");
    for (const char* file : {"1", "2"}) {
      const std::string name = dir_ + "/copy/model-0000" + file + "-of-00002.safetensors";
      fs::create_directory(dir_ + "/copy/" + file);
      fs::rename(name, dir_ + "/copy/" + file + "/model.safetensors");
      rename_tensors(dir_ + "/copy/" + file, [&](const std::string& n) {
        return n == "model.layers.0.mlp.experts.down_proj" + std::string(part) ? "" : n;
      });
      fs::rename(dir_ + "/copy/" + file + "/model.safetensors", name);
      fs::remove(dir_ + "/copy/" + file);
    }
    nlohmann::json index = nlohmann::json::parse(read_text_file(dir_ + "/copy/model.safetensors.index.json", 1 << 20));
    index["weight_map"].erase("model.layers.0.mlp.experts.down_proj" + std::string(part));
    index.erase("metadata");
    fs::remove(dir_ + "/copy/model.safetensors.index.json");
    write_text_file(dir_ + "/copy/model.safetensors.index.json", index.dump());
    const std::string message = refused(dir_ + "/copy");
    EXPECT_THAT(message, HasSubstr("missing (1): model.layers.0.mlp.experts.down_proj"));
    EXPECT_THAT(message, HasSubstr("unexpected (1): model.layers.0.mlp.experts.down_proj_"));
  }
}

TEST_F(HfQuantised, NotANumberIsRefused) {
  copy("deepseek_v3_fp8");
  spoil(kFp8, {std::byte(0x7f)});
  EXPECT_THAT(refused(dir_ + "/copy"), HasSubstr("not finite"));
  copy("deepseek_v3_fp8");
  const std::uint32_t infinity = 0x7f800000;
  Bytes scale(4);
  std::memcpy(scale.data(), &infinity, 4);
  spoil(kFp8 + "_scale_inv", scale);
  EXPECT_THAT(refused(dir_ + "/copy", Exit::kBadInput, "fp32"), HasSubstr("not finite"));
  copy("gpt_oss_mxfp4");
  spoil("model.layers.1.mlp.experts.gate_up_proj_scales", {std::byte(255)});
  EXPECT_THAT(refused(dir_ + "/copy"), HasSubstr("not finite"));
}

// bf16 from fp32 is what bf16 is at once; both are the same as from the plain files of an export.
TEST_F(HfQuantised, DtypesAndPlainFilesAgree) {
  for (const std::string golden : {"deepseek_v3_fp8", "gpt_oss_mxfp4"}) {
    const std::string narrow = dir_ + "/" + golden, wide = narrow + "32", plain = narrow + "-plain";
    import(kGolden + golden, narrow);
    import(kGolden + golden, wide, "fp32", 1 << 16);
    give_back(wide, plain, HfLayout::kPerExpert);
    EXPECT_THAT(read_text_file(plain + "/config.json", 1 << 20), Not(HasSubstr("quantization_config")));
    import(plain, narrow + "2", "bf16");
    EXPECT_EQ(open_checkpoint(narrow).digest, open_checkpoint(narrow + "2").digest) << golden;
    import(plain, narrow + "3", "fp32");
    EXPECT_EQ(open_checkpoint(wide).digest, open_checkpoint(narrow + "3").digest) << golden;
  }
}

const std::string kModule = "model.layers.2.";  // of the golden deepseek_v3

TEST_F(HfQuantised, SharedPartsOfModulesMustBeTheModels) {
  for (const std::string name : {"embed_tokens.weight", "shared_head.head.weight"}) {
    copy("deepseek_v3");
    spoil(kModule + name, {std::byte(1), std::byte(2), std::byte(3), std::byte(4)});
    const std::string message = refused(dir_ + "/copy");
    EXPECT_THAT(message, HasSubstr("tensor " + kModule + name + ": expected the same as "));
  }
}

TEST_F(HfQuantised, ModulesCanBeLeftOut) {
  const auto drop = [&](const std::string& from, const std::string& to) {
    const HfOptions hf{.input = from, .output = to, .memory_bytes = 1 << 20, .drop_mtp = true};
    ASSERT_EQ(import_hf(hf, quiet(), invocation_), Exit::kOk);
  };
  drop(kGolden + "deepseek_v3", run_);
  EXPECT_EQ(model_of_state(open_checkpoint(run_).state, run_).num_mtp_layers, 0);
  // An export without them is an import without them; files that lack them need the option.
  import(kGolden + "deepseek_v3", dir_ + "/full");
  const HfOptions hf{.input = dir_ + "/full", .output = dir_ + "/short", .memory_bytes = 1 << 20, .drop_mtp = true};
  ASSERT_EQ(export_hf(hf, quiet(), invocation_), Exit::kOk);
  import(dir_ + "/short", dir_ + "/again");
  EXPECT_EQ(open_checkpoint(run_).digest, open_checkpoint(dir_ + "/again").digest);
  fs::copy(dir_ + "/short", dir_ + "/copy");
  edit_config([](auto& c) { c["num_nextn_predict_layers"] = 1; });
  std::string message;
  const HfOptions bare{.input = dir_ + "/copy", .output = dir_ + "/no", .memory_bytes = 1 << 20};
  EXPECT_EQ(code_of([&] { import_hf(bare, quiet(), invocation_); }, message), Exit::kBadInput);
  EXPECT_THAT(message, HasSubstr(kModule + "eh_proj.weight"));
  drop(dir_ + "/copy", dir_ + "/dropped");
  EXPECT_EQ(open_checkpoint(run_).digest, open_checkpoint(dir_ + "/dropped").digest);
}

}  // namespace
}  // namespace moe
