// Matrix products: squares, the linear maps of a block, the experts. A check recomputes elements in double; its error is
// relative to the sum of the absolute products, so that cancellation does not matter.
#include <cmath>
#include <cstring>
#include <numeric>

#include "lib/run/bench_cases.h"

namespace moe {

const char* name_of(ExpertLoad load) {
  static constexpr const char* kNames[] = {"balanced", "zipf", "one"};
  return kNames[static_cast<int>(load)];
}

std::vector<std::int64_t> expert_rows(ExpertLoad load, std::int64_t num_rows, int num_experts) {
  const auto E = static_cast<std::size_t>(num_experts);
  std::vector<double> share(E, load == ExpertLoad::kOne ? 0.0 : 1.0);
  if (load == ExpertLoad::kOne) share[E / 2] = 1;
  if (load == ExpertLoad::kZipf)
    for (std::size_t e = 0; e < E; ++e) share[e] = 1.0 / static_cast<double>(e + 1);
  const double total = std::accumulate(share.begin(), share.end(), 0.0);
  std::vector<std::int64_t> rows(E);
  for (std::size_t e = 0; e < E; ++e) rows[e] = static_cast<std::int64_t>(static_cast<double>(num_rows) * share[e] / total);
  std::int64_t left = num_rows - std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
  for (std::size_t e = 0; left > 0; e = (e + 1) % E)
    if (share[e] > 0) ++rows[e], --left;
  std::vector<std::int64_t> psum_rows_E1(E + 1);
  std::partial_sum(rows.begin(), rows.end(), psum_rows_E1.begin() + 1);
  return psum_rows_E1;
}

std::string dims(std::initializer_list<std::int64_t> sizes) {
  std::string text;
  for (const std::int64_t n : sizes) text += (text.empty() ? "" : "x") + std::to_string(n);
  return text;
}

namespace {

constexpr double kTolerance = 2e-6;  // fp32 sums of a few thousand terms stay well below
constexpr int kSamples = 64;

enum class Direction { kForward, kBackwardInput, kBackwardWeight };
constexpr Direction kDirections[] = {Direction::kForward, Direction::kBackwardInput, Direction::kBackwardWeight};
const char* name_of(Direction d) {
  static constexpr const char* kNames[] = {"forward", "backward_input", "backward_weight"};
  return kNames[static_cast<int>(d)];
}

// The i-th of kSamples positions in [0, n), first and last among them.
std::int64_t sample(int i, std::int64_t n) { return n <= 1 ? 0 : i == 0 ? n - 1 : (i * std::int64_t{7919}) % n; }

struct Product {
  Mat x, w, y;                         // [M, K], [N, K], [M, N]: y = x w^T, or the gradients in their places
  std::span<const std::int64_t> psum;  // of experts
};
Product take_product(Operands& o, Direction d, std::int64_t M, std::int64_t N, std::int64_t K,
                     std::span<const std::int64_t> psum = {}) {
  const std::int64_t E = psum.empty() ? 1 : static_cast<std::int64_t>(psum.size()) - 1;
  return {o.matrix(M, K), d == Direction::kBackwardWeight ? o.matrix_f32(E * N, K) : o.matrix(E * N, K), o.matrix(M, N),
          o.copy_of(psum)};
}
double tolerance_of(const BenchTarget& t, Direction d) {
  return d == Direction::kBackwardWeight ? kTolerance : t.tolerance(kTolerance);
}

// Element (i, j) of the result and the scale of its terms.
struct Dot {
  double sum = 0, scale = 0;
  void add(double a, double b) { sum += a * b, scale += std::fabs(a * b); }
};
double at(CMat m, std::int64_t i, std::int64_t j) { return m.f32()[i * m.stride + j]; }

// out(i, j) against sum over l of a(i, l) b(l, j).
template <class A, class B>
void check_elements(CMat out, std::int64_t depth, A a, B b, WorstDeviation& worst) {
  for (int s = 0; s < kSamples && out.rows > 0; ++s) {
    const std::int64_t i = sample(s, out.rows), j = sample(kSamples - 1 - s, out.cols);
    Dot want;
    for (std::int64_t l = 0; l < depth; ++l) want.add(a(i, l), b(l, j));
    worst.add(at(out, i, j), want.sum, want.scale);
  }
}

// One product of one expert, or a plain one.
void check_product(Direction d, CMat x, CMat w, CMat y, WorstDeviation& worst) {
  const auto of = [](CMat m) { return [m](std::int64_t i, std::int64_t j) { return at(m, i, j); }; };
  const auto transposed = [](CMat m) { return [m](std::int64_t i, std::int64_t j) { return at(m, j, i); }; };
  switch (d) {
    case Direction::kForward:
      return check_elements(y, x.cols, of(x), transposed(w), worst);
    case Direction::kBackwardInput:
      return check_elements(x, y.cols, of(y), of(w), worst);
    case Direction::kBackwardWeight:
      return check_elements(w, y.rows, transposed(y), of(x), worst);
  }
}

void zero(Mat m) { std::memset(m.data, 0, static_cast<std::size_t>(m.rows * m.cols) * sizeof(float)); }

void run_plain(Env env, Direction d, const Product& p) {
  switch (d) {
    case Direction::kForward:
      return env.kernels.gemm.forward(env.stream, p.x, p.w, p.y, Store::kAssign);
    case Direction::kBackwardInput:
      return env.kernels.gemm.backward_input(env.stream, p.y, p.w, p.x, Store::kAssign);
    case Direction::kBackwardWeight:
      return env.kernels.gemm.backward_weight(env.stream, p.y, p.x, p.w);
  }
}

BenchCase plain_case(const BenchTarget& t, Direction d, std::int64_t M, std::int64_t N, std::int64_t K, bool warm) {
  const Env env = t.env;
  const auto all = take_sets(env.stream, t.dtype, warm, [=](Operands& o) { return take_product(o, d, M, N, K); });
  const auto error = [=] {
    if (d == Direction::kBackwardWeight) all->change([](const Product& p) { zero(p.w); });  // dw +=
    run_plain(env, d, all->front());
    const Product& p = all->pulled();
    WorstDeviation worst;
    check_product(d, p.x, p.w, p.y, worst);
    return worst.value();
  };
  return {.work = 2.0 * static_cast<double>(M * N * K),
          .tolerance = tolerance_of(t, d),
          .num_sets = all->size(),
          .run = [=](int call) { run_plain(env, d, all->of(call)); },
          .error = error};
}

BenchEntry plain_entry(const BenchTarget& t, const std::string& name, Direction d, std::int64_t M, std::int64_t N,
                       std::int64_t K, bool warm) {
  return {"gemm/" + name + "/" + name_of(d), dims({M, N, K}), [=] { return plain_case(t, d, M, N, K, warm); }};
}

using Offsets = std::vector<std::int64_t>;

void run_grouped(Env env, Direction d, const Product& p) {
  const GroupedGemmKernels& k = env.kernels.grouped_gemm;
  switch (d) {
    case Direction::kForward:
      return k.forward(env.stream, p.x, p.w, p.psum, p.y, Store::kAssign);
    case Direction::kBackwardInput:
      return k.backward_input(env.stream, p.y, p.w, p.psum, p.x, Store::kAssign);
    case Direction::kBackwardWeight:
      return k.backward_weight(env.stream, p.y, p.x, p.psum, p.w);
  }
}

double grouped_error(Direction d, const Product& p, const Offsets& psum, std::int64_t N) {
  WorstDeviation worst;
  for (std::size_t e = 0; e + 1 < psum.size(); ++e) {
    const std::int64_t begin = psum[e], n = psum[e + 1] - begin;
    check_product(d, p.x.slice_rows(begin, n), p.w.slice_rows(static_cast<std::int64_t>(e) * N, N), p.y.slice_rows(begin, n),
                  worst);
  }
  return worst.value();
}

BenchCase grouped_case(const BenchTarget& t, Direction d, const Offsets& psum, std::int64_t N, std::int64_t K) {
  const Env env = t.env;
  const std::int64_t R = psum.back();
  const auto all = take_sets(env.stream, t.dtype, false, [=](Operands& o) { return take_product(o, d, R, N, K, psum); });
  const auto error = [=] {
    if (d == Direction::kBackwardWeight) all->change([](const Product& p) { zero(p.w); });
    run_grouped(env, d, all->front());
    return grouped_error(d, all->pulled(), psum, N);
  };
  return {.work = 2.0 * static_cast<double>(R * N * K),
          .tolerance = tolerance_of(t, d),
          .num_sets = all->size(),
          .run = [=](int call) { run_grouped(env, d, all->of(call)); },
          .error = error};
}

struct ExpertLinear {
  const char* name;
  std::int64_t N, K;
};

// What makes queries, keys and values: [N, K] weights.
struct Projection {
  const char* name;
  std::int64_t N, K;
};
std::vector<Projection> projections(const ModelConfig& c) {
  const std::int64_t D = c.d_model, H = c.num_heads;
  if (!c.is_mla()) return {{"qkv", c.qkv_width(), D}};
  std::vector<Projection> list = {{"kv_a", c.kv_lora_rank + c.qk_rope_head_dim, D},
                                  {"kv_b", H * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank}};
  if (c.q_lora_rank == 0) list.push_back({"q", H * c.qk_dim(), D});
  if (c.q_lora_rank > 0) list.push_back({"q_a", c.q_lora_rank, D}), list.push_back({"q_b", H * c.qk_dim(), c.q_lora_rank});
  return list;
}

BenchEntry grouped_entry(const BenchTarget& t, const ExpertLinear& map, Direction d, ExpertLoad load,
                         std::int64_t num_rows) {
  const Offsets psum = expert_rows(load, num_rows, t.config.num_experts);
  return {std::string("grouped/") + map.name + "/" + name_of(d) + "/" + name_of(load),
          dims({num_rows, map.N, map.K}) + ",E=" + std::to_string(t.config.num_experts),
          [=] { return grouped_case(t, d, psum, map.N, map.K); }};
}

}  // namespace

std::vector<BenchEntry> gemm_entries(const BenchTarget& t) {
  std::vector<BenchEntry> list;
  for (const std::int64_t n : {256, 512, 1024, 2048})
    list.push_back(plain_entry(t, "square", Direction::kForward, n, n, n, true));
  for (const Direction d : {Direction::kBackwardInput, Direction::kBackwardWeight})
    list.push_back(plain_entry(t, "square", d, 1024, 1024, 1024, true));
  const ModelConfig& c = t.config;
  const std::int64_t T = t.shape.num_tokens(), D = c.d_model;
  for (const Direction d : kDirections) {
    for (const auto& [name, N, K] : projections(c)) list.push_back(plain_entry(t, name, d, T, N, K, false));
    list.push_back(plain_entry(t, "o", d, T, D, std::int64_t{c.num_heads} * c.value_dim(), false));
    list.push_back(plain_entry(t, "router", d, T, c.num_experts, D, false));
    list.push_back(plain_entry(t, "head", d, T, c.vocab_size, D, false));
  }
  return list;
}

std::vector<BenchEntry> grouped_entries(const BenchTarget& t) {
  const ModelConfig& c = t.config;
  const ExpertLinear gate_up{"gate_up", 2 * c.expert_ffn, c.d_model}, down{"down", c.d_model, c.expert_ffn};
  const std::int64_t whole = t.shape.num_tokens() * c.top_k;  // what a micro-batch routes
  std::vector<BenchEntry> list;
  for (const Direction d : kDirections) {
    for (const std::int64_t num_rows_per_expert : {4, 16, 64, 256})
      if (num_rows_per_expert * c.num_experts < whole)
        list.push_back(grouped_entry(t, gate_up, d, ExpertLoad::kBalanced, num_rows_per_expert * c.num_experts));
    for (const ExpertLoad load : {ExpertLoad::kBalanced, ExpertLoad::kZipf, ExpertLoad::kOne})
      list.push_back(grouped_entry(t, gate_up, d, load, whole));
    for (const ExpertLoad load : {ExpertLoad::kBalanced, ExpertLoad::kZipf})
      list.push_back(grouped_entry(t, down, d, load, whole));
  }
  return list;
}

}  // namespace moe
