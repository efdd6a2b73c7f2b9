// Muon's kernels against plain loops in double; Muon on the ranks of a mesh is Muon on whole matrices, bit for bit, whoever
// owns them. Not here: training with it (optimizer_test.cpp).
#include "lib/parallel/muon.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "lib/base/rng.h"
#include "lib/comm/thread_comm.h"
#include "lib/model/model.h"
#include "lib/model/params.h"
#include "tests/kernel_test.h"

namespace moe {
namespace {

using Doubles = std::vector<double>;

// C [m, n] = A [m, k] B [k, n]
Doubles product(const Doubles& a, const Doubles& b, std::size_t m, std::size_t k, std::size_t n) {
  Doubles c(m * n);
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t l = 0; l < k; ++l)
      for (std::size_t j = 0; j < n; ++j) c[i * n + j] += a[i * k + l] * b[l * n + j];
  return c;
}
Doubles transposed(const Doubles& a, std::size_t rows, std::size_t cols) {
  Doubles t(a.size());
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t j = 0; j < cols; ++j) t[j * rows + i] = a[i * cols + j];
  return t;
}

// As it is published: a tall matrix is transposed first.
Doubles newton_schulz(Doubles x, std::size_t rows, std::size_t cols) {
  if (rows > cols) return transposed(newton_schulz(transposed(x, rows, cols), cols, rows), cols, rows);
  double squares = 0;
  for (const double v : x) squares += v * v;
  for (double& v : x) v /= std::sqrt(squares) + 1e-7;
  for (int step = 0; step < 5; ++step) {
    const Doubles a = product(x, transposed(x, rows, cols), rows, cols, rows), aa = product(a, a, rows, rows, rows);
    Doubles b(a.size());
    for (std::size_t i = 0; i < b.size(); ++i) b[i] = -4.7750 * a[i] + 2.0315 * aa[i];
    const Doubles bx = product(b, x, rows, rows, cols);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = 3.4445 * x[i] + bx[i];
  }
  return x;
}

TEST(MuonKernels, OrthogonalizeAgreesWithDouble) {
  constexpr std::pair<std::size_t, std::size_t> kShapes[] = {{1, 1}, {1, 9},   {7, 1},    {5, 7},
                                                             {7, 5}, {16, 16}, {48, 131}, {97, 33}};
  for (const Kernels* k : all_isas())
    for (const auto& [rows, cols] : kShapes) {
      SCOPED_TRACE(std::string(k->isa) + " " + std::to_string(rows) + " x " + std::to_string(cols));
      const auto m = static_cast<std::int64_t>(rows), n = static_cast<std::int64_t>(cols);
      const std::vector<float> input = random_floats(rows * cols, 5, -3, 3);
      Doubles want = newton_schulz(doubles(input), rows, cols);
      for (double& v : want) v *= 0.3;
      expect_same_bits_with_any_threads([&](Stream& stream) {
        std::vector<float> x = input, work(static_cast<std::size_t>(orthogonalize_floats(m, n)));
        k->muon.orthogonalize(stream, mat(x.data(), m, n), 0.3f, work);
        EXPECT_TRUE(close_to(std::span<const float>(x), std::span<const double>(want), 2e-4));
        return x;
      });
      // Singular values of the result are about 1: so is their mean square.
      double squares = 0;
      for (const double v : want) squares += v * v / 0.09;
      EXPECT_NEAR(squares / static_cast<double>(std::min(rows, cols)), 0.9, 0.45);
    }
}

// Large tiles are for large matrices, which the stand-in for a GPU would take minutes for.
TEST(MuonKernels, LargeMatricesAgreeWithTheCpu) {
  if (!tests_cuda() || std::string(kernel_device().name) == "stand-in on the host") GTEST_SKIP() << "no GPU";
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{1501, 1463}, {1300, 2049}}) {
    const std::vector<float> input = random_floats(static_cast<std::size_t>(rows * cols), 5, -3, 3);
    std::vector<float> got = input, want = input, work(static_cast<std::size_t>(orthogonalize_floats(rows, cols)));
    Stream host, device(kernel_device(), 1);
    cpu_kernels().muon.orthogonalize(host, mat(want.data(), rows, cols), 1, work);
    all_isas()[0]->muon.orthogonalize(device, mat(got.data(), rows, cols), 1, work);
    EXPECT_TRUE(close_to(std::span<const float>(got), std::span<const float>(want), 2e-4));
  }
}

