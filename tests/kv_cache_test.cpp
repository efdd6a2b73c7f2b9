// Generation over a cache against whole windows computed anew: logits and greedy tokens of random models of every kind of
// attention, ragged prompts, several tokens at a time, shortened sequences, meshes. Not here: the kernel itself
// (cache_attention_test.cpp), texts (eval_test.cpp, moe_eval_test.sh).
#include <gtest/gtest.h>

#include <mutex>

#include "lib/comm/thread_comm.h"
#include "lib/model/host_model.h"
#include "lib/run/sampling.h"
#include "tests/compare.h"
#include "tests/kernel_device.h"
#include "tests/model_cases.h"

namespace moe {
namespace {

using Tokens = std::vector<std::int32_t>;

struct Case {
  std::string name;
  ModelConfig config;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::vector<Case> cases() {
  ModelConfig gqa = small_model();
  gqa.vocab_size = 61, gqa.d_model = 24, gqa.init_std = 0.2f;
  std::vector<Case> list = {{"gqa", gqa}};
  const auto add = [&](const char* name, auto change) {
    ModelConfig c = gqa;
    change(c);
    list.push_back({name, c});
  };
  const auto mla = [](ModelConfig& c) {
    c.attention = AttentionKind::kMla, c.kv_lora_rank = 9, c.qk_nope_head_dim = 5, c.qk_rope_head_dim = 4, c.v_head_dim = 7;
  };
  add("head norm, dense first", [](auto& c) { c.qk_norm = QkNorm::kHead, c.num_dense_layers = 1, c.dense_ffn = 17; });
  add("full norm, shared", [](auto& c) { c.qk_norm = QkNorm::kFull, c.num_shared_experts = 1, c.tied_embeddings = true; });
  add("sliding, sinks, biases", [](auto& c) {
    c.sliding_window = 5, c.layer_types = "sliding,full", c.attention_sinks = c.attention_bias = c.expert_bias = true;
  });
  add("mla", mla);
  add("mla, compressed queries, pairs", [&](auto& c) {
    mla(c), c.q_lora_rank = 6, c.rope_interleaved = true, c.num_shared_experts = 2, c.router_score = Score::kSigmoid;
    c.yarn = {.factor = 4, .original_length = 8, .mscale = 0.7f, .mscale_all_dim = 0.7f};
  });
  return list;
}

Tokens random_tokens(std::size_t n, int vocab, std::uint64_t seed) {
  Tokens t;
  std::mt19937_64 bits(seed);
  for (std::size_t i = 0; i < n; ++i) t.push_back(static_cast<std::int32_t>(bits() % static_cast<std::uint64_t>(vocab)));
  return t;
}

std::vector<float> row_of(const CMat& logits, std::int64_t row) {
  const auto* from = static_cast<const float*>(logits.row(row));
  return {from, from + logits.cols};
}

constexpr int kRoom = 48;

// The logits behind each token, from the whole text.
std::vector<std::vector<float>> anew(Model& model, const Env& env, const Tokens& text) {
  Pass pass(model, {.shape = {1, static_cast<int>(text.size())}, .training = false}, env);
  pass.forward({.shape = pass.shape(), .id_T = text, .target_T = text, .with_gradient = false, .tally = false});
  const CMat logits = pass.logits_on_host();
  std::vector<std::vector<float>> rows;
  for (std::int64_t t = 0; t < logits.rows; ++t) rows.push_back(row_of(logits, t));
  return rows;
}

// Of fp32 the order of sums differs; bf16 rounds activations at other places when latent attention is absorbed.
double tolerance(DType dtype) { return dtype == DType::kF32 ? 2e-4 : 0.15; }

void expect_near(const std::vector<float>& got, const std::vector<float>& want, DType dtype, const std::string& what) {
  double worst = 0, scale = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - want[i]);
    worst = error <= worst ? worst : error;  // not a number stays
    scale = std::max(scale, std::abs(static_cast<double>(want[i])));
  }
  EXPECT_LE(worst, tolerance(dtype) * std::max(1.0, scale)) << what;
}

struct Running {
  Stream stream{kernel_device(), 1};
  Env env{stream, device_kernels()};
  Model model;
  KvCache cache;
  Pass pass;

