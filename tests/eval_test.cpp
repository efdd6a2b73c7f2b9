// moe-eval's losses and scores: windows by brute force, losses against evaluate() and sums in double over logits, requests
// against one window each, all of it on 1, 2, 4 and 7 ranks. Not here: the tool (moe_eval_test.sh), tasks (eval_tasks_test).
#include <numeric>
#include <set>

#include "lib/base/error.h"
#include "lib/run/data_order.h"
#include "lib/run/eval_generate.h"
#include "lib/run/eval_perplexity.h"
#include "lib/run/eval_routing.h"
#include "lib/run/eval_score.h"
#include "tests/eval_model_case.h"

namespace moe {
namespace {

using Tokens = std::vector<std::int32_t>;
constexpr int kSeq = 16;

std::string data_path() {
  static const std::string path = make_training_data("eval", 61, 307);
  return path;
}
std::string model_path() {
  static const std::string path = save_eval_case("eval_model", eval_case_config(), DType::kF32, 5, kSeq);
  return path;
}

TEST(RollingWindows, EveryTokenOnceWithEnoughBefore) {
  for (const int num_tokens : {2, 3, 15, 16, 17, 18, 31, 33, 100, 307}) {
    const std::string path = make_training_data("rolling" + std::to_string(num_tokens), 61, num_tokens);
    const TokenSource data = TokenSource::open(path);
    Tokens all(static_cast<std::size_t>(num_tokens));
    data.read(0, all);
    for (const int seq : {1, 7, 16})
      for (int stride = 1; stride <= seq; ++stride) {
        const RollingWindows windows(data, seq, stride, false, 0);
        const auto S = static_cast<std::size_t>(seq);
        Tokens id(S), target(S), doc(S);
        std::int64_t next = 1;  // the token to be scored next
        for (std::int64_t w = 0; w < windows.size(); ++w) {
          windows.fill(w, id, target, doc);
          for (std::size_t i = 0; i < S; ++i) {
            if (target[i] < 0) continue;
            const auto at = static_cast<std::size_t>(next);
            ASSERT_LT(next, num_tokens);
            ASSERT_EQ(target[i], all[at]) << num_tokens << " tokens, seq " << seq << ", stride " << stride;
            ASSERT_GE(static_cast<std::int64_t>(i) + 1, std::min<std::int64_t>(next, seq - stride + 1));
            for (std::size_t back = 0; back <= i; ++back) ASSERT_EQ(id[i - back], all[at - 1 - back]);
            ++next;
          }
        }
        ASSERT_EQ(next, num_tokens) << "seq " << seq << ", stride " << stride;
      }
    std::filesystem::remove(path);
  }
}

TEST(RollingWindows, SomeOfThem) {
  const TokenSource data = TokenSource::open(data_path());
  const RollingWindows windows(data, 16, 4, false, 40);
  EXPECT_EQ(windows.size(), 10);
  EXPECT_FALSE(windows.is_all());
  EXPECT_EQ(RollingWindows(data, 16, 4, false, 1).size(), 1);
}

// Each token's loss from its own window, in double.
double plain_loss(EvalModel& model, const TokenSource& data, int stride) {
  const RollingWindows windows(data, kSeq, stride, false, 0);
  Tokens id(kSeq), target(kSeq), doc(kSeq);
  double loss = 0;
  for (std::int64_t w = 0; w < windows.size(); ++w) {
    windows.fill(w, id, target, doc);
    const auto log_p = log_probabilities(model, id);
    for (std::size_t t = 0; t < id.size(); ++t)
      if (target[t] >= 0) loss -= log_p[t][static_cast<std::size_t>(target[t])];
  }
  return loss;
}

TEST(Perplexity, OfEvaluateAndOfPlainSums) {
  const TokenSource data = TokenSource::open(data_path());
  on_eval_ranks(1, model_path(), {}, [&](EvalModel& model) {
    ASSERT_EQ(model.seq(), kSeq) << "of the checkpoint";
    for (const int stride : {kSeq, 5, 1}) {
      const RollingWindows windows(data, kSeq, stride, false, 0);
      const WindowLosses losses = window_losses(model, data, windows);
      EXPECT_EQ(losses.tokens(), 306);
      EXPECT_NEAR(losses.loss(), plain_loss(model, data, stride), 2e-6 * losses.loss()) << stride;
    }
    Pass pass(model.model(), {.shape = {3, kSeq}, .training = false}, model.env());
    const Evaluation evaluation = evaluate(pass, model.world(), data, false, 0);
    EXPECT_NEAR(window_losses(model, data, {data, kSeq, kSeq, false, 0}).mean(), evaluation.loss, 1e-6);
    EXPECT_EQ(evaluation.num_tokens, 306);
  });
}

TEST(Perplexity, StandardError) {
  const WindowLosses even{{2, 4, 6}, {2, 2, 2}, 1};  // means 1, 2, 3: standard deviation 1
  EXPECT_DOUBLE_EQ(even.mean(), 2);
  EXPECT_NEAR(even.standard_error(), 1 / std::sqrt(3.0), 1e-12);
  EXPECT_TRUE(std::isnan(WindowLosses({{2}, {2}, 1}).standard_error()));
}

TEST(Perplexity, SizeOfText) {
  const std::string path = ::testing::TempDir() + "/size_" + std::to_string(getpid()) + ".txt";
  write_text_file(path, "one two\n\nthree ");
  const TextSize size = text_size(TokenSource::open(path));
  EXPECT_DOUBLE_EQ(size.bytes_per_token, 1);
  EXPECT_DOUBLE_EQ(size.words_per_token, 4.0 / 15) << "re.split(r'\\s+', text) has three words and an empty one";
  std::filesystem::remove(path);
}

std::vector<ScoreRequest> requests() {
  std::vector<ScoreRequest> list;
  std::uint64_t state = 9;
  const auto draw = [&](std::uint64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::int32_t>((state >> 33) % n);
  };
  for (int i = 0; i < 41; ++i) {
    ScoreRequest r;
    for (int n = draw(20); n > 0; --n) r.context.push_back(draw(61));
    for (int n = 1 + draw(7); n > 0; --n) r.continuation.push_back(draw(61));
    list.push_back(r);
  }
  list.push_back({{}, {7}});                   // nothing to score
  list.push_back({Tokens(5, 3), {}});          // likewise
  list.push_back({{1}, Tokens(kSeq, 2)});      // fills the window
  list.push_back({{}, Tokens(kSeq + 1, 2)});   // likewise
  list.push_back({Tokens(40, 4), {1, 2, 3}});  // cut
  return list;
}

// One window for one request, as lm-evaluation-harness makes it.
ScoreResult plain_score(EvalModel& model, const ScoreRequest& r) {
  Tokens all = r.context;
  all.insert(all.end(), r.continuation.begin(), r.continuation.end());
  ScoreResult result{0, true, 0, 0};
  const std::size_t scored = r.continuation.size() - (r.context.empty() && !r.continuation.empty() ? 1 : 0);
  if (scored == 0) return result;
  if (all.size() > kSeq + 1) {
    result.num_cut = static_cast<std::int64_t>(all.size()) - kSeq - 1;
    all.erase(all.begin(), all.begin() + result.num_cut);
  }
  const auto log_p = log_probabilities(model, {all.begin(), all.end() - 1});
  for (std::size_t t = all.size() - 1 - scored; t + 1 < all.size(); ++t) {
    const auto best = std::max_element(log_p[t].begin(), log_p[t].end()) - log_p[t].begin();
    result.log_likelihood += log_p[t][static_cast<std::size_t>(all[t + 1])];
    result.is_greedy = result.is_greedy && best == all[t + 1];
    ++result.num_scored;
  }
  return result;
}

// Continuations that the model itself thinks likeliest, so that some are greedy.
std::vector<ScoreRequest> requests_with_greedy(EvalModel& model) {
  std::vector<ScoreRequest> list = requests();
  for (std::size_t i = 0; i < 5; ++i) {
    ScoreRequest r{{static_cast<std::int32_t>(i), 3}, {}};
    for (int n = 0; n < 3; ++n) {
      Tokens all = r.context;
      all.insert(all.end(), r.continuation.begin(), r.continuation.end());
      const auto last = log_probabilities(model, all).back();
      r.continuation.push_back(static_cast<std::int32_t>(std::max_element(last.begin(), last.end()) - last.begin()));
    }
    list.push_back(r);
  }
  return list;
}

TEST(Score, OfOneWindowEachOnAnyMesh) {
  std::vector<ScoreRequest> list;
  std::vector<ScoreResult> expected;
  on_eval_ranks(1, model_path(), {}, [&](EvalModel& model) {
    list = requests_with_greedy(model);
    for (const ScoreRequest& r : list) expected.push_back(plain_score(model, r));
  });
  ASSERT_GE(std::count_if(expected.begin(), expected.end(), [](auto& r) { return r.is_greedy && r.num_scored > 0; }), 5);
  for (const int ranks : {1, 2, 4, 7})
    for (const int batch : {0, 1}) {
      EvalModelOptions options;
      options.batch = batch;
      if (ranks == 4) options.ranks.ep = 2, options.ranks.shard = 2;
      on_eval_ranks(ranks, model_path(), options, [&](EvalModel& model) {
        const ScoreFunction score = score_function(model);
        const std::vector<ScoreResult> found = score(list);
        ASSERT_EQ(found.size(), expected.size());
        for (std::size_t i = 0; i < list.size(); ++i) {
          EXPECT_NEAR(found[i].log_likelihood, expected[i].log_likelihood, 1e-4) << "request " << i << ", ranks " << ranks;
          EXPECT_EQ(found[i].is_greedy, expected[i].is_greedy) << i;
          EXPECT_EQ(found[i].num_scored, expected[i].num_scored) << i;
          EXPECT_EQ(found[i].num_cut, expected[i].num_cut) << i;
        }
        EXPECT_EQ(score(std::span(list).first(3)).size(), 3u) << "a second call";
        EXPECT_TRUE(score({}).empty());
      });
    }
}

TEST(Score, Refusals) {
  on_eval_ranks(1, model_path(), {}, [&](EvalModel& model) {
    const ScoreFunction score = score_function(model);
    const auto code_of = [&](const ScoreRequest& r) {
      try {
        score(std::span(&r, 1));
        return Exit::kOk;
      } catch (const Error& e) {
        return e.code();
      }
    };
    EXPECT_EQ(code_of({{1}, Tokens(kSeq + 1, 2)}), Exit::kBadInput) << "longer than the window";
    EXPECT_EQ(code_of({{}, Tokens(kSeq + 2, 2)}), Exit::kBadInput);
    EXPECT_EQ(code_of({{1}, {61}}), Exit::kBadInput) << "not in the vocabulary";
    EXPECT_EQ(code_of({{-1}, {6}}), Exit::kBadInput);
    EXPECT_EQ(code_of({{1}, {60}}), Exit::kOk);
  });
}

// bf16 weights of a checkpoint with masters, and fp32 ones rounded: the same model.
TEST(EvalModel, DTypes) {
  const std::string path = save_eval_case("eval_bf16", eval_case_config(), DType::kBF16, 5, kSeq);
  const TokenSource data = TokenSource::open(data_path());
  const auto loss = [&](const std::string& from, EvalDType dtype, int ranks) {
    EvalModelOptions options;
    options.dtype = dtype;
    double sum = 0;
    std::mutex mutex;
    on_eval_ranks(ranks, from, options, [&](EvalModel& model) {
      const double found = window_losses(model, data, {data, kSeq, kSeq, false, 0}).mean();
      const std::scoped_lock lock(mutex);
      sum = found;
    });
    return sum;
  };
  const double narrow = loss(path, EvalDType::kKeep, 1), wide = loss(path, EvalDType::kF32, 1);
  EXPECT_NE(narrow, wide);
  EXPECT_NEAR(narrow, wide, 0.05 * wide);
  EXPECT_DOUBLE_EQ(loss(model_path(), EvalDType::kBF16, 1), narrow);
  EXPECT_DOUBLE_EQ(loss(model_path(), EvalDType::kKeep, 1), wide) << "masters are what fp32 training would have";
  EXPECT_NEAR(loss(path, EvalDType::kF32, 3), wide, 1e-5);
  std::filesystem::remove_all(path);
}

TEST(Routing, CountsOfAnyMesh) {
  const TokenSource data = TokenSource::open(data_path());
  DataRouting one;
  for (const int ranks : {1, 2, 4, 7})
    on_eval_ranks(ranks, model_path(), {}, [&](EvalModel& model) {
      const DataRouting r = route_data(model, data, 0);
      if (ranks == 1) one = r;
      EXPECT_EQ(r.num_tokens, 306 / kSeq * kSeq);
      EXPECT_EQ(std::accumulate(r.counts_LE.begin(), r.counts_LE.end(), std::int64_t{0}), 2 * 2 * r.num_tokens);
      EXPECT_EQ(r.counts_LE, one.counts_LE) << ranks;
      EXPECT_EQ(r.coactivation_LEE, one.coactivation_LEE) << ranks;
      for (std::size_t e = 0; e < 6; ++e) EXPECT_EQ(r.coactivation_LEE[e * 7], r.counts_LE[e]) << "the diagonal";
    });
  EXPECT_DOUBLE_EQ(load_distance(one, one, 6), 0);
  DataRouting a = one, b = one;
  a.counts_LE = {4, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0}, b.counts_LE = {0, 4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0};
  EXPECT_DOUBLE_EQ(load_distance(a, b, 6), (1 + 0.5) / 2);
}

// Greedy texts are those of the likeliest tokens, one window after the other; texts do not know the mesh or the batch.
TEST(Generate, OfAnyMesh) {
  const auto tokenizer = make_tokenizer("bytes");
  std::vector<Prompt> prompts;
  for (const char* text : {"\x05\x06", "\x07", "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12"})
    prompts.push_back({nullptr, text, tokenizer->encode(text)});
  std::vector<TextWanted> wanted;
  for (std::size_t i = 0; i < prompts.size(); ++i)
    for (int s = 0; s < 2; ++s) wanted.push_back({&prompts[i], static_cast<std::int64_t>(i), s});
  GenerateOptions greedy, sampled;
  greedy.tokens = sampled.tokens = 20;
  sampled.sampling = {.temperature = 1, .top_k = 20, .top_p = 0.9f};
  std::vector<TextMade> first_greedy, first_sampled;
  const std::pair<int, int> kSettings[] = {{1, 0}, {1, 1}, {2, 1}, {4, 0}};
  for (const auto& [ranks, batch] : kSettings) {
    EvalModelOptions options;
    options.batch = batch;
    on_eval_ranks(ranks, model_path(), options, [&](EvalModel& model) {
      const auto a = make_texts(model.for_texts(), wanted, greedy, 1, *tokenizer);
      const auto b = make_texts(model.for_texts(), wanted, sampled, 1, *tokenizer);
      if (model.world().rank() != 0) return;
      if (first_greedy.empty()) {
        first_greedy = a, first_sampled = b;
        for (std::size_t i = 0; i < wanted.size(); ++i) {
          Tokens text = wanted[i].prompt->tokens;
          const std::size_t n = text.size();
          std::size_t begin = n > kSeq ? n - kSeq : 0;
          for (int t = 0; t < 20; ++t) {
            if (text.size() - begin > kSeq) begin = text.size() - kSeq / 2;
            const auto p = log_probabilities(model, {text.begin() + static_cast<std::ptrdiff_t>(begin), text.end()}).back();
            text.push_back(static_cast<std::int32_t>(std::max_element(p.begin(), p.end()) - p.begin()));
          }
          EXPECT_EQ(a[i].tokens, Tokens(text.begin() + static_cast<std::ptrdiff_t>(n), text.end())) << i;
        }
      }
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        EXPECT_EQ(a[i].tokens, first_greedy[i].tokens) << i;
        EXPECT_EQ(b[i].tokens, first_sampled[i].tokens) << i;
      }
    });
  }
  EXPECT_EQ(first_greedy[0].tokens, first_greedy[1].tokens);
  EXPECT_NE(first_sampled[0].tokens, first_sampled[1].tokens) << "samples of one prompt";
}

TEST(Generate, StopsAtText) {
  const auto tokenizer = make_tokenizer("bytes");
  const Prompt prompt{nullptr, "\x05", {5}};
  on_eval_ranks(1, model_path(), {}, [&](EvalModel& model) {
    GenerateOptions o;
    o.tokens = 12;
    const TextMade whole = make_texts(model.for_texts(), {{&prompt, 0, 0}}, o, 1, *tokenizer)[0];
    ASSERT_EQ(whole.text.size(), 12u);
    o.stop = {"no such text", whole.text.substr(4, 2)};
    const TextMade cut = make_texts(model.for_texts(), {{&prompt, 0, 0}}, o, 1, *tokenizer)[0];
    EXPECT_TRUE(cut.stopped);
    EXPECT_EQ(cut.text, whole.text.substr(0, whole.text.find(o.stop[1])));
    EXPECT_FALSE(whole.stopped);
  });
}

TEST(Prompts, Lines) {
  const auto tokenizer = make_tokenizer("bytes");
  GenerateOptions o;
  const auto error_of = [&](const std::string& text) -> std::string {
    try {
      parse_prompts(text, "p.jsonl", o, *tokenizer);
      return "";
    } catch (const Error& e) {
      return std::string(e.what()) + (e.code() == Exit::kBadInput ? "" : " WRONG CODE");
    }
  };
  EXPECT_EQ(parse_prompts("{\"prompt\":\"a\"}\n\n{\"prompt\":\"bc\",\"id\":2}", "p", o, *tokenizer).list.size(), 2u);
  EXPECT_TRUE(error_of("{\"prompt\":\"a\"}\n{\"prompt\":").starts_with("p.jsonl:2"));
  EXPECT_TRUE(error_of("\n{\"text\":\"a\"}").starts_with("p.jsonl:2: expected a JSON object with a text 'prompt'"));
  EXPECT_TRUE(error_of("{\"prompt\":\"\xff\"}").starts_with("p.jsonl:1"));
  EXPECT_TRUE(error_of("{\"prompt\":\"\"}").starts_with("p.jsonl:1"));
  EXPECT_EQ(error_of("\n"), "p.jsonl: expected prompts, found none");
  o.skip_bad = 1;
  EXPECT_EQ(parse_prompts("{\n{\"prompt\":\"a\"}", "p", o, *tokenizer).num_bad, 1);
  EXPECT_NE(error_of("{\n{\n{\"prompt\":\"a\"}"), "");
}

}  // namespace
}  // namespace moe
