// Speculative decoding: modules over a cache against modules over whole texts, greedy texts with and without drafts, and the
// distribution of sampled ones. Vocabularies are so small that drafts of untrained modules stand now and then. Not here:
// rows bit for bit (few_rows_test.cpp), the tool (moe_eval_test.sh, mtp_test.sh).
#include <gtest/gtest.h>

#include <random>

#include "lib/io/tokenizer.h"
#include "lib/run/drafts.h"
#include "lib/run/eval_speculate.h"
#include "tests/compare.h"
#include "tests/eval_model_case.h"

namespace moe {
namespace {

using Tokens = std::vector<std::int32_t>;

struct Case {
  std::string name;
  ModelConfig config;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

constexpr int kVocab = 7;

std::vector<Case> cases() {
  ModelConfig one = eval_case_config();
  one.vocab_size = kVocab, one.num_mtp_layers = 1;
  std::vector<Case> list = {{"one", one}};
  const auto add = [&](const char* name, int depth, auto change) {
    ModelConfig c = one;
    c.num_mtp_layers = depth;
    change(c);
    list.push_back({name, c});
  };
  add("two", 2,
      [](ModelConfig& c) { c.qk_norm = QkNorm::kHead, c.num_shared_experts = 1, c.num_dense_layers = 1, c.dense_ffn = 17; });
  add("three_sliding", 3, [](ModelConfig& c) {
    c.sliding_window = 5, c.layer_types = "sliding,full", c.attention_sinks = c.attention_bias = c.expert_bias = true;
  });
  add("latent", 2, [](ModelConfig& c) {
    c.attention = AttentionKind::kMla, c.kv_lora_rank = 9, c.qk_nope_head_dim = 5, c.qk_rope_head_dim = 4, c.v_head_dim = 7;
  });
  return list;
}

Tokens random_tokens(std::size_t n, std::uint64_t seed) {
  Tokens t;
  std::mt19937_64 bits(seed);
  for (std::size_t i = 0; i < n; ++i) t.push_back(static_cast<std::int32_t>(bits() % kVocab));
  return t;
}

std::vector<Prompt> prompts_of(const std::vector<std::size_t>& lengths) {
  std::vector<Prompt> prompts;
  for (const std::size_t n : lengths) {
    const Tokens t = random_tokens(n, n);
    prompts.push_back({nullptr, std::string(t.begin(), t.end()), t});
  }
  return prompts;
}

// Rows of the device on the host, one after the other.
std::vector<float> pulled(Stream& stream, CMat m) {
  std::vector<float> rows(static_cast<std::size_t>(m.rows * m.cols));
  for (std::int64_t i = 0; i < m.rows; ++i)
    stream.copy(rows.data() + i * m.cols, m.row(i), static_cast<std::size_t>(m.cols) * sizeof(float));
  stream.synchronize();
  return rows;
}

class Speculating : public ::testing::TestWithParam<Case> {};

// Pieces of 9, 1 and 3 positions.
TEST_P(Speculating, AModuleOverACacheIsTheModule) {
  const ModelConfig& c = GetParam().config;
  Model model(c, DType::kF32, false, device_kernels(), kernel_device());
  model.initialize(3);
  Stream stream(kernel_device(), 1);
  const Env env{stream, device_kernels()};
  const Tokens text = random_tokens(13 + 3, 2);
  const int T = static_cast<int>(text.size());
  Pass whole(model, {.shape = {1, T}, .training = false, .num_modules = c.num_mtp_layers}, env);
  whole.forward({.shape = whole.shape(), .id_T = text, .target_T = text, .with_gradient = false, .tally = false});
  KvCache cache(c, DType::kF32, 2, T, kernel_device());
  Pass pass(model, {.shape = {T, 1}, .training = false, .num_modules = c.num_mtp_layers, .cache = &cache, .max_logits = T},
            env);
  for (int k = 0; k < c.num_mtp_layers; ++k) {
    const std::int64_t D = c.d_model;
    const std::vector<float> before = pulled(stream, k == 0 ? whole.hidden() : whole.module_hidden(k - 1)),
                             want = pulled(stream, whole.module_hidden(k));
    int at = 0;
    for (const int n : {9, 1, 3}) {
      const CacheRun run{.seq = 1, .count = n};
      pass.extend_module(k, {&run, 1},
                         std::span(text).subspan(static_cast<std::size_t>(at + k + 1), static_cast<std::size_t>(n)),
                         {before.data() + at * D, DType::kF32, n, D, D});
      const std::vector<float> got = pulled(stream, pass.module_hidden(k));
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_NEAR(got[i], want[static_cast<std::size_t>(at * D) + i], 2e-4)
            << "module " << k << ", element " << i << " behind position " << at;
      EXPECT_EQ(pass.logits().rows, 1);
      at += n;
    }
    EXPECT_EQ(cache.length(1, k + 1), 13);
    EXPECT_EQ(cache.length(1, 0), 0);
  }
  EXPECT_THROW(pass.extend_module(c.num_mtp_layers, {}, {}, {}), std::invalid_argument);
}

// Rows that are missing, too narrow, of another dtype or apart from each other; the cache is as it was.
TEST_P(Speculating, HiddenStatesOfAnotherShapeAreRefused) {
  const ModelConfig& c = GetParam().config;
  Model model(c, DType::kF32, false, device_kernels(), kernel_device());
  model.initialize(3);
  Stream stream(kernel_device(), 1);
  KvCache cache(c, DType::kF32, 1, 8, kernel_device());
  Pass pass(model, {.shape = {8, 1}, .training = false, .num_modules = c.num_mtp_layers, .cache = &cache, .max_logits = 8},
            {stream, device_kernels()});
  const Tokens text = random_tokens(3, 2);
  const CacheRun run{.seq = 0, .count = 3};
  const std::int64_t D = c.d_model;
  const std::vector<float> rows(static_cast<std::size_t>(4 * D), 0.5f);
  const auto refused = [&](CMat hidden_TD, const std::string& expected, const std::string& found) {
    try {
      pass.extend_module(0, {&run, 1}, text, hidden_TD);
      ADD_FAILURE() << "taken: " << found;
    } catch (const std::invalid_argument& e) {
      EXPECT_NE(std::string(e.what()).find("expected hidden states " + expected), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("found " + found), std::string::npos) << e.what();
    }
    EXPECT_EQ(cache.length(0, 1), 0);
  };
  const std::string width = std::to_string(D), narrow = std::to_string(D - 1), wide = std::to_string(D + 1);
  refused({rows.data(), DType::kF32, 2, D, D}, "of 3 x " + width, "2 x " + width);
  refused({rows.data(), DType::kF32, 4, D, D}, "of 3 x " + width, "4 x " + width);
  refused({rows.data(), DType::kF32, 3, D - 1, D - 1}, "of 3 x " + width, "3 x " + narrow);
  refused({rows.data(), DType::kBF16, 3, D, D}, "of 3 x " + width + " in fp32", "3 x " + width + " in bf16");
  refused({rows.data(), DType::kF32, 3, D, D + 1}, "with a row stride of " + width, wide);
  pass.extend_module(0, {&run, 1}, text, {rows.data(), DType::kF32, 3, D, D});
  EXPECT_EQ(cache.length(0, 1), 3);

  HiddenRows kept;
  EXPECT_THROW(kept.append(stream, {rows.data(), DType::kF32, 3, D - 1, D}, 0, 3), std::invalid_argument);
}

// Texts that grow by a few tokens at a time, whatever the drafts said, so that most of them are taken back: the logits of
// each draft are those of its module over the whole text with the drafts before it.
TEST_P(Speculating, DraftsAreThoseOfWholeTexts) {
  const ModelConfig& c = GetParam().config;
  Model model(c, DType::kF32, false, device_kernels(), kernel_device());
  model.initialize(3);
  Stream stream(kernel_device(), 1);
  const Env env{stream, device_kernels()};
  KvCache cache(c, DType::kF32, 2, 40, kernel_device());
  Pass pass(model, {.shape = {80, 1}, .training = false, .num_modules = c.num_mtp_layers, .cache = &cache, .max_logits = 2},
            env);
  Drafts drafts(pass, cache, model, stream);
  const std::vector<Tokens> texts = {random_tokens(30, 1), random_tokens(30, 2)};
  std::vector<std::size_t> length = {2, 13};
  for (int round = 0; round < 9; ++round) {
    std::vector<CacheRun> runs;
    Tokens id;
    std::vector<Drafts::Wanted> wanted;
    for (std::size_t i = 0; i < 2; ++i) {
      const int seq = static_cast<int>(i), begin = cache.length(seq);
      runs.push_back({.seq = seq, .count = static_cast<int>(length[i]) - 1 - begin});
      id.insert(id.end(), texts[i].begin() + begin, texts[i].begin() + static_cast<std::ptrdiff_t>(length[i]) - 1);
      wanted.push_back({seq, std::span(texts[i]).first(length[i]), (round + seq) % 3 == 2 ? 1 : c.num_mtp_layers});
    }
    pass.extend(runs, id);
    std::int64_t row = 0;
    for (const CacheRun& run : runs) {
      drafts.add_hidden(run.seq, pass.hidden().slice_rows(row, run.count));
      row += run.count;
    }
    std::vector<Tokens> longer = {{texts[0].begin(), texts[0].begin() + static_cast<std::ptrdiff_t>(length[0])},
                                  {texts[1].begin(), texts[1].begin() + static_cast<std::ptrdiff_t>(length[1])}};
    drafts.make(wanted, c.num_mtp_layers, [&](std::size_t which, int place, std::span<const float> logits_V) {
      Tokens& text = longer[which];
      Pass whole(model, {.shape = {1, static_cast<int>(text.size())}, .training = false, .num_modules = c.num_mtp_layers},
                 env);
      whole.forward({.shape = whole.shape(), .id_T = text, .target_T = text, .with_gradient = false, .tally = false});
      const auto last = static_cast<std::int64_t>(length[which]) - 2;
      const Mat logits = whole.logits().slice_rows(0, 1);
      env.kernels.gemm.forward(stream, CMat(whole.module_hidden(place)).slice_rows(last, 1), model.head().weight, logits,
                               Store::kAssign);
      const std::vector<float> want = pulled(stream, logits);
      for (std::size_t v = 0; v < kVocab; ++v) EXPECT_NEAR(logits_V[v], want[v], 1e-3) << round << ", draft " << place;
      text.push_back(choose_token(want, {}, 0));
      return text.back();
    });
    for (std::size_t i = 0; i < 2; ++i) length[i] += 1 + (static_cast<std::size_t>(round) * 5 + i) % 3;
    length[1] = std::min<std::size_t>(length[1], 30);
    if (cache.length(1) + 1 >= static_cast<int>(length[1])) break;
  }
  EXPECT_GT(cache.length(0), 10);
}

// Windows of 16 tokens that fill and move on, prompts longer than one, several texts at a time, more drafts than modules.
TEST_P(Speculating, GreedyTextsAreThoseWithoutDrafts) {
  const auto tokenizer = make_tokenizer("bytes");
  const std::vector<Prompt> prompts = prompts_of({1, 2, 5, 11, 16, 20});
  std::vector<TextWanted> wanted;
  for (std::size_t i = 0; i < 2 * prompts.size(); ++i)
    wanted.push_back({&prompts[i / 2], static_cast<std::int64_t>(i) / 2, static_cast<std::int64_t>(i) % 2});
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::string path =
        save_eval_case("speculate_" + GetParam().name + name_of(dtype), GetParam().config, dtype, 5, 16);
    for (const int batch : {1, 40}) {
      EvalModelOptions options;
      options.batch = batch;
      const auto compare = [&](EvalModel& model) {
        GenerateOptions o;
        o.tokens = 33;
        const std::vector<TextMade> plain = make_texts(model.for_texts(), wanted, o, 1, *tokenizer);
        o.speculate = true;
        std::int64_t accepted = 0;
        for (o.drafts = 0; o.drafts <= 4; o.drafts += 2) {
          const std::vector<TextMade> drafted = make_texts(model.for_texts(), wanted, o, 1, *tokenizer);
          for (std::size_t i = 0; i < drafted.size(); ++i) {
            EXPECT_EQ(drafted[i].tokens, plain[i].tokens)
                << name_of(dtype) << " " << batch << " " << o.drafts << " text " << i;
            EXPECT_LE(drafted[i].drafts.num_passes, plain[i].drafts.num_passes);
            for (const std::int64_t n : drafted[i].drafts.accepted_N) accepted += n;
          }
        }
        EXPECT_GT(accepted, 10) << "drafts that stand were tried";
      };
      on_eval_ranks(1, path, options, compare, 3);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(All, Speculating, ::testing::ValuesIn(cases()), [](const auto& i) { return i.param.name; });

// Each rank has texts of its own, one has none; experts are elsewhere.
TEST(SpeculationOnRanks, GreedyTextsAreThoseOfOneRank) {
  if (tests_cuda()) GTEST_SKIP() << "ranks on GPUs: cuda_train_test.sh";
  const auto tokenizer = make_tokenizer("bytes");
  const std::string path = save_eval_case("speculate_ranks", cases()[1].config, DType::kF32, 5, 64);
  const std::vector<Prompt> prompts = prompts_of({1, 9, 5});
  std::vector<TextWanted> wanted;
  for (std::size_t i = 0; i < prompts.size(); ++i) wanted.push_back({&prompts[i], static_cast<std::int64_t>(i), 0});
  std::vector<TextMade> first;
  for (const int ranks : {1, 2, 4})
    on_eval_ranks(
        ranks, path, {},
        [&](EvalModel& model) {
          GenerateOptions o;
          o.tokens = 20, o.speculate = ranks > 1;
          const SpeculatedTexts got = o.speculate
                                          ? make_texts_with_drafts(model, wanted, o, 1, *tokenizer)
                                          : SpeculatedTexts{make_texts(model.for_texts(), wanted, o, 1, *tokenizer), {}};
          if (model.world().rank() != 0) return;
          if (first.empty()) first = got.made;
          for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_EQ(got.made[i].tokens, first[i].tokens) << ranks;
          EXPECT_EQ(got.speculation.num_differing, 0);
          EXPECT_EQ(got.speculation.num_compared, o.speculate ? 3 : 0);
        },
        2);
}

// Sum of (found - expected)^2 / expected; cells with few expected go together.
struct ChiSquare {
  double sum = 0, rest_found = 0, rest_expected = 0;
  int cells = 0;
  void add(double found, double expected) {
    if (expected < 8) return void((rest_found += found, rest_expected += expected));
    sum += (found - expected) * (found - expected) / expected;
    ++cells;
  }
  // Of one in a hundred thousand, by the approximation of Wilson and Hilferty.
  bool passes() {
    if (rest_expected >= 1) add(rest_found, std::max(8.0, rest_expected));
    const double f = std::max(1, cells - 1), a = 2.0 / (9 * f);
    return sum <= f * std::pow(1 - a + 4.27 * std::sqrt(a), 3);
  }
};

TEST(SpeculationSampling, TheDistributionIsTheModels) {
  std::mt19937_64 random(4);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<double> uniform;
  const Sampling settings[] = {{.temperature = 1}, {.temperature = 0.6f, .top_k = 4}, {.temperature = 1.4f, .top_p = 0.8f}};
  for (const Sampling& sampling : settings) {
    std::vector<float> p(kVocab), q(kVocab);
    for (float& x : p) x = normal(random);
    for (std::size_t i = 0; i < q.size(); ++i) q[i] = p[i] + normal(random);
    constexpr int kDraws = 40000;
    std::vector<int> found(kVocab);
    int accepted = 0;
    for (int i = 0; i < kDraws; ++i) {
      const DraftedToken draft = draft_token(q, sampling, uniform(random));
      const std::int32_t token = choose_beside_draft(p, sampling, draft, uniform(random), uniform(random));
      ++found[static_cast<std::size_t>(token)];
      accepted += token == draft.token;
    }
    const std::vector<double> want = probabilities(p, sampling), of_draft = probabilities(q, sampling);
    ChiSquare chi;
    double overlap = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      if (want[i] == 0) {
        EXPECT_EQ(found[i], 0);
      }
      chi.add(found[i], kDraws * want[i]);
      overlap += std::min(want[i], of_draft[i]);
    }
    EXPECT_TRUE(chi.passes()) << chi.sum << " of " << chi.cells;
    EXPECT_NEAR(accepted, kDraws * overlap, 5 * std::sqrt(kDraws)) << "as many as can be";
  }
}

// Whole texts: pairs of neighbouring tokens of many samples, with and without drafts.
TEST(SpeculationSampling, TextsHaveTheSameDistribution) {
  const auto tokenizer = make_tokenizer("bytes");
  ModelConfig config = cases()[1].config;
  config.init_std = 0.15f;
  const std::string path = save_eval_case("speculate_samples", config, DType::kF32, 6, 12);
  const std::vector<Prompt> prompts = prompts_of({4});
  std::vector<TextWanted> wanted;
  for (int s = 0; s < 1500; ++s) wanted.push_back({prompts.data(), 0, s});
  on_eval_ranks(
      1, path, {},
      [&](EvalModel& model) {
        GenerateOptions o;
        o.tokens = 5, o.sampling = {.temperature = 0.8f, .top_k = 6, .top_p = 0.97f};
        const std::vector<TextMade> plain = make_texts(model.for_texts(), wanted, o, 1, *tokenizer);
        o.speculate = true, o.drafts = 2;
        const std::vector<TextMade> drafted = make_texts(model.for_texts(), wanted, o, 2, *tokenizer);
        for (std::size_t at = 0; at + 1 < 5; ++at) {
          std::vector<double> a(kVocab * kVocab), b(kVocab * kVocab);
          const auto cell = [&](const TextMade& t) {
            return static_cast<std::size_t>(t.tokens[at] * kVocab + t.tokens[at + 1]);
          };
          for (const TextMade& t : plain) ++a[cell(t)];
          for (const TextMade& t : drafted) ++b[cell(t)];
          ChiSquare chi;  // of two samples of one size: the pooled half is expected in each
          for (std::size_t i = 0; i < a.size(); ++i) {
            chi.add(a[i], (a[i] + b[i]) / 2);
            chi.sum +=
                (a[i] + b[i]) / 2 < 8 ? 0 : (b[i] - (a[i] + b[i]) / 2) * (b[i] - (a[i] + b[i]) / 2) / ((a[i] + b[i]) / 2);
          }
          EXPECT_TRUE(chi.passes()) << "token " << at << ": " << chi.sum << " of " << chi.cells;
        }
        std::int64_t made = 0, accepted = 0;
        for (const TextMade& t : drafted)
          for (std::size_t i = 0; i < t.drafts.made_N.size(); ++i)
            made += t.drafts.made_N[i], accepted += t.drafts.accepted_N[i];
        EXPECT_GT(accepted, made / 10);
        EXPECT_LT(accepted, made);
        for (const int batch : {1, 16}) {  // texts are a function of the seed alone
          EvalModelOptions options;
          options.batch = batch;
          on_eval_ranks(
              1, path, options,
              [&](EvalModel& other) {
                const std::vector<TextWanted> few(wanted.begin(), wanted.begin() + 40);
                const std::vector<TextMade> again = make_texts(other.for_texts(), few, o, 2, *tokenizer);
                for (std::size_t i = 0; i < few.size(); ++i) EXPECT_EQ(again[i].tokens, drafted[i].tokens) << batch;
              },
              2);
        }
      },
      2);
}

TEST(SpeculationStop, TextsEndInsideADraft) {
  const auto tokenizer = make_tokenizer("bytes");
  const std::string path = save_eval_case("speculate_stop", cases()[0].config, DType::kF32, 5, 16);
  const std::vector<Prompt> prompts = prompts_of({3, 8});
  on_eval_ranks(
      1, path, {},
      [&](EvalModel& model) {
        const std::vector<TextWanted> wanted = {{prompts.data(), 0, 0}, {&prompts[1], 1, 0}};
        GenerateOptions o;
        o.tokens = 30;
        const std::string whole = make_texts(model.for_texts(), wanted, o, 1, *tokenizer)[0].text;
        for (std::size_t at = 1; at < 28; ++at)
          for (const bool speculate : {false, true}) {
            o.stop = {whole.substr(at, 2)}, o.speculate = speculate, o.drafts = speculate ? 3 : 0;
            const TextMade cut = make_texts(model.for_texts(), wanted, o, 1, *tokenizer)[0];
            EXPECT_TRUE(cut.stopped);
            EXPECT_EQ(cut.text, whole.substr(0, whole.find(o.stop[0])));
            EXPECT_EQ(cut.tokens.size(), whole.find(o.stop[0]) + 2);
          }
      },
      1);
}

}  // namespace
}  // namespace moe
