// What moe-reshard makes of the content of a checkpoint, element by element: means in double, experts that are kept, dense
// layers that become experts with routers as training initialises them, dtypes. Not here: layouts (reshard_test.sh).
#include "lib/run/reshard_content.h"

#include <gmock/gmock.h>

#include <map>

#include "lib/base/rng.h"
#include "lib/comm/world.h"
#include "lib/model/params.h"
#include "lib/model/presets.h"
#include "lib/run/reshard.h"
#include "lib/run/target_layout.h"
#include "lib/run/tensor_cut.h"
#include "lib/run/train_options.h"
#include "lib/run/train_state.h"
#include "tests/checkpoint_case.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Key = std::pair<std::string, std::string>;
using State = std::map<Key, std::vector<float>>;

// A model of two layers with all roles, random, saved as moe-train saves it.
struct SmallRun {
  TrainOptions train;
  Options options = train_options(train);
  State values;
  std::map<Key, std::vector<std::int64_t>> shapes;
  std::map<Key, std::vector<BF16>> rounded;

  SmallRun(const std::vector<std::pair<std::string, std::string>>& set, unsigned seed) {
    const std::vector<std::pair<std::string, std::string>> small = {
        {"vocab-size", "11"}, {"layers", "2"},  {"d-model", "6"},    {"heads", "1"}, {"kv-heads", "1"},
        {"head-dim", "2"},    {"experts", "5"}, {"expert-ffn", "3"}, {"seed", "99"}};
    for (const auto& list : {small, set})
      for (const auto& [name, value] : list) options.set(name, {value}, Origin::kCommandLine);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const bool bf16 = train.dtype == DType::kBF16;
    for (const ParamSpec& spec : parameter_specs(train.model))
      for (const char* role : {"weight", "master", "m", "v"}) {
        if (!bf16 && std::string(role) == "master") continue;
        auto& v = values[{spec.name, role}];
        v.resize(static_cast<std::size_t>(spec.num_elements()));
        for (float& x : v) x = normal(random);
        shapes[{spec.name, role}] = spec.shape;
      }
    if (bf16)
      for (auto& [key, v] : values)
        if (key.second == "weight")
          for (std::size_t i = 0; i < v.size(); ++i) {
            rounded[key].push_back(to_bf16(values[{key.first, "master"}][i]));
            v[i] = to_float(rounded[key].back());
          }
    for (int layer = train.model.num_dense_layers; train.model.router_bias && layer < 2; ++layer) {
      const Key key{"layers." + std::to_string(layer) + ".router.bias", "bias"};
      for (int e = 0; e < train.model.num_experts; ++e) values[key].push_back(normal(random));
      shapes[key] = {train.model.num_experts};
    }
  }

  std::string save(const std::string& run) {
    std::vector<TensorSlice> slices;
    for (auto& [key, v] : values) {
      const auto& shape = shapes[key];
      const bool half = rounded.contains(key);
      void* const data = half ? static_cast<void*>(rounded[key].data()) : v.data();
      slices.push_back({key.first, key.second, half ? DType::kBF16 : DType::kF32, shape,
                        std::vector<std::int64_t>(shape.size(), 0), shape, data});
    }
    return save_checkpoint(run, 3, make_state(options, {.step = 3, .updates = 3, .consumed_samples = 48}, {}),
                           nlohmann::json::array(), slices, {}, false)
        .path;
  }
};

// All of a checkpoint as floats.
State load(const std::string& path, nlohmann::json* state = nullptr) {
  const CheckpointInfo info = open_checkpoint(path);
  State values;
  std::map<Key, std::vector<BF16>> halves;
  std::vector<TensorSlice> slices;
  for (const auto& t : info.tensors) {
    auto& v = values[{t.name, t.role}];
    v.resize(static_cast<std::size_t>(elements_of(t.shape)));
    void* data = v.data();
    if (t.dtype == DType::kBF16) {
      halves[{t.name, t.role}].resize(v.size());
      data = halves[{t.name, t.role}].data();
    }
    slices.push_back({t.name, t.role, t.dtype, t.shape, std::vector<std::int64_t>(t.shape.size(), 0), t.shape, data});
  }
  load_checkpoint(info, slices);
  for (const auto& [key, h] : halves)
    for (std::size_t i = 0; i < h.size(); ++i) values[key][i] = to_float(h[i]);
  if (state) *state = info.state;
  return values;
}

