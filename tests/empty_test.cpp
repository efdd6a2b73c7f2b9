// Every kernel on empty operands: no tokens, no rows, no sequences, nothing to update. Such ranks and experts exist, and
// their memory may be nullptr. Nothing may be written, gradients of weights keep their bits, sums are 0. A guard of known
// values surrounds whatever is not empty. Not here: experts without rows beside others with some (gemm_test.cpp).
#include <array>
#include <limits>

#include "tests/kernel_test.h"

namespace moe {
namespace {

constexpr std::int64_t kN = 7, kK = 70, kE = 3;  // odd, and wide enough for whole vectors and a rest

// f(kernels, stream, type of the empty operands) for every instruction set, thread count and type.
template <class F>
void for_all(F f) {
  for (const Kernels* k : all_isas())
    for (const int threads : {1, 2})
      for (const DType type : kDTypes) {
        SCOPED_TRACE(std::string(k->isa) + " " + name_of(type) + " threads " + std::to_string(threads));
        Stream stream(kernel_device(), threads);
        f(*k, stream, type);
      }
}

Mat nothing(DType t, std::int64_t cols) { return {nullptr, t, 0, cols, cols}; }
TestMat weights(DType t, std::int64_t rows, std::int64_t cols) { return TestMat::random(t, rows, cols, 1); }
void expect_untouched(const TestMat& got, const TestMat& want) {
  const auto g = got.values(), w = want.values();
  EXPECT_TRUE(same_bits(std::span(g), std::span(w)));
}

TEST(Empty, Gemm) {
  for_all([](const Kernels& k, Stream& stream, DType t) {
    TestMat w = weights(t, kN, kK), dw = weights(DType::kF32, kN, kK);
    for (const Store store : {Store::kAssign, Store::kAdd}) {
      k.gemm.forward(stream, nothing(t, kK), w.view(), nothing(t, kN), store);
      k.gemm.backward_input(stream, nothing(t, kN), w.view(), nothing(t, kK), store);
    }
    k.gemm.backward_weight(stream, nothing(t, kN), nothing(t, kK), dw.view());
    expect_untouched(w, weights(t, kN, kK));
    expect_untouched(dw, weights(DType::kF32, kN, kK));
  });
}

// Weights of more than a task each way, so that the library and the threads would be called if there were rows.
TEST(Empty, LargeGemm) {
  for_all([](const Kernels& k, Stream& stream, DType t) {
    TestMat w = weights(t, 600, 530), dw = weights(DType::kF32, 600, 530);
    k.gemm.forward(stream, nothing(t, 530), w.view(), nothing(t, 600), Store::kAssign);
    k.gemm.backward_input(stream, nothing(t, 600), w.view(), nothing(t, 530), Store::kAssign);
    k.gemm.backward_weight(stream, nothing(t, 600), nothing(t, 530), dw.view());
    expect_untouched(dw, weights(DType::kF32, 600, 530));
  });
}

// A rank that holds experts of which none gets a row, and a rank that holds none at all.
TEST(Empty, GroupedGemm) {
  for_all([](const Kernels& k, Stream& stream, DType t) {
    for (const std::int64_t experts : {kE, std::int64_t{0}}) {
      const std::vector<std::int64_t> psum(static_cast<std::size_t>(experts + 1));
      TestMat w = weights(t, experts * kN, kK), dw = weights(DType::kF32, experts * kN, kK);
      const Mat w_view = experts > 0 ? w.view() : nothing(t, kK),
                dw_view = experts > 0 ? dw.view() : nothing(DType::kF32, kK);
      for (const Store store : {Store::kAssign, Store::kAdd}) {
        k.grouped_gemm.forward(stream, nothing(t, kK), w_view, psum, nothing(t, kN), store);
        k.grouped_gemm.backward_input(stream, nothing(t, kN), w_view, psum, nothing(t, kK), store);
      }
      k.grouped_gemm.backward_weight(stream, nothing(t, kN), nothing(t, kK), psum, dw_view);
      expect_untouched(dw, weights(DType::kF32, experts * kN, kK));
    }
  });
}

TEST(Empty, RmsNorm) {
  for_all([](const Kernels& k, Stream& stream, DType t) {
    for (const int groups : {1, 2}) {
      const std::int64_t G = kK / groups;
      TestMat w = weights(t, 1, G);
      std::vector<float> dw = random_floats(static_cast<std::size_t>(G), 3);
      k.rmsnorm.forward(stream, nothing(t, kK), w.view(), groups, 1e-5f, nothing(t, kK), nullptr);
      for (const Store store : {Store::kAssign, Store::kAdd})
        k.rmsnorm.backward_input(stream, nothing(t, kK), nothing(t, kK), w.view(), groups, nullptr, nothing(t, kK), store);
      k.rmsnorm.backward_weight(stream, nothing(t, kK), nothing(t, kK), groups, nullptr, dw.data());
      const auto want = random_floats(static_cast<std::size_t>(G), 3);
      EXPECT_TRUE(same_bits(std::span<const float>(dw), std::span<const float>(want)));
    }
  });
}

TEST(Empty, Rope) {
  for_all([](const Kernels& k, Stream& stream, DType t) {
    k.rope.forward(stream, nothing(t, kK), {14}, {}, nullptr, nullptr);
    k.rope.backward(stream, nothing(t, kK), {14}, {}, nullptr, nullptr);
  });
}

TEST(Empty, Attention) {
  for_all([](const Kernels& k, Stream& stream, DType t) {
    for (const auto& [seqs, length] : {std::pair{0, 33}, std::pair{5, 0}, std::pair{0, 0}}) {
      const AttentionShape s{
          .num_seqs = seqs, .seq_len = length, .num_heads = 4, .num_kv_heads = 2, .head_dim = 10, .value_dim = 6};
      const Mat q = nothing(t, 40), key = nothing(t, 20), v = nothing(t, 12), o = nothing(t, 24);
      k.attention.forward(stream, s, q, key, v, nullptr, o, nullptr);
      k.attention.backward(stream, s, q, key, v, o, nullptr, nullptr, o, q, key, v, nullptr);
    }
  });
}

TEST(Empty, Swiglu) {
  for_all([](const Kernels& k, Stream& stream, DType t) {
    k.swiglu.forward(stream, {}, nothing(t, 2 * kK), nullptr, nothing(t, kK));
    k.swiglu.backward_input(stream, {}, nothing(t, kK), nothing(t, 2 * kK), nullptr, nothing(t, 2 * kK), nullptr);
  });
}

RouterShape router_shape(Score score, const std::int32_t* expert2node) {
  return {.num_experts = 8,
          .top_k = 2,
          .score = score,
          .renormalize = true,
          .num_groups = 4,
          .num_groups_kept = 2,
          .expert2node = expert2node,
          .num_nodes = 3,
          .num_nodes_kept = 2};
}

TEST(Empty, Router) {
  const std::array<std::int32_t, 8> expert2node{0, 0, 1, 1, 1, 1, 2, 2};
  for (const Kernels* k : all_isas())
    for (const Score score : {Score::kSoftmax, Score::kSigmoid})
      for (const std::int32_t* nodes : {expert2node.data(), static_cast<const std::int32_t*>(nullptr)}) {
        Stream stream(kernel_device(), 2);
        const RouterShape s = router_shape(score, nodes);
        const std::vector<float> bias(8, 0.5f);
        k->router.forward(stream, s, nullptr, 0, bias.data(), nullptr, nullptr, nullptr);
        k->router.forward(stream, s, nullptr, 0, nullptr, nullptr, nullptr, nullptr);
        k->router.backward_gates(stream, s, nullptr, 0, nullptr, nullptr, nullptr);
        k->router.backward_scores(stream, s, nullptr, 0, nullptr, nullptr);
      }
}

// No segments, and segments of no tokens: counts are 0, not what lay there before; losses are 0 with and without gradient.
TEST(Empty, RouterLosses) {
  const std::vector<float> f(24, 1.0f);
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 2);
    const RouterShape s = router_shape(Score::kSoftmax, nullptr);
    std::vector<std::int64_t> counts(24, 77);
    k->router.count_top_k(stream, s, nullptr, 0, 5, nullptr);
    k->router.count_top_k(stream, s, nullptr, 3, 0, counts.data());
    EXPECT_EQ(counts, std::vector<std::int64_t>(24, 0));
    float guard = 77;
    for (float* gradient : {static_cast<float*>(nullptr), &guard}) {
      EXPECT_EQ(
          number_of(stream,
                    [&](double* sum) { k->router.balance_loss(stream, s, nullptr, 0, 5, nullptr, 0.5f, 2, gradient, sum); }),
          0.0);
      EXPECT_EQ(number_of(stream,
                          [&](double* sum) {
                            k->router.balance_loss(stream, s, nullptr, 3, 0, f.data(), 0.5f, 2, gradient, sum);
                          }),
                0.0);
      EXPECT_EQ(number_of(stream, [&](double* sum) { k->router.z_loss(stream, s, nullptr, 0, 0.5f, 2, gradient, sum); }),
                0.0);
    }
    EXPECT_EQ(guard, 77);
  }
}