  Running(const ModelConfig& config, DType dtype, int num_seqs)
      : model(config, dtype, false, device_kernels(), kernel_device()),
        cache(config, dtype, num_seqs, kRoom, kernel_device()),
        pass(model, {.shape = {num_seqs * kRoom, 1}, .training = false, .cache = &cache, .max_logits = num_seqs * kRoom},
             env) {
    model.initialize(7);
    set_biases(dtype);
  }
  // Biases and sinks that matter.
  void set_biases(DType dtype) {
    HostModel host(model);
    host.pull();
    for (Param& p : host.model().params().all())
      if (p.spec.is_bias)
        for (std::int64_t i = 0; i < p.num_local(); ++i) {
          const float x = 0.3f * static_cast<float>(i % 5) - 0.5f;
          dtype == DType::kF32 ? p.weight.f32()[i] = x : (p.weight.bf16()[i] = to_bf16(x), x);
        }
    host.push();
  }
};

class GreedyTextsOf : public ::testing::TestWithParam<Case> {};  // fp32: of bf16 near ties may fall the other way
class KvCacheOf : public ::testing::TestWithParam<std::tuple<Case, DType>> {};

// Pieces of 20 (prefill), 1, 3, 9 (behind a prefix) and 1 tokens; every token's logits.
TEST_P(KvCacheOf, LogitsAreThoseOfTheWholeText) {
  const auto& [which, dtype] = GetParam();
  Running s(which.config, dtype, 1);
  const Tokens text = random_tokens(34, which.config.vocab_size, 3);
  const auto want = anew(s.model, s.env, text);
  std::size_t at = 0;
  for (const int n : {20, 1, 3, 9, 1}) {
    const CacheRun run{.seq = 0, .count = n, .num_logits = n};
    s.pass.extend({&run, 1}, std::span(text).subspan(at, static_cast<std::size_t>(n)));
    for (int i = 0; i < n; ++i)
      expect_near(row_of(s.pass.logits_on_host(), i), want[at + static_cast<std::size_t>(i)], dtype,
                  std::to_string(at) + "+" + std::to_string(i));
    at += static_cast<std::size_t>(n);
  }
  EXPECT_EQ(s.cache.length(0), 34);
}

// Drafts that are taken back leave no trace.
TEST_P(KvCacheOf, ShortenedSequencesForget) {
  const auto& [which, dtype] = GetParam();
  Running s(which.config, dtype, 1);
  const Tokens text = random_tokens(20, which.config.vocab_size, 4), drafts = random_tokens(5, which.config.vocab_size, 5);
  const auto extend = [&](std::span<const std::int32_t> id) {
    const CacheRun run{.seq = 0, .count = static_cast<int>(id.size())};
    s.pass.extend({&run, 1}, id);
    return row_of(s.pass.logits_on_host(), 0);
  };
  extend(std::span(text).first(15));
  const std::vector<float> straight = extend(std::span(text).subspan(15, 5));
  s.cache.set_length(0, 15);
  extend(drafts);
  s.cache.set_length(0, 15);
  EXPECT_EQ(extend(std::span(text).subspan(15, 5)), straight);
}

// Ragged prompts, some longer than a few tokens and some not, together and alone: the same greedy texts as computing each
// window anew (fp32), and logits near it.
TEST_P(GreedyTextsOf, ABatchAreThoseOfWholeWindows) {
  const Case& which = GetParam();
  const DType dtype = DType::kF32;
  const std::vector<std::size_t> lengths = {1, 17, 5, 30};
  const auto run_batch = [&](std::size_t first, std::size_t count) {
    Running s(which.config, dtype, static_cast<int>(count));
    std::vector<Tokens> texts;
    for (std::size_t i = first; i < first + count; ++i)
      texts.push_back(random_tokens(lengths[i], which.config.vocab_size, i));
    for (int step = 0; step < 12; ++step) {
      std::vector<CacheRun> runs;
      Tokens id;
      for (std::size_t i = 0; i < count; ++i) {
        const int length = s.cache.length(static_cast<int>(i));
        runs.push_back({.seq = static_cast<int>(i), .count = static_cast<int>(texts[i].size()) - length});
        id.insert(id.end(), texts[i].begin() + length, texts[i].end());
      }
      s.pass.extend(runs, id);
      for (std::size_t i = 0; i < count; ++i)
        texts[i].push_back(choose_token(row_of(s.pass.logits_on_host(), static_cast<std::int64_t>(i)), {}, 0));
    }
    return texts;
  };
  const std::vector<Tokens> together = run_batch(0, 4);
  Running s(which.config, dtype, 1);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(run_batch(i, 1)[0], together[i]) << i;
    Tokens text = random_tokens(lengths[i], which.config.vocab_size, i);
    while (text.size() < together[i].size()) text.push_back(choose_token(anew(s.model, s.env, text).back(), {}, 0));
    EXPECT_EQ(text, together[i]) << i;
  }
}

std::string in_letters(std::string name) {
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, GreedyTextsOf, ::testing::ValuesIn(cases()),
                         [](const auto& i) { return in_letters(i.param.name); });
INSTANTIATE_TEST_SUITE_P(All, KvCacheOf,
                         ::testing::Combine(::testing::ValuesIn(cases()), ::testing::Values(DType::kF32, DType::kBF16)),
                         [](const auto& i) {
                           return in_letters(std::get<0>(i.param).name + "_" + name_of(std::get<1>(i.param)));
                         });