class ReshardContentTest : public CheckpointTest {
 protected:
  // moe-reshard IN -o OUT as a library call.
  State reshard(LayoutOptions layout, nlohmann::json* state = nullptr) {
    layout.output = dir_ + "/out" + std::to_string(++count_);
    layout.memory_bytes = 1 << 20;
    ReshardOptions tool;
    tool.common.threads = 2;
    tool.common.json = dir_ + "/result.json";
    const Options options = reshard_options(tool);
    World world;
    ::testing::internal::CaptureStdout();
    EXPECT_EQ(reshard_layout(layout, tool.common, {options, {"moe-reshard"}}, world), Exit::kOk);
    ::testing::internal::GetCapturedStdout();
    return load(layout.output, state);
  }
  int count_ = 0;
};

const std::vector<std::pair<std::string, std::string>> kBias = {{"router-score", "sigmoid"}, {"router-bias", "true"}};

TEST_F(ReshardContentTest, NamesOfExpertsAreThoseOfTheList) {
  for (const Preset& p : presets()) {
    TrainOptions train;
    Options options = train_options(train);
    for (const auto& [name, value] : p.options) options.set(name, {value}, Origin::kPreset);
    for (const ParamSpec& s : parameter_specs(train.model)) EXPECT_EQ(is_expert_name(s.name), s.is_expert) << s.name;
  }
}

TEST_F(ReshardContentTest, TheMeanIsTakenInDouble) {
  SmallRun a({}, 1), b({}, 2), c({}, 3);
  const State got = reshard({.input = a.save(dir_ + "/a"), .average = {b.save(dir_ + "/b"), c.save(dir_ + "/c")}});
  ASSERT_EQ(got.size(), a.values.size());
  for (const auto& [key, v] : got)
    for (std::size_t i = 0; i < v.size(); ++i) {
      const double sum = double{a.values[key][i]} + double{b.values[key][i]} + double{c.values[key][i]};
      ASSERT_EQ(v[i], static_cast<float>(sum / 3)) << key.first;
    }
}

TEST_F(ReshardContentTest, RoundedWeightsAreTheRoundedMeanOfTheMasters) {
  SmallRun a({{"dtype", "bf16"}}, 1), b({{"dtype", "bf16"}}, 2);
  const State got = reshard({.input = a.save(dir_ + "/a"), .ep = 2, .average = {b.save(dir_ + "/b")}});
  for (const auto& [key, v] : got)
    for (std::size_t i = 0; i < v.size(); ++i) {
      const Key from{key.first, key.second == "weight" ? "master" : key.second};
      const auto mean = static_cast<float>((double{a.values[from][i]} + double{b.values[from][i]}) / 2);
      ASSERT_EQ(v[i], key.second == "weight" ? to_float(to_bf16(mean)) : mean) << key.first;
    }
}

TEST_F(ReshardContentTest, ExpertsThatAreKept) {
  SmallRun a(kBias, 1);
  nlohmann::json state;
  const State got = reshard({.input = a.save(dir_ + "/a"), .ep = 2, .experts = "4,1-2"}, &state);
  ASSERT_EQ(got.size(), a.values.size());
  for (const auto& [key, v] : got) {
    const bool by_expert = is_expert_name(key.first) || key.first.find(".router.") != std::string::npos;
    if (!by_expert) {
      EXPECT_EQ(v, a.values[key]) << key.first;
      continue;
    }
    const auto& from = a.values[key];
    const std::size_t each = from.size() / 5;
    std::vector<float> want;
    for (const std::size_t e : {4, 1, 2})
      want.insert(want.end(), from.begin() + static_cast<std::ptrdiff_t>(e * each),
                  from.begin() + static_cast<std::ptrdiff_t>((e + 1) * each));
    EXPECT_EQ(v, want) << key.first;
  }
  EXPECT_EQ(state["options"]["experts"], "3");
  EXPECT_EQ(state["options"]["top-k"], "2");
  EXPECT_EQ(state["consumed_samples"], 48);
  reshard({.input = dir_ + "/a", .experts = "3"}, &state);
  EXPECT_EQ(state["options"]["top-k"], "1");
}