TEST(MuonKernels, OrthogonalizeOfZeroIsZeroAndNothingElsePasses) {
  Stream stream(kernel_device(), 1);
  std::vector<float> x(12), work(static_cast<std::size_t>(orthogonalize_floats(3, 4)));
  for (const Kernels* k : all_isas()) {
    const MuonKernels& muon = k->muon;
    muon.orthogonalize(stream, mat(x.data(), 3, 4), 1, work);
    EXPECT_EQ(x, std::vector<float>(12, 0.0f));
    EXPECT_THROW(muon.orthogonalize(stream, {x.data(), DType::kF32, 3, 3, 4}, 1, work), std::invalid_argument);
    EXPECT_THROW(muon.orthogonalize(stream, mat(x.data(), 3, 4), 1, std::span(work).first(20)), std::invalid_argument);
  }
}

TEST(MuonKernels, MomentumAndUpdateAgreeWithPlainLoops) {
  for (const Kernels* k : all_isas())
    for (const std::size_t n : {1, 17, 65539})
      for (const DType moments : kDTypes) {
        SCOPED_TRACE(std::string(k->isa) + " n " + std::to_string(n) + " " + name_of(moments));
        std::vector<float> w = random_floats(n, 1), g = random_floats(n, 2), m32 = random_floats(n, 3);
        std::vector<BF16> m16(n), rounded(n);
        for (std::size_t i = 0; i < n; ++i) m16[i] = to_bf16(m32[i]);
        if (moments == DType::kBF16) std::transform(m16.begin(), m16.end(), m32.begin(), to_float);
        Doubles want_m(n), want_g(n), want_w(n);
        for (std::size_t i = 0; i < n; ++i) {
          want_m[i] = 0.95 * m32[i] + 0.5 * g[i];
          want_g[i] = 0.5 * g[i] + 0.95 * want_m[i];
          want_w[i] = w[i] - 0.1 * (want_g[i] + 0.2 * w[i]);
        }
        void* const m = moments == DType::kF32 ? static_cast<void*>(m32.data()) : m16.data();
        const AdamWTensor t{.w = w.data(),
                            .w_bf16 = rounded.data(),
                            .g = g.data(),
                            .m = m,
                            .n = static_cast<std::int64_t>(n),
                            .decay = 0.2f,
                            .moments = moments};
        Stream stream(kernel_device(), 2);
        k->muon.momentum(stream, t, 0.95f, 0.5f);
        EXPECT_TRUE(close_to(std::span<const float>(g), std::span<const double>(want_g), 1e-6));
        if (moments == DType::kBF16) std::transform(m16.begin(), m16.end(), m32.begin(), to_float);
        EXPECT_TRUE(
            close_to(std::span<const float>(m32), std::span<const double>(want_m), moments == DType::kF32 ? 1e-6 : 0x1p-8));
        k->muon.apply(stream, t, 0.1f);
        EXPECT_TRUE(close_to(std::span<const float>(w), std::span<const double>(want_w), 1e-6));
        EXPECT_EQ(g, std::vector<float>(n, 0.0f));
        for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(rounded[i].bits, to_bf16(w[i]).bits) << i;
      }
}

ModelConfig config(bool mla) {
  ModelConfig c;
  c.vocab_size = 13, c.num_layers = 3, c.d_model = 12, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 4;
  c.num_experts = 5, c.expert_ffn = 7, c.num_shared_experts = 1, c.num_dense_layers = 1, c.dense_ffn = 9, c.init_std = 0.2f;
  if (mla) {
    c.attention = AttentionKind::kMla;
    c.q_lora_rank = 6, c.kv_lora_rank = 5, c.qk_nope_head_dim = 4, c.qk_rope_head_dim = 2, c.v_head_dim = 3;
  }
  return c;
}

