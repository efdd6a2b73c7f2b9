// Routers: scores, the choice of experts, gates and their gradients (kernels.h; DeepSeek-V3 section 2.1.2 for the group
// limit, the node limit and the bias). Tokens are independent; a thread needs a few rows of E floats of scratch memory.
// Not here: balance losses and counts (router_losses.cpp), the bias update (a rule of training, not of a microbatch).
#include "kernels/router.h"

#include "kernels/cpu.h"
#include "kernels/softmax.h"

namespace moe::MOE_ISA {
namespace {

constexpr float kTiny = 1e-20f;  // keeps 0 / 0 away when all chosen scores have underflowed

constexpr i64 kMaxNodeKeys = i64{1} << 20;  // of all nodes of a token, in a thread's scratch memory

// How many experts of a node count for its score.
i64 experts_per_node_score(const RouterShape& s) { return (i64{s.top_k} + s.num_nodes_kept - 1) / s.num_nodes_kept; }

void check_nodes(const char* op, const RouterShape& s) {
  if (s.expert2node == nullptr) return;
  expect_range(op, "node of an expert", s.expert2node, s.num_experts, 0, s.num_nodes);
  if (s.num_nodes_kept >= 1 && s.num_nodes_kept <= s.num_nodes && s.num_nodes <= kMaxRoutedExperts &&
      s.num_nodes * experts_per_node_score(s) <= kMaxNodeKeys)
    return;
  char text[256];
  std::snprintf(text, sizeof text,
                "%s: expected 1 <= nodes kept <= nodes, and few enough for the scratch memory, found %d of %d", op,
                s.num_nodes_kept, s.num_nodes);
  throw std::invalid_argument(text);
}

// Scratch memory of one thread.
struct Workspace {
  float* key_E;        // selection scores, with room for a whole vector at the end
  float* group_key;    // one of each group or node, the same
  std::int32_t* kept;  // groups or nodes kept
  float* best;         // the largest keys of each node, in falling order
  explicit Workspace(std::byte* p)
      : key_E(reinterpret_cast<float*>(p)),
        group_key(key_E + 2 * kMaxRoutedExperts),
        kept(reinterpret_cast<std::int32_t*>(group_key + 2 * kMaxRoutedExperts)),
        best(group_key + 3 * kMaxRoutedExperts) {}
};
static_assert((5 * kMaxRoutedExperts + kMaxNodeKeys) * sizeof(float) <= Stream::kScratchBytes);

void scores_of(const RouterShape& shape, const float* logits_E, float* scores_E) {
  const i64 E = shape.num_experts;
  if (shape.score == Score::kSoftmax) {
    const float sum = row_exp_sum(logits_E, E, row_max(logits_E, E), scores_E);
    scale_row(scores_E, E, 1.0f / sum);
    return;
  }
  for_columns(E, [&](i64 j, auto lanes) {
    store(scores_E + j, splat(1.0f) / (splat(1.0f) + exp(-load(logits_E + j, lanes))), lanes);
  });
}

// The largest key, or the sum of the two largest; that of a single expert is its own key either way.
float group_key(GroupScore rule, const float* key, i64 n) {
  float first = key[0], second = -__builtin_inff();
  for (i64 i = 1; i < n; ++i) {
    second = key[i] > first ? first : key[i] > second ? key[i] : second;
    first = key[i] > first ? key[i] : first;
  }
  return rule == GroupScore::kMax || n == 1 ? first : first + second;
}

// Keys of all experts outside the kept groups become -inf.
void limit_groups(const RouterShape& shape, const Workspace& ws) {
  const i64 group = shape.num_experts / shape.num_groups;
  for (i64 g = 0; g < shape.num_groups; ++g) ws.group_key[g] = group_key(shape.group_score, ws.key_E + g * group, group);
  make_keys(ws.group_key, nullptr, shape.num_groups, ws.group_key);
  take_largest(ws.group_key, shape.num_groups, shape.num_groups_kept, ws.kept);
  // What was taken now has the key -inf, what was not has a finite one.
  for (i64 g = 0; g < shape.num_groups; ++g)
    if (ws.group_key[g] != -__builtin_inff())
      for (i64 i = 0; i < group; ++i) ws.key_E[g * group + i] = -__builtin_inff();
}

// best (=) the m largest keys of each node, in falling order, -inf where it has fewer.
void best_of_nodes(const RouterShape& shape, const float* key_E, i64 m, float* best) {
  for (i64 i = 0; i < shape.num_nodes * m; ++i) best[i] = -__builtin_inff();
  for (i64 e = 0; e < shape.num_experts; ++e) {
    float* of_node = best + shape.expert2node[e] * m;
    i64 at = m;
    while (at > 0 && key_E[e] > of_node[at - 1]) --at;
    for (i64 i = m - 1; i > at; --i) of_node[i] = of_node[i - 1];
    if (at < m) of_node[at] = key_E[e];
  }
}

// -inf for a node without an allowed expert, else a finite number or +inf.
float node_key(const float* best, i64 m) {
  float sum = best[0];
  for (i64 i = 1; i < m && best[i] != -__builtin_inff(); ++i) sum += best[i];
  return best[0] != -__builtin_inff() && !(sum > kLowest) ? kLowest : sum;
}

// Keys of all experts outside the kept nodes become -inf. Returns how many keys are left.
i64 limit_nodes(const RouterShape& shape, const Workspace& ws) {
  const i64 m = experts_per_node_score(shape);
  best_of_nodes(shape, ws.key_E, m, ws.best);
  i64 num_open = 0, num_left = 0;  // nodes with an allowed expert; experts
  for (i64 i = 0; i < shape.num_nodes; ++i) {
    ws.group_key[i] = node_key(ws.best + i * m, m);
    num_open += ws.group_key[i] != -__builtin_inff();
  }
  for (i64 i = shape.num_nodes; i % kWidth != 0; ++i) ws.group_key[i] = -__builtin_inff();
  take_largest(ws.group_key, shape.num_nodes, num_open < shape.num_nodes_kept ? num_open : shape.num_nodes_kept, ws.kept);
  // What was taken now has the key -inf, and so has a node whose experts are out already.
  for (i64 e = 0; e < shape.num_experts; ++e) {
    if (ws.group_key[shape.expert2node[e]] != -__builtin_inff()) ws.key_E[e] = -__builtin_inff();
    num_left += ws.key_E[e] != -__builtin_inff();
  }
  return num_left;
}

void refuse_short(const RouterShape& shape, i64 num_short) {
  if (num_short == 0) return;
  char text[256];
  std::snprintf(text, sizeof text,
                "router.forward: expected the %d nodes kept of %d to hold at least top %d allowed experts, found fewer for "
                "%lld tokens",
                shape.num_nodes_kept, shape.num_nodes, shape.top_k, static_cast<long long>(num_short));
  throw std::invalid_argument(text);
}

void gates_of(const RouterShape& shape, const float* scores_E, const std::int32_t* idx_K, float* gate_K) {
  float sum = 0;
  for (int k = 0; k < shape.top_k; ++k) sum += scores_E[idx_K[k]];
  for (int k = 0; k < shape.top_k; ++k)
    gate_K[k] = shape.renormalize ? shape.scale * (scores_E[idx_K[k]] / (sum + kTiny)) : shape.scale * scores_E[idx_K[k]];
}

void forward(Stream& stream, const RouterShape& shape, const float* logits_TE, std::int64_t num_tokens, const float* bias_E,
             float* scores_TE, std::int32_t* idx_TK, float* gate_TK) {
  expect_router_shape("router.forward", shape);
  check_nodes("router.forward", shape);
  const i64 E = shape.num_experts, K = shape.top_k;
  const bool limits_nodes = shape.expert2node != nullptr && shape.num_nodes_kept < shape.num_nodes;
  i64 num_short = 0;  // tokens that cannot have K experts
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, num_tokens* E * 16)) reduction(+ : num_short)
  for (i64 t = 0; t < num_tokens; ++t) {
    const Workspace ws(stream.scratch(omp_get_thread_num()));
    scores_of(shape, logits_TE + t * E, scores_TE + t * E);
    make_keys(scores_TE + t * E, bias_E, E, ws.key_E);
    if (shape.num_groups_kept < shape.num_groups) limit_groups(shape, ws);
    if (limits_nodes && limit_nodes(shape, ws) < K) {
      ++num_short;
      continue;
    }
    take_largest(ws.key_E, E, shape.top_k, idx_TK + t * K);
    gates_of(shape, scores_TE + t * E, idx_TK + t * K, gate_TK + t * K);
  }
  refuse_short(shape, num_short);
}