TEST(Empty, Permute) {
  for_all([](const Kernels& k, Stream& stream, DType t) {
    TestMat x = TestMat::random(t, 2, kK, 1), y = TestMat::random(t, 3, kK, 2);
    for (const std::int64_t capacity : {-1, 0, 4}) {
      std::array<std::int64_t, kE + 1> psum{77, 77, 77, 77};
      EXPECT_EQ(k.permute.plan(stream, {}, kE, capacity, psum.data(), nullptr, nullptr), 0);
      EXPECT_EQ(psum, (std::array<std::int64_t, kE + 1>{}));
    }
    k.permute.gather(stream, nothing(t, kK), {}, 2, nothing(t, kK));
    k.permute.gather(stream, x.view(), {}, 2, nothing(t, kK));  // tokens, all of whose rows were dropped
    for (const Store store : {Store::kAssign, Store::kAdd}) {
      k.permute.combine(stream, nothing(t, kK), {}, 2, nothing(t, kK), store);
      k.permute.combine(stream, y.view(), {}, 2, nothing(t, kK), store);
    }
  });
}

// A token whose K rows are all -1: exactly 0 with `=`, whatever was there, and what was there with `+=`. Its neighbour has
// rows, or no row exists at all.
TEST(Empty, CombineOfATokenWithoutRows) {
  for_all([](const Kernels& k, Stream& stream, DType t) {
    for (const bool any : {false, true})
      for (const Store store : {Store::kAssign, Store::kAdd}) {
        TestMat y = TestMat::random(t, 1, kK, 2), x = TestMat::random(t, 2, kK, 1, 5), before = x;
        if (store == Store::kAssign)
          for (std::int64_t j = 0; j < kK; ++j) x.set(0, j, std::numeric_limits<float>::quiet_NaN());
        const std::vector<std::int32_t> slot2row{-1, -1, any ? 0 : -1, -1};
        k.permute.combine(stream, any ? y.view() : nothing(t, kK), slot2row, 2, x.view(), store);
        for (std::int64_t j = 0; j < kK; ++j) {
          EXPECT_EQ(x.at(0, j), store == Store::kAssign ? 0.0f : before.at(0, j));
          EXPECT_FALSE(std::signbit(x.at(0, j)) && store == Store::kAssign);
          const float old = store == Store::kAssign ? 0.0f : before.at(1, j), sum = old + (any ? y.at(0, j) : 0.0f);
          EXPECT_EQ(x.at(1, j), t == DType::kF32 ? sum : to_float(to_bf16(sum)));
        }
        EXPECT_TRUE(x.padding_is_intact());
      }
  });
}

