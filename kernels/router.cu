// Routers on CUDA: scores, the choice of experts, gates and their gradients (kernels.h; router.cpp has the same rules). A
// warp a token, its keys in shared memory; tokens are independent. Not here: balance losses and counts (router_losses.cu,
// router_tally.cu), the bias update.
#include "kernels/cuda_router.h"

namespace moe::cuda {
namespace {

constexpr float kTiny = 1e-20f;  // keeps 0 / 0 away when all chosen scores have underflowed

// The map is of the host, so that its values are looked at.
void check_nodes(const char* op, const RouterShape& s) {
  if (s.expert2node == nullptr) return;
  char text[256];
  for (int e = 0; e < s.num_experts; ++e) {
    if (s.expert2node[e] >= 0 && s.expert2node[e] < s.num_nodes) continue;
    std::snprintf(text, sizeof text, "%s: expected node of an expert in [0, %d), found %d at %d", op, s.num_nodes,
                  s.expert2node[e], e);
    throw std::invalid_argument(text);
  }
  if (s.num_nodes_kept >= 1 && s.num_nodes_kept <= s.num_nodes && s.num_nodes <= kMaxRoutedExperts) return;
  std::snprintf(text, sizeof text, "%s: expected 1 <= nodes kept <= nodes <= %lld, found %d of %d", op,
                static_cast<long long>(kMaxRoutedExperts), s.num_nodes_kept, s.num_nodes);
  throw std::invalid_argument(text);
}

bool limits_nodes(const RouterShape& s) { return s.expert2node != nullptr && s.num_nodes_kept < s.num_nodes; }
bool limits_groups(const RouterShape& s) { return s.num_groups_kept < s.num_groups; }

struct Forward {
  int E, K;
  RouterShape shape;  // whose expert2node is of the device; nullptr where no node limit changes anything
  const float *logits_TE, *bias_E;
  i64 num_tokens;
  float* scores_TE;
  std::int32_t* idx_TK;
  float* gate_TK;
};

// Selection key of expert e. Rounded as if the score had been stored and read again: not fused into one operation.
__device__ unsigned selection_key(float score, const float* bias_E, int e) {
  return make_key(bias_E ? __fadd_rn(score, bias_E[e]) : score);
}

// scores_E (=), key_E (=).
__device__ void scores_of(const Forward& f, const float* logits_E, float* scores_E, unsigned* key_E) {
  if (f.shape.score == Score::kSigmoid) {
    for_own(f.E, [&](int e) {
      const float score = 1.0f / (1.0f + expf(-logits_E[e]));
      scores_E[e] = score;
      key_E[e] = selection_key(score, f.bias_E, e);
    });
    return;
  }
  float largest = -__builtin_inff(), sum = 0;
  for_own(f.E, [&](int e) {
    const float logit = logits_E[e];
    key_E[e] = __float_as_uint(logit);
    largest = fmaxf(largest, logit);  // what is not a number comes out in the sum
  });
  largest = warp_max(largest);
  for_own(f.E, [&](int e) {
    const float v = expf(__uint_as_float(key_E[e]) - largest);
    key_E[e] = __float_as_uint(v);
    sum += v;
  });
  const float factor = 1.0f / warp_sum(sum);
  for_own(f.E, [&](int e) {
    const float score = __fmul_rn(__uint_as_float(key_E[e]), factor);
    scores_E[e] = score;
    key_E[e] = selection_key(score, f.bias_E, e);
  });
}

// The largest key, or the sum of the two largest; that of a single expert is its own key either way.
__device__ unsigned group_key(GroupScore rule, const unsigned* key, int n) {
  unsigned first = key[0], second = 0;
  for (int i = 1; i < n; ++i) {
    second = key[i] > first ? first : key[i] > second ? key[i] : second;
    first = key[i] > first ? key[i] : first;
  }
  return rule == GroupScore::kMax || n == 1 ? first : make_key(score_of(first) + score_of(second));
}

// Keys of all experts outside the kept groups become 0.
__device__ void limit_groups(const RouterShape& s, int E, unsigned* key_E, unsigned* key_G) {
  const int width = E / s.num_groups;
  __syncwarp();  // lanes read each other's keys
  for_own(s.num_groups, [&](int g) { key_G[g] = group_key(s.group_score, key_E + g * width, width); });
  for (int i = 0; i < s.num_groups_kept; ++i) take_largest(key_G, s.num_groups);
  __syncwarp();
  // What was taken now has the key 0, what was not has another.
  for_own(E, [&](int e) {
    if (key_G[e / width] != 0) key_E[e] = 0;
  });
  __syncwarp();
}

// 0 for a node without an allowed expert; else the key of the sum of its m largest keys, or of as many as it has.
__device__ unsigned node_key(const RouterShape& s, int E, const unsigned* key_E, int node, int m) {
  Largest last = {~0u, -1};
  float sum = 0;
  for (int i = 0; i < m; ++i) {
    const Largest top = warp_largest(key_E, E, [&](int e, unsigned key) {
      return s.expert2node[e] == node && (key < last.key || (key == last.key && e > last.at));
    });
    if (top.key == 0) break;
    sum = i == 0 ? score_of(top.key) : sum + score_of(top.key);
    last = top;
  }
  return last.at < 0 ? 0 : make_key(sum);
}

// Keys of all experts outside the kept nodes become 0.
__device__ void limit_nodes(const RouterShape& s, int E, int K, unsigned* key_E, unsigned* key_N) {
  const int m = (K + s.num_nodes_kept - 1) / s.num_nodes_kept;
  for (int n = 0; n < s.num_nodes; ++n)
    if (const unsigned key = node_key(s, E, key_E, n, m); n % kWarp == lane_id()) key_N[n] = key;
  for (int i = 0; i < s.num_nodes_kept; ++i) take_largest(key_N, s.num_nodes);
  __syncwarp();
  // What was taken now has the key 0, and so has a node whose experts are out already.
  for_own(E, [&](int e) {
    if (key_N[s.expert2node[e]] != 0) key_E[e] = 0;
  });
  __syncwarp();
}

// The limits have left fewer than K experts: all but the k chosen ones may be taken.
__device__ void allow_the_rest(const Forward& f, const float* scores_E, const std::int32_t* idx_K, int k, unsigned* key_E) {
  __syncwarp();  // lane 0 has written idx
  for_own(f.E, [&](int e) { key_E[e] = selection_key(scores_E[e], f.bias_E, e); });
  for (int i = 0; i < k; ++i)
    if (idx_K[i] % kWarp == lane_id()) key_E[idx_K[i]] = 0;
}

__device__ void gates_of(const RouterShape& s, int K, const float* scores_E, const std::int32_t* idx_K, float* gate_K) {
  float sum = 0;
#pragma unroll 4
  for (int k = 0; k < K; ++k) sum += scores_E[idx_K[k]];
  for_own(K, [&](int k) {
    const float score = scores_E[idx_K[k]];
    gate_K[k] = s.renormalize ? s.scale * (score / (sum + kTiny)) : s.scale * score;
  });
}

// One kernel for each kind of limit, so that routers without any carry none. The second bound keeps registers unspilt.
template <bool kLimitsGroups, bool kLimitsNodes>
__global__ void __launch_bounds__(kRouterThreads, 8) forward_kernel(Forward f, KeyMemory memory) {
  unsigned *const key_E = keys_of_warp(memory), *const key_other = key_E + f.E;  // of groups, then of nodes
  for (i64 first = i64{blockIdx.x} * kRouterWarps; first < f.num_tokens; first += i64{gridDim.x} * kRouterWarps) {
    const i64 t = first + threadIdx.x / kWarp;
    if (t >= f.num_tokens) return;
    float* const scores_E = f.scores_TE + t * f.E;
    std::int32_t* const idx_K = f.idx_TK + t * f.K;
    scores_of(f, f.logits_TE + t * f.E, scores_E, key_E);
    if constexpr (kLimitsGroups) limit_groups(f.shape, f.E, key_E, key_other);
    if constexpr (kLimitsNodes) limit_nodes(f.shape, f.E, f.K, key_E, key_other);
    for (int k = 0; k < f.K; ++k) {
      Largest top = take_largest(key_E, f.E);
      if (kLimitsNodes && top.key == 0) {
        allow_the_rest(f, scores_E, idx_K, k, key_E);
        top = take_largest(key_E, f.E);
      }
      if (lane_id() == 0) idx_K[k] = top.at;
    }
    __syncwarp();
    gates_of(f.shape, f.K, scores_E, idx_K, f.gate_TK + t * f.K);
    __syncwarp();  // before keys of the next token
  }
}

void forward(Stream& stream, const RouterShape& shape, const float* logits_TE, std::int64_t num_tokens, const float* bias_E,
             float* scores_TE, std::int32_t* idx_TK, float* gate_TK) {
  expect_router_shape("router.forward", shape);
  check_nodes("router.forward", shape);
  if (num_tokens == 0) return;
  Queue& q = queue_of(stream);
  const i64 E = shape.num_experts, nodes = limits_nodes(shape) ? shape.num_nodes : 0,
            groups = limits_groups(shape) ? shape.num_groups : 0, mapped = nodes > 0 ? E : 0;
  Forward f = {shape.num_experts, shape.top_k, shape, logits_TE, bias_E, num_tokens, scores_TE, idx_TK, gate_TK};
  const KeyMemory memory = key_memory(q, num_tokens, E + (nodes > groups ? nodes : groups), mapped);
  f.shape.expert2node = nullptr;
  if (mapped > 0) {
    std::int32_t* const map = memory.scratch ? q.scratch_of<std::int32_t>(0) : q.scratch_of<std::int32_t>(mapped);
    stream.copy(map, shape.expert2node, sizeof(std::int32_t) * static_cast<std::size_t>(E));
    f.shape.expert2node = map;
  }
  const auto run = [&](auto* kernel) { launch(q, kernel, memory.blocks, kRouterThreads, memory.shared_bytes, f, memory); };
  if (nodes > 0)
    groups > 0 ? run(forward_kernel<true, true>) : run(forward_kernel<false, true>);
  else
    groups > 0 ? run(forward_kernel<true, false>) : run(forward_kernel<false, false>);
}

// With S = sum of the chosen scores: d(s_k / S) = (ds_k - s_k dS / S) / S.
__global__ void __launch_bounds__(kRouterThreads)
    backward_gates_kernel(RouterShape s, const float* scores_TE, i64 num_tokens, const std::int32_t* idx_TK,
                          const float* dgate_TK, float* dscores_TE) {
  const i64 t = i64{blockIdx.x} * kRouterWarps + threadIdx.x / kWarp;
  const int E = s.num_experts;
  if (t >= num_tokens) return;
  const float *const scores_E = scores_TE + t * E, *const dgate_K = dgate_TK + t * s.top_k;
  const std::int32_t* const idx_K = idx_TK + t * s.top_k;
  float* const dscores_E = dscores_TE + t * E;
  for_own(E, [&](int e) { dscores_E[e] = 0; });
  float sum = kTiny, weighted = 0;
#pragma unroll 4
  for (int k = 0; k < s.top_k; ++k) {
    sum += scores_E[idx_K[k]];
    weighted += dgate_K[k] * scores_E[idx_K[k]];
  }
  __syncwarp();  // the zeros come first
  for_own(s.top_k, [&](int k) {
    dscores_E[idx_K[k]] = s.renormalize ? s.scale * ((dgate_K[k] - weighted / sum) / sum) : s.scale * dgate_K[k];
  });
}

void backward_gates(Stream& stream, const RouterShape& shape, const float* scores_TE, std::int64_t num_tokens,
                    const std::int32_t* idx_TK, const float* dgate_TK, float* dscores_TE) {
  expect_router_shape("router.backward_gates", shape);
  launch(queue_of(stream), backward_gates_kernel, blocks_for(num_tokens, kRouterWarps), kRouterThreads, 0, shape, scores_TE,
         num_tokens, idx_TK, dgate_TK, dscores_TE);
}

// Softmax: dl = s (ds - sum ds s). Sigmoid: dl = ds s (1 - s). dlogits may be dscores.
__global__ void __launch_bounds__(kRouterThreads)
    backward_scores_kernel(Score score, int E, const float* scores_TE, i64 num_tokens, const float* dscores_TE,
                           float* dlogits_TE) {
  const i64 t = i64{blockIdx.x} * kRouterWarps + threadIdx.x / kWarp;
  if (t >= num_tokens) return;
  const float *const s = scores_TE + t * E, *const ds = dscores_TE + t * E;
  float mean = 0;
  if (score == Score::kSoftmax) {
    for_own(E, [&](int e) { mean += ds[e] * s[e]; });
    mean = warp_sum(mean);
  }
  for_own(E, [&](int e) {
    dlogits_TE[t * E + e] = score == Score::kSoftmax ? s[e] * (ds[e] - mean) : ds[e] * s[e] * (1.0f - s[e]);
  });
}

void backward_scores(Stream& stream, const RouterShape& shape, const float* scores_TE, std::int64_t num_tokens,
                     const float* dscores_TE, float* dlogits_TE) {
  expect_router_shape("router.backward_scores", shape);
  launch(queue_of(stream), backward_scores_kernel, blocks_for(num_tokens, kRouterWarps), kRouterThreads, 0, shape.score,
         shape.num_experts, scores_TE, num_tokens, dscores_TE, dlogits_TE);
}

}  // namespace

const RouterKernels router_cuda = {forward,          backward_gates,      backward_scores, router_count_top_k,
                                   router_fractions, router_balance_loss, router_z_loss,   router_tally};

}  // namespace moe::cuda