// Greedy continuations of texts [first, first + count) of a list, on the rank of a mesh; all ranks take as many steps.
std::vector<Tokens> on_rank(Model& model, const std::vector<Tokens>& all, std::size_t first, std::size_t count) {
  Stream stream(1);
  KvCache cache(model.config(), DType::kF32, static_cast<int>(count), kRoom);
  Pass pass(model, {.shape = {4 * kRoom, 1}, .training = false, .cache = &cache, .max_logits = 4}, {stream, cpu_kernels()});
  std::vector<Tokens> texts(all.begin() + static_cast<std::ptrdiff_t>(first),
                            all.begin() + static_cast<std::ptrdiff_t>(first + count));
  for (int step = 0; step < 6; ++step) {
    std::vector<CacheRun> runs;
    Tokens id;
    for (std::size_t i = 0; i < count; ++i) {
      const int length = cache.length(static_cast<int>(i));
      runs.push_back({.seq = static_cast<int>(i), .count = static_cast<int>(texts[i].size()) - length});
      id.insert(id.end(), texts[i].begin() + length, texts[i].end());
    }
    pass.extend(runs, id);
    for (std::size_t i = 0; i < count; ++i)
      texts[i].push_back(choose_token(row_of(pass.logits_on_host(), static_cast<std::int64_t>(i)), {}, 0));
  }
  return texts;
}

// Ranks with different numbers of texts, one without any.
TEST(KvCache, TextsDoNotDependOnTheMesh) {
  if (tests_cuda()) GTEST_SKIP() << "ranks on GPUs: cuda_train_test.sh";
  for (const Case& c : {cases()[1], cases()[5]}) {
    std::vector<Tokens> prompts;
    for (const std::size_t n : {3, 19, 1, 11}) prompts.push_back(random_tokens(n, c.config.vocab_size, n));
    Model whole(c.config, DType::kF32, false);
    whole.initialize(7);
    const std::vector<Tokens> want = on_rank(whole, prompts, 0, 4);
    for (const MeshShape shape : {MeshShape{.ep = 2}, MeshShape{.shard = 2, .ep = 2}}) {
      const std::vector<std::size_t> ends =
          shape.size() == 2 ? std::vector<std::size_t>{1, 4} : std::vector<std::size_t>{2, 2, 3, 4};
      std::vector<Tokens> got(4);
      std::mutex mutex;
      run_thread_ranks(shape.size(), [&](std::unique_ptr<Comm> comm) {
        World world(std::move(comm), std::vector<int>(static_cast<std::size_t>(shape.size())));
        MeshContext mesh(world, {.shape = shape}, c.config.num_experts, cpu_kernels());
        Model model(c.config, DType::kF32, false, mesh);
        model.initialize(7);
        const auto r = static_cast<std::size_t>(world.rank());
        const std::size_t first = r == 0 ? 0 : ends[r - 1];
        const std::vector<Tokens> mine = on_rank(model, prompts, first, ends[r] - first);
        const std::scoped_lock lock(mutex);
        std::ranges::copy(mine, got.begin() + static_cast<std::ptrdiff_t>(first));
      });
      EXPECT_EQ(got, want) << c.name << ", " << shape.size() << " ranks";
    }
  }
}

TEST(KvCache, CountsWhatItKeeps) {
  ModelConfig c;
  c.attention = AttentionKind::kMla, c.num_layers = 61, c.kv_lora_rank = 512, c.qk_rope_head_dim = 64;
  EXPECT_EQ(KvCache::elements_per_token(c), 61 * 576);
  EXPECT_EQ(KvCache::bytes_per_token(c, DType::kBF16), 70272);
  c = ModelConfig{};
  c.num_layers = 3, c.num_kv_heads = 2, c.head_dim = 10;
  EXPECT_EQ(KvCache::elements_per_token(c), 3 * 40);
}

TEST(KvCache, RefusesWhatDoesNotFit) {
  Running s(small_model(), DType::kF32, 2);
  s.cache.set_length(1, kRoom - 1);
  const CacheRun run{.seq = 1, .count = 2};
  EXPECT_THROW(s.pass.extend({&run, 1}, Tokens{1, 2}), std::invalid_argument);
  EXPECT_THROW(s.cache.set_length(0, kRoom + 1), std::invalid_argument);
  EXPECT_THROW(s.cache.set_length(2, 0), std::invalid_argument);
  const CacheRun one{.seq = 0};
  EXPECT_THROW(s.pass.extend({&one, 1}, Tokens{1, 2}), std::invalid_argument);
}

TEST(KvCache, HiddenStatesGiveTheLogits) {
  Running s(small_model(), DType::kF32, 1);
  const Tokens text = random_tokens(11, 29, 1);
  const CacheRun run{.seq = 0, .count = 11, .num_logits = 2};
  s.pass.extend({&run, 1}, text);
  const Mat hidden = s.pass.hidden(), logits = s.pass.logits();
  ASSERT_EQ(hidden.rows, 11);
  ASSERT_EQ(logits.rows, 2);
  const std::vector<float> want = s.pass.logits_of(1);
  s.env.kernels.gemm.forward(s.stream, hidden.slice_rows(10, 1), s.model.head().weight, logits.slice_rows(0, 1),
                             Store::kAssign);
  EXPECT_EQ(s.pass.logits_of(0), want);
}

}  // namespace
}  // namespace moe