// With S = sum of the chosen scores: d(s_k / S) = (ds_k - s_k dS / S) / S.
void gates_backward(const RouterShape& shape, const float* scores_E, const std::int32_t* idx_K, const float* dgate_K,
                    float* dscores_E) {
  std::memset(dscores_E, 0, sizeof(float) * static_cast<std::size_t>(shape.num_experts));
  float sum = kTiny, weighted = 0;
  for (int k = 0; k < shape.top_k; ++k) {
    sum += scores_E[idx_K[k]];
    weighted += dgate_K[k] * scores_E[idx_K[k]];
  }
  for (int k = 0; k < shape.top_k; ++k)
    dscores_E[idx_K[k]] = shape.renormalize ? shape.scale * ((dgate_K[k] - weighted / sum) / sum) : shape.scale * dgate_K[k];
}

void backward_gates(Stream& stream, const RouterShape& shape, const float* scores_TE, std::int64_t num_tokens,
                    const std::int32_t* idx_TK, const float* dgate_TK, float* dscores_TE) {
  expect_router_shape("router.backward_gates", shape);
  const i64 E = shape.num_experts, K = shape.top_k;
  expect_range("router.backward_gates", "expert", idx_TK, num_tokens * K, 0, E);
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, num_tokens* E * 8))
  for (i64 t = 0; t < num_tokens; ++t)
    gates_backward(shape, scores_TE + t * E, idx_TK + t * K, dgate_TK + t * K, dscores_TE + t * E);
}

// Softmax: dl = s (ds - sum ds s). Sigmoid: dl = ds s (1 - s). dlogits may be dscores.
void scores_backward(Score score, const float* s, const float* ds, i64 E, float* dl) {
  float mean = 0;
  if (score == Score::kSoftmax) mean = sum_columns(E, [&](i64 j, auto n) { return load(ds + j, n) * load(s + j, n); });
  for_columns(E, [&](i64 j, auto n) {
    const vf vs = load(s + j, n), vd = load(ds + j, n);
    store(dl + j, score == Score::kSoftmax ? vs * (vd - splat(mean)) : vd * vs * (splat(1.0f) - vs), n);
  });
}

void backward_scores(Stream& stream, const RouterShape& shape, const float* scores_TE, std::int64_t num_tokens,
                     const float* dscores_TE, float* dlogits_TE) {
  expect_router_shape("router.backward_scores", shape);
  const i64 E = shape.num_experts;
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, num_tokens* E * 12))
  for (i64 t = 0; t < num_tokens; ++t)
    scores_backward(shape.score, scores_TE + t * E, dscores_TE + t * E, E, dlogits_TE + t * E);
}

}  // namespace

const RouterKernels router_cpu = {forward,          backward_gates,      backward_scores, router_count_top_k,
                                  router_fractions, router_balance_loss, router_z_loss,   router_tally};

}  // namespace moe::MOE_ISA