TEST_F(ReshardContentTest, DenseLayersBecomeExperts) {
  auto options = kBias;
  options.insert(options.end(), {{"dense-layers", "2"}, {"dense-ffn", "4"}});
  SmallRun a(options, 1);
  nlohmann::json state;
  const State got = reshard({.input = a.save(dir_ + "/a"), .ep = 3, .shard = 2, .upcycle = 5}, &state);
  EXPECT_EQ(state["options"]["experts"], "5");
  EXPECT_EQ(state["options"]["top-k"], "2");
  EXPECT_EQ(state["options"]["expert-ffn"], "4");
  EXPECT_EQ(state["options"]["dense-layers"], "0");
  // The names and shapes of the model that the new options describe, with their biases.
  TrainOptions train;
  Options parsed = train_options(train);
  apply_checkpoint_options(parsed, state);
  std::size_t count = 2;  // biases
  for (const ParamSpec& spec : parameter_specs(train.model))
    for (const char* role : {"weight", "m", "v"}) {
      ++count;
      ASSERT_TRUE(got.contains({spec.name, role})) << spec.name;
      const auto& v = got.at({spec.name, role});
      ASSERT_EQ(static_cast<std::int64_t>(v.size()), spec.num_elements());
      if (spec.name.ends_with("router.weight")) {
        const Rng rng(99, spec.name);
        for (std::size_t i = 0; i < v.size(); ++i)
          ASSERT_EQ(v[i], std::string(role) == "weight" ? spec.init_std * rng.normal(i) : 0.0f);
      } else if (spec.is_expert) {
        std::string dense = spec.name;
        const auto& from = a.values.at({dense.replace(dense.find("experts"), 7, "mlp"), role});
        for (std::size_t i = 0; i < v.size(); ++i) ASSERT_EQ(v[i], from[i % from.size()]) << spec.name;
      } else {
        EXPECT_EQ(v, a.values.at({spec.name, role}));
      }
    }
  EXPECT_EQ(got.size(), count);
  EXPECT_THAT(got.at({"layers.1.router.bias", "bias"}), ElementsAre(0, 0, 0, 0, 0));
}

TEST_F(ReshardContentTest, DtypesKeepMastersAndRoundWeights) {
  SmallRun a({}, 1);
  nlohmann::json state;
  const State half = reshard({.input = a.save(dir_ + "/a"), .shard = 3, .dtype = "bf16"}, &state);
  EXPECT_EQ(state["options"]["dtype"], "bf16");
  for (const auto& [key, v] : a.values) {
    if (key.second != "weight") {
      EXPECT_EQ(half.at(key), v);
      continue;
    }
    EXPECT_EQ(half.at({key.first, "master"}), v);
    for (std::size_t i = 0; i < v.size(); ++i) ASSERT_EQ(half.at(key)[i], to_float(to_bf16(v[i])));
  }
  EXPECT_EQ(reshard({.input = dir_ + "/out1", .dtype = "fp32"}, &state), a.values);
  EXPECT_EQ(state["options"]["dtype"], "fp32");
  // Weights alone: rounded ones become wide again, nothing is invented.
  const State wide = reshard({.input = dir_ + "/out1", .weights_only = true, .dtype = "fp32"});
  for (const auto& [key, v] : wide) EXPECT_EQ(v, a.values.at(key));
}

TEST_F(ReshardContentTest, ModulesOfMultiTokenPredictionAreDropped) {
  std::vector<std::pair<std::string, std::string>> set = kBias;
  set.emplace_back("mtp-depth", "1");
  SmallRun a(set, 1);
  const Key bias{"layers.2.router.bias", "bias"};  // the module is behind the two blocks of the model
  a.values[bias] = {1, 2, 3, 4, 5}, a.shapes[bias] = {5};
  State want = a.values;
  EXPECT_GT(std::erase_if(want, [](const auto& t) { return t.first.first.starts_with("layers.2."); }), 30u);
  nlohmann::json state;
  EXPECT_EQ(reshard({.input = a.save(dir_ + "/a"), .drop_mtp = true}, &state), want);
  EXPECT_EQ(state["options"]["mtp-depth"], "0");
}

TEST_F(ReshardContentTest, ListsOfExperts) {
  EXPECT_THAT(parse_expert_list("0-2,7", 8), ElementsAre(0, 1, 2, 7));
  EXPECT_THAT(parse_expert_list("3", 4), ElementsAre(3));
  std::string m;
  for (const char* bad : {"", "4", "0,", "1-0", "0,0", "x", "-1", "0-1-2"})
    EXPECT_EQ(code_of([&] { parse_expert_list(bad, 4); }, m), Exit::kUsage) << bad;
}

// Every layout of a mesh is found again, and a run of a mesh finds its slices in its own file.
TEST_F(ReshardContentTest, MeshesAreRecognised) {
  SmallRun a(kBias, 1);
  const std::string path = a.save(dir_ + "/a");
  for (const MeshShape mesh : {MeshShape{1, 1, 1}, MeshShape{1, 2, 2}, MeshShape{1, 1, 4}, MeshShape{1, 3, 2}}) {
    reshard({.input = path, .ep = mesh.ep, .shard = mesh.shard});
    const auto found = mesh_of(read_manifest(open_checkpoint(dir_ + "/out" + std::to_string(count_)).path));
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->size(), mesh.size());
  }
  reshard({.input = path, .files = 3});
  EXPECT_FALSE(mesh_of(read_manifest(open_checkpoint(dir_ + "/out" + std::to_string(count_)).path)).has_value());
}

}  // namespace
}  // namespace moe