TEST(Muon, MatricesOfBlocksAreItsAndWhole) {
  std::map<std::string, std::vector<std::int64_t>> rows;
  for (const bool mla : {false, true})
    for (const ParamSpec& spec : parameter_specs(config(mla))) rows[spec.name] = spec.matrix_rows;
  const std::vector<std::int64_t> none;
  EXPECT_EQ(rows.at("embedding.weight"), none);
  EXPECT_EQ(rows.at("head.weight"), none);
  EXPECT_EQ(rows.at("layers.1.attn_norm.weight"), none);
  EXPECT_EQ(rows.at("layers.0.attn.qkv.weight"), (std::vector<std::int64_t>{8, 4, 4}));
  EXPECT_EQ(rows.at("layers.0.attn.o.weight"), std::vector<std::int64_t>{12});
  EXPECT_EQ(rows.at("layers.0.attn.kv_b.weight"), std::vector<std::int64_t>{14});
  EXPECT_EQ(rows.at("layers.0.mlp.gate_up.weight"), (std::vector<std::int64_t>{9, 9}));
  EXPECT_EQ(rows.at("layers.1.router.weight"), std::vector<std::int64_t>{5});
  EXPECT_EQ(rows.at("layers.1.experts.gate_up.weight"), (std::vector<std::int64_t>{7, 7}));
  EXPECT_EQ(rows.at("layers.1.experts.down.weight"), std::vector<std::int64_t>{12});
}

using Tensors = std::map<std::string, std::vector<float>>;  // masters and momentum, by name and role

// Two steps with gradients that are a function of the element.
void two_steps(World& world, const ModelConfig& c, const MeshOptions& options, const TrainingState& state, Tensors& whole,
               std::mutex& mutex) {
  MeshContext mesh(world, options, c.num_experts, cpu_kernels());
  Model model(c, DType::kF32, true, mesh, state);
  model.initialize(5);
  Muon muon(model.params(), mesh.unit_comms(), mesh.lane());
  Stream stream(1);
  for (std::int64_t step = 1; step <= 2; ++step) {
    for (const Param& p : model.params().all())
      for (const ShardRun& run : model.params().runs(p))
        for (std::int64_t i = 0; i < run.count; ++i)
          p.grad_shard[run.at + i] = Rng(9, p.spec.name).normal(static_cast<std::uint64_t>(run.global + i + step * 100000));
    muon.step(stream, cpu_kernels(), {.lr = 0.01f, .decay = 0.1f, .grad_scale = 0.5f});
  }
  const std::scoped_lock lock(mutex);
  for (const Param& p : model.params().all())
    for (const ShardRun& run : model.params().runs(p))
      for (std::int64_t i = 0; i < run.count; ++i) {
        const std::int64_t at = run.at + i;
        const float m = p.m.dtype == DType::kF32 ? p.m.f32()[at] : to_float(p.m.bf16()[at]);
        for (const auto& [role, value] : {std::pair{" master", p.master[at]}, std::pair{" m", m}}) {
          std::vector<float>& to = whole[p.spec.name + role];
          to.resize(static_cast<std::size_t>(p.spec.num_elements()), std::nanf(""));
          float& there = to[static_cast<std::size_t>(run.global + i)];
          EXPECT_TRUE(std::isnan(there) || there == value) << p.spec.name << role << ": replicas or copies differ";
          there = value;
        }
        EXPECT_EQ(p.is_muon, !p.spec.matrix_rows.empty());
        EXPECT_EQ(p.is_muon, p.v.data == nullptr) << p.spec.name;
        EXPECT_TRUE(!p.is_muon || p.grad_shard[at] == 0.0f) << p.spec.name;
      }
}

Tensors on_mesh(const ModelConfig& c, const MeshOptions& options, const TrainingState& state) {
  Tensors whole;
  std::mutex mutex;
  if (options.shape.size() == 1) {
    World world;
    two_steps(world, c, options, state, whole, mutex);
    return whole;
  }
  run_thread_ranks(options.shape.size(), [&](std::unique_ptr<Comm> comm) {
    World world(std::move(comm), std::vector<int>(static_cast<std::size_t>(options.shape.size()), 0));
    two_steps(world, c, options, state, whole, mutex);
  });
  return whole;
}