TEST(Empty, Embedding) {
  for_all([](const Kernels& k, Stream& stream, DType t) {
    TestMat w = weights(t, kN, kK), dw = weights(DType::kF32, kN, kK);
    k.embedding.forward(stream, {}, w.view(), nothing(t, kK));
    k.embedding.backward_weight(stream, {}, nothing(t, kK), dw.view());
    expect_untouched(dw, weights(DType::kF32, kN, kK));
  });
}

TEST(Empty, CrossEntropy) {
  for (const Kernels* k : all_isas())
    for (const float grad_scale : {0.0f, 0.5f}) {
      Stream stream(kernel_device(), 2);
      EXPECT_EQ(number_of(stream,
                          [&](double* sum) {
                            k->cross_entropy.forward(stream, nothing(DType::kF32, 100), {}, grad_scale, nullptr, sum);
                          }),
                0.0);
    }
}

// No list, and a list of shards of which some or all are empty.
TEST(Empty, AdamW) {
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 2);
    const AdamWHyper hyper{.lr = 0.1f};
    k->adamw.step(stream, {}, hyper);
    k->adamw.step(stream, std::array<AdamWTensor, 2>{}, hyper);
    float w = 1, g = 1, m = 0, v = 0;
    const std::array<AdamWTensor, 3> list{AdamWTensor{}, {.w = &w, .g = &g, .m = &m, .v = &v, .n = 1}, AdamWTensor{}};
    k->adamw.step(stream, list, hyper);
    EXPECT_NEAR(w, 0.9f, 1e-6f);  // the first step moves by the learning rate
    EXPECT_EQ(g, 0.0f);
    EXPECT_EQ(number_of(stream, [&](double* sum) { k->adamw.sum_of_squares(stream, {}, sum); }), 0.0);
  }
}

}  // namespace
}  // namespace moe
