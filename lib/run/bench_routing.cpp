// Rows of what decides and moves: router, permutation, embedding. Bytes: each operand element once per reading or writing.
// Moved rows are checked for equality, choices against a plain sort.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "lib/run/bench_cases.h"

namespace moe {
namespace {

constexpr double kTolerance = 1e-5;
constexpr int kSampledTokens = 64;

struct RoutingSet;
using RoutingSets = Sets<RoutingSet>;
struct RoutingSet {
  std::span<float> logits_TE, scores_TE, gate_TK, dgate_TK, dscores_TE;
  std::span<std::int32_t> idx_N, slot2row_N, row2slot_R;
  std::span<std::int64_t> psum_rows_E1;
  Mat x_TD, x_RD;
};

// The path of a micro-batch through router and permutation, dropless.
struct Routing {
  Env env;
  RouterShape shape;
  std::int64_t T, D, E = shape.num_experts, K = shape.top_k, N = T * K;
  std::vector<std::int64_t> zeros = std::vector<std::int64_t>(static_cast<std::size_t>(E + 1));

  RoutingSet take(Operands& o) const {
    RoutingSet s;
    s.logits_TE = o.floats(T * E), s.scores_TE = o.floats(T * E), s.gate_TK = o.floats(N), s.dgate_TK = o.floats(N);
    s.dscores_TE = o.floats(T * E);
    s.idx_N = o.ints(N, E), s.slot2row_N = o.ints(N, N), s.row2slot_R = o.ints(N, N);
    s.psum_rows_E1 = o.copy_of(zeros);
    s.x_TD = o.matrix(T, D), s.x_RD = o.matrix(N, D);
    return s;
  }
  void route(const RoutingSet& s) const {
    env.kernels.router.forward(env.stream, shape, s.logits_TE.data(), T, nullptr, s.scores_TE.data(), s.idx_N.data(),
                               s.gate_TK.data());
  }
  void route_backward(const RoutingSet& s) const {
    const RouterKernels& k = env.kernels.router;
    k.backward_gates(env.stream, shape, s.scores_TE.data(), T, s.idx_N.data(), s.dgate_TK.data(), s.dscores_TE.data());
    k.backward_scores(env.stream, shape, s.scores_TE.data(), T, s.dscores_TE.data(), s.dscores_TE.data());
  }
  void plan(const RoutingSet& s) const {
    env.kernels.permute.plan(env.stream, s.idx_N, static_cast<int>(E), -1, s.psum_rows_E1.data(), s.slot2row_N.data(),
                             s.row2slot_R.data());
  }
  void gather(const RoutingSet& s) const {
    env.kernels.permute.gather(env.stream, s.x_TD, s.row2slot_R, static_cast<int>(K), s.x_RD);
  }
  void combine(const RoutingSet& s) const {
    env.kernels.permute.combine(env.stream, s.x_RD, s.slot2row_N, static_cast<int>(K), s.x_TD, Store::kAssign);
  }
};

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// Scores, choice and gates of one token in double.
struct TokenChoice {
  std::vector<double> scores_E;
  std::vector<std::int64_t> idx_K;
  std::vector<double> gate_K;
};
TokenChoice choose(const Routing& r, const RoutingSet& s, std::int64_t t) {
  TokenChoice c;
  double sum = 0;
  for (std::int64_t e = 0; e < r.E; ++e) {
    const double z = s.logits_TE[index(t * r.E + e)];
    c.scores_E.push_back(r.shape.score == Score::kSoftmax ? std::exp(z) : 1 / (1 + std::exp(-z)));
    sum += c.scores_E.back();
  }
  if (r.shape.score == Score::kSoftmax)
    for (double& p : c.scores_E) p /= sum;
  c.idx_K.resize(index(r.E));
  std::iota(c.idx_K.begin(), c.idx_K.end(), std::int64_t{0});
  std::stable_sort(c.idx_K.begin(), c.idx_K.end(),
                   [&](std::int64_t a, std::int64_t b) { return c.scores_E[index(a)] > c.scores_E[index(b)]; });
  c.idx_K.resize(index(r.K));
  double chosen = 0;
  for (const std::int64_t e : c.idx_K) chosen += c.scores_E[index(e)];
  for (const std::int64_t e : c.idx_K)
    c.gate_K.push_back(static_cast<double>(r.shape.scale) * c.scores_E[index(e)] / (r.shape.renormalize ? chosen : 1.0));
  return c;
}

// The chosen experts are compared by their scores: neighbours that differ by a rounding may change places. With groups only
// the scores are judged here.
double route_error(const Routing& r, RoutingSets& all) {
  r.route(all.front());
  const RoutingSet& s = all.pulled();
  WorstDeviation worst;
  for (std::int64_t t = 0; t < r.T; t += std::max<std::int64_t>(1, r.T / kSampledTokens)) {
    const TokenChoice want = choose(r, s, t);
    for (std::int64_t e = 0; e < r.E; ++e) worst.add(s.scores_TE[index(t * r.E + e)], want.scores_E[index(e)], 1);
    if (r.shape.num_groups > 1) continue;
    for (std::int64_t k = 0; k < r.K; ++k) {
      const std::int32_t e = s.idx_N[index(t * r.K + k)];
      worst.add(want.scores_E.at(index(e)), want.scores_E[index(want.idx_K[index(k)])], 1);
      worst.add(s.gate_TK[index(t * r.K + k)], want.gate_K[index(k)], std::fabs(want.gate_K[index(k)]));
    }
  }
  return worst.value();
}

// d(sum of dgate * gate) / d logits by the formulas of the two steps in double, with the choice as it was made.
std::vector<double> dlogits_of(const Routing& r, const RoutingSet& s, std::int64_t t) {
  std::vector<double> p(index(r.E)), d(index(r.E));
  for (std::int64_t e = 0; e < r.E; ++e) p[index(e)] = s.scores_TE[index(t * r.E + e)];
  double chosen = 0, dot = 0;
  for (std::int64_t k = 0; k < r.K; ++k) {
    const double score = p[index(s.idx_N[index(t * r.K + k)])];
    chosen += score, dot += score * static_cast<double>(s.dgate_TK[index(t * r.K + k)]);
  }
  for (std::int64_t k = 0; k < r.K; ++k) {
    const double dgate = s.dgate_TK[index(t * r.K + k)], scale = r.shape.scale;
    d[index(s.idx_N[index(t * r.K + k)])] =
        r.shape.renormalize ? scale * (dgate / chosen - dot / (chosen * chosen)) : scale * dgate;
  }
  double mean = 0;
  for (std::size_t e = 0; e < p.size(); ++e) mean += p[e] * d[e];
  for (std::size_t e = 0; e < p.size(); ++e)
    d[e] = r.shape.score == Score::kSoftmax ? p[e] * (d[e] - mean) : d[e] * p[e] * (1 - p[e]);
  return d;
}

double route_backward_error(const Routing& r, RoutingSets& all) {
  r.route(all.front());
  r.route_backward(all.front());
  const RoutingSet& s = all.pulled();
  WorstDeviation worst;
  for (std::int64_t t = 0; t < r.T; t += std::max<std::int64_t>(1, r.T / kSampledTokens)) {
    const std::vector<double> want = dlogits_of(r, s, t);
    for (std::int64_t e = 0; e < r.E; ++e) worst.add(s.dscores_TE[index(t * r.E + e)], want[index(e)], 1);
  }
  return worst.value();
}

// Every slot has one row, rows lie by expert, and by slot inside an expert.
double plan_error(const Routing& r, RoutingSets& all) {
  r.plan(all.front());
  const RoutingSet& s = all.pulled();
  WorstDeviation worst;
  std::int64_t row = 0;
  for (std::int64_t e = 0; e < r.E; ++e) {
    worst.add(static_cast<double>(s.psum_rows_E1[index(e)]), static_cast<double>(row), 0);
    for (std::int64_t slot = 0; slot < r.N; ++slot) {
      if (s.idx_N[index(slot)] != e) continue;
      worst.add(s.slot2row_N[index(slot)], static_cast<double>(row), 0);
      worst.add(s.row2slot_R[index(row++)], static_cast<double>(slot), 0);
    }
  }
  worst.add(static_cast<double>(s.psum_rows_E1[index(r.E)]), static_cast<double>(r.N), 0);
  return worst.value();
}

double gather_error(const Routing& r, RoutingSets& all) {
  r.gather(all.front());
  const RoutingSet& s = all.pulled();
  WorstDeviation worst;
  for (std::int64_t row = 0; row < r.N; row += 17)
    for (std::int64_t j = 0; j < r.D; ++j)
      worst.add(s.x_RD.f32()[row * r.D + j], s.x_TD.f32()[s.row2slot_R[index(row)] / r.K * r.D + j], 0);
  return worst.value();
}

double combine_error(const Routing& r, RoutingSets& all) {
  r.combine(all.front());
  const RoutingSet& s = all.pulled();
  WorstDeviation worst;
  for (std::int64_t t = 0; t < r.T; t += 17)
    for (std::int64_t j = 0; j < r.D; ++j) {
      double want = 0, scale = 0;
      for (std::int64_t k = 0; k < r.K; ++k) {
        const double y = s.x_RD.f32()[s.slot2row_N[index(t * r.K + k)] * r.D + j];
        want += y, scale += std::fabs(y);
      }
      worst.add(s.x_TD.f32()[t * r.D + j], want, scale);
    }
  return worst.value();
}

using Run = void (Routing::*)(const RoutingSet&) const;
BenchCase routing_case(const BenchTarget& t, const Routing& r, double bytes, Run run,
                       double (*error)(const Routing&, RoutingSets&)) {
  const auto all = take_sets(t.env.stream, t.dtype, false, [=](Operands& o) { return r.take(o); });
  for (const RoutingSet& s : *all) r.route(s), r.plan(s);  // each step reads what the ones before it leave
  return {.unit = RateUnit::kGbytes,
          .work = bytes,
          .tolerance = t.tolerance(kTolerance),
          .num_sets = all->size(),
          .run = [=](int call) { (r.*run)(all->of(call)); },
          .error = [=] { return error(r, *all); }};
}

struct EmbeddingSet {
  Mat w_VD, x_TD;
  std::span<std::int32_t> id_T;
};

BenchCase embedding_case(const BenchTarget& t, std::int64_t T, std::int64_t V, std::int64_t D, bool backward) {
  const Env env = t.env;
  const auto all = take_sets(env.stream, t.dtype, false, [=](Operands& o) {
    return EmbeddingSet{backward ? o.matrix_f32(V, D) : o.matrix(V, D), o.matrix(T, D), o.ints(T, V)};
  });
  const auto run = [=](const EmbeddingSet& s) {
    backward ? env.kernels.embedding.backward_weight(env.stream, s.id_T, s.x_TD, s.w_VD)
             : env.kernels.embedding.forward(env.stream, s.id_T, s.w_VD, s.x_TD);
  };
  const auto error = [=] {
    if (backward) all->change([=](const EmbeddingSet& s) { std::fill_n(s.w_VD.f32(), V * D, 0.0f); });  // dw +=
    run(all->front());
    const EmbeddingSet& s = all->pulled();
    WorstDeviation worst;
    for (std::int64_t j = 0; j < D; j += 31) {
      std::vector<double> want(index(V)), scale(index(V));
      for (std::int64_t t = 0; t < T; ++t) {
        const std::size_t id = index(s.id_T[index(t)]);
        const double x = s.x_TD.f32()[t * D + j];
        if (!backward) worst.add(x, s.w_VD.f32()[static_cast<std::int64_t>(id) * D + j], 0);
        want[id] += x, scale[id] += std::fabs(x);
      }
      for (std::int64_t v = 0; backward && v < V; ++v) worst.add(s.w_VD.f32()[v * D + j], want[index(v)], scale[index(v)]);
    }
    return worst.value();
  };
  return {.unit = RateUnit::kGbytes,
          // reads w, writes x; reads dx, reads and writes dw
          .work = (backward ? t.element() + 8 : 2 * t.element()) * static_cast<double>(T * D),
          .tolerance = kTolerance,
          .num_sets = all->size(),
          .run = [=](int call) { run(all->of(call)); },
          .error = error};
}

}  // namespace

std::vector<BenchEntry> routing_entries(const BenchTarget& t) {
  const Routing r{t.env, t.config.router_shape(), t.shape.num_tokens(), t.config.d_model};
  const double T = static_cast<double>(r.T), E = static_cast<double>(r.E), N = static_cast<double>(r.N),
               D = static_cast<double>(r.D);
  const std::string tokens = dims({r.T, r.E, r.K}), rows = dims({r.T, r.D}) + ",K=" + std::to_string(r.K);
  const std::int64_t V = t.config.vocab_size;
  const auto entry = [=](const char* name, const std::string& shape, double bytes, Run run,
                         double (*error)(const Routing&, RoutingSets&)) {
    return BenchEntry{name, shape, [=] { return routing_case(t, r, bytes, run, error); }};
  };
  return {
      entry("router/forward", tokens, 4 * (2 * T * E + 2 * N), &Routing::route,
            route_error),  // logits; scores, idx, gate
                           // scores, idx, dgate; dscores; and again scores, dscores; dlogits
      entry("router/backward", tokens, 4 * (5 * T * E + 2 * N), &Routing::route_backward, route_backward_error),
      entry("permute/plan", tokens, 4 * 3 * N, &Routing::plan, plan_error),                    // idx; slot2row, row2slot
      entry("permute/gather", rows, t.element() * 2 * N * D, &Routing::gather, gather_error),  // a row read, a row written
      entry("permute/combine", rows, t.element() * (N + T) * D, &Routing::combine, combine_error),
      {"embedding/forward", dims({r.T, V, r.D}), [=] { return embedding_case(t, r.T, V, r.D, false); }},
      {"embedding/backward_weight", dims({r.T, V, r.D}), [=] { return embedding_case(t, r.T, V, r.D, true); }}};
}

}  // namespace moe