TEST(Muon, OnAnyMeshIsMuonOnWholeMatricesBitForBit) {
  if (tests_cuda()) GTEST_SKIP() << "of the CPU";
  const Placement copies{5, {1, 2}, {{{{4, 0, 3}, {2, 1, 4, 0}}}, {{{0, 1, 2, 3, 4}, {2}}}}};
  for (const bool mla : {false, true}) {
    const TrainingState state{.moments = mla ? DType::kBF16 : DType::kF32, .muon = true};
    const ModelConfig c = config(mla);
    const Tensors want = on_mesh(c, {}, state);
    for (const MeshOptions& mesh : {MeshOptions{.shape = {1, 2, 1}},
                                    {.shape = {1, 1, 2}},
                                    {.shape = {1, 2, 2}, .zero = 1},
                                    {.shape = {1, 2, 2}, .zero = 2, .plan = copies},
                                    {.shape = {2, 1, 2}, .plan = copies},
                                    {.shape = {2, 3, 1}},
                                    {.shape = {1, 7, 1}}}) {
      SCOPED_TRACE(mesh_text(mesh.shape) + " zero " + std::to_string(mesh.zero) + (mla ? " mla, bf16 momentum" : ""));
      const Tensors got = on_mesh(c, mesh, state);
      ASSERT_EQ(got.size(), want.size());
      for (const auto& [name, values] : want) EXPECT_TRUE(same_bits(got.at(name), values)) << name;
    }
  }
}

// What one step does to a matrix of a fused tensor, in double: each of q, k, v for itself.
TEST(Muon, AStepIsTheFormula) {
  const ModelConfig c = config(false);
  const std::string name = "layers.1.attn.qkv.weight";
  Model model(c, DType::kF32, true, ParamLayout::whole(c.num_experts), {.muon = true});
  model.initialize(5);
  CommLane lane(false);
  Muon muon(model.params(), {}, lane);
  for (const Param& p : model.params().all())
    for (std::int64_t i = 0; i < p.shard_size(); ++i)
      p.grad_shard[i] = Rng(9, p.spec.name).normal(static_cast<std::uint64_t>(i));
  const Param& p = model.params().find(name);
  const std::vector<float> w(p.master, p.master + p.shard_size()), g(p.grad_shard, p.grad_shard + p.shard_size());
  Stream stream(1);
  muon.step(stream, cpu_kernels(), {.lr = 0.01f, .decay = 0.1f});
  const std::size_t cols = 12, rows[] = {8, 4, 4};
  std::size_t at = 0;
  for (const std::size_t n : rows) {
    Doubles u(g.begin() + static_cast<std::ptrdiff_t>(at), g.begin() + static_cast<std::ptrdiff_t>(at + n * cols));
    u = newton_schulz(u, n, cols);  // 1.95 g: the length does not matter
    for (std::size_t i = 0; i < n * cols; ++i) {
      const double want = w[at + i] - 0.01 * (0.2 * std::sqrt(12.0) * u[i] + 0.1 * w[at + i]);
      EXPECT_NEAR(p.master[at + i], want, 2e-6) << i;
    }
    at += n * cols;
  }
}

TEST(Muon, MemoryIsMomentumAloneAndIsPredicted) {
  const ModelConfig c = config(false);
  const PassOptions pass{.shape = {1, 4}};
  std::int64_t matrices = 0, all = 0;
  for (const ParamSpec& spec : parameter_specs(c)) {
    all += spec.num_elements();
    if (!spec.matrix_rows.empty()) matrices += spec.num_elements();
  }
  const auto predicted = [&](const TrainingState& state) { return predict_memory(c, DType::kF32, pass, {}, {}, -1, state); };
  EXPECT_EQ(predicted({}).moments, static_cast<std::size_t>(8 * all));
  EXPECT_EQ(predicted({.moments = DType::kBF16}).moments, static_cast<std::size_t>(4 * all));
  EXPECT_EQ(predicted({.muon = true}).moments, static_cast<std::size_t>(8 * all - 4 * matrices));
  EXPECT_EQ(predicted({.ema = true}).ema, static_cast<std::size_t>(4 * all));
  EXPECT_EQ(predicted({}).ema, 0u);
  EXPECT_GT(predicted({.muon = true}).buffers, predicted({}).buffers);
}

}  // namespace
}  // namespace moe
