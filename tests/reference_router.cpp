// The router of the specification: see reference_router.h and the choices listed in reference.h.
#include "tests/reference_router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace moe::reference {
namespace {

constexpr double kOut = -std::numeric_limits<double>::infinity();  // the selection score of what may not be chosen

std::vector<double> row_of(const Matrix& m, std::int64_t t) { return m.row(t).v; }

Matrix router_scores(const ModelConfig& c, const Matrix& logits_TE) {
  Matrix s = logits_TE;
  for (std::int64_t t = 0; t < s.rows; ++t) {
    const std::vector<double> p = softmax(row_of(logits_TE, t));
    for (std::int64_t e = 0; e < s.cols; ++e)
      s(t, e) = c.router_score == Score::kSoftmax ? p[static_cast<std::size_t>(e)] : 1 / (1 + std::exp(-logits_TE(t, e)));
  }
  return s;
}

double score_of_group(const ModelConfig& c, std::vector<double> members) {
  std::sort(members.begin(), members.end(), std::greater<>());
  if (c.group_score == GroupScore::kMax || members.size() == 1) return members[0];
  return members[0] + members[1];
}

// Selection scores with the experts of all but the best num_groups_kept groups at -infinity.
std::vector<double> limit_to_groups(const ModelConfig& c, std::vector<double> selection) {
  const auto width = static_cast<std::ptrdiff_t>(selection.size()) / c.num_expert_groups;
  std::vector<double> group_scores;
  for (int g = 0; g < c.num_expert_groups; ++g)
    group_scores.push_back(score_of_group(c, {selection.begin() + g * width, selection.begin() + (g + 1) * width}));
  const std::vector<int> kept = largest(group_scores, c.num_groups_kept);
  for (int g = 0; g < c.num_expert_groups; ++g)
    if (std::find(kept.begin(), kept.end(), g) == kept.end()) std::fill_n(selection.begin() + g * width, width, kOut);
  return selection;
}

// The sum of the `count` largest allowed selection scores of a node's experts; a node without one is out.
double score_of_node(std::span<const double> selection, const NodeLimit& limit, int node, int count) {
  std::vector<double> members;
  for (std::size_t e = 0; e < selection.size(); ++e)
    if (limit.expert2node[e] == node && selection[e] != kOut) members.push_back(selection[e]);
  if (members.empty()) return kOut;
  std::sort(members.begin(), members.end(), std::greater<>());
  members.resize(std::min(members.size(), static_cast<std::size_t>(count)));
  return std::accumulate(members.begin(), members.end(), 0.0);
}

// Selection scores with the experts of all but the best nodes at -infinity. Nodes are numbered from 0.
std::vector<double> limit_to_nodes(const ModelConfig& c, const NodeLimit& limit, std::vector<double> selection) {
  if (limit.expert2node.empty()) return selection;
  const int num_nodes = 1 + *std::max_element(limit.expert2node.begin(), limit.expert2node.end());
  const int count = (c.top_k + limit.num_kept - 1) / limit.num_kept;
  std::vector<double> node_scores;
  for (int n = 0; n < num_nodes; ++n) node_scores.push_back(score_of_node(selection, limit, n, count));
  const std::vector<int> kept = largest(node_scores, std::min(limit.num_kept, num_nodes));
  for (std::size_t e = 0; e < selection.size(); ++e)
    if (std::find(kept.begin(), kept.end(), limit.expert2node[e]) == kept.end()) selection[e] = kOut;
  if (std::count(selection.begin(), selection.end(), kOut) > static_cast<std::ptrdiff_t>(selection.size()) - c.top_k)
    throw std::invalid_argument("the nodes kept hold fewer than K allowed experts");
  return selection;
}

constexpr double kTinySum = 1e-20;

double sum_of_chosen(const Routing& r, std::int64_t t) {
  double sum = 0;
  for (const int e : r.experts[static_cast<std::size_t>(t)]) sum += r.scores_TE(t, e);
  return sum;
}

void set_gates(const ModelConfig& c, Routing& r) {
  r.gates_TK = Matrix(r.scores_TE.rows, c.top_k);
  for (std::int64_t t = 0; t < r.scores_TE.rows; ++t) {
    const double divisor = c.router_renormalize ? sum_of_chosen(r, t) + kTinySum : 1;
    for (int k = 0; k < c.top_k; ++k)
      r.gates_TK(t, k) =
          c.router_scale * r.scores_TE(t, r.experts[static_cast<std::size_t>(t)][static_cast<std::size_t>(k)]) / divisor;
  }
}

// d(score) of gate_k = scale * s_k / S with S = sum of the chosen + tiny: (dgate_k - sum_j dgate_j s_j / S) * scale / S.
Matrix gates_backward(const ModelConfig& c, const Routing& r, const Matrix& dgates_TK) {
  Matrix ds(r.scores_TE.rows, r.scores_TE.cols);
  for (std::int64_t t = 0; t < ds.rows; ++t) {
    const std::vector<int>& chosen = r.experts[static_cast<std::size_t>(t)];
    const double divisor = c.router_renormalize ? sum_of_chosen(r, t) + kTinySum : 1;
    double mean = 0;
    for (int k = 0; k < c.top_k && c.router_renormalize; ++k)
      mean += dgates_TK(t, k) * r.scores_TE(t, chosen[static_cast<std::size_t>(k)]) / divisor;
    for (int k = 0; k < c.top_k; ++k)
      ds(t, chosen[static_cast<std::size_t>(k)]) += c.router_scale * (dgates_TK(t, k) - mean) / divisor;
  }
  return ds;
}

// softmax: dz_e = s_e (ds_e - sum_i s_i ds_i);  sigmoid: dz_e = s_e (1 - s_e) ds_e
Matrix scores_backward(const ModelConfig& c, const Matrix& s, const Matrix& ds) {
  Matrix dz(s.rows, s.cols);
  for (std::int64_t t = 0; t < s.rows; ++t) {
    double mean = 0;
    for (std::int64_t e = 0; e < s.cols; ++e) mean += s(t, e) * ds(t, e);
    for (std::int64_t e = 0; e < s.cols; ++e)
      dz(t, e) = c.router_score == Score::kSoftmax ? s(t, e) * (ds(t, e) - mean) : s(t, e) * (1 - s(t, e)) * ds(t, e);
  }
  return dz;
}

// One balance loss over the tokens begin .. begin + n:  alpha * sum_i f_i P_i,  P_i = mean of s_ti / sum_j s_tj.
struct Segment {
  double alpha;
  std::int64_t begin, n;
  std::vector<double> f;
};

std::vector<Segment> segments_of(const ModelConfig& c, const Routing& r, const Balance& b, double ReferenceLoss::*which) {
  const auto T = r.scores_TE.rows;
  const double E = c.num_experts, K = c.top_k, alpha = b.coefficient.*which;
  if (alpha == 0) return {};
  std::vector<Segment> segments;
  if (which == &ReferenceLoss::aux) {
    segments.push_back({alpha * E, 0, T, {}});
    for (const std::int64_t n : r.counts) segments[0].f.push_back(static_cast<double>(n) / (static_cast<double>(T) * K));
  } else if (which == &ReferenceLoss::global_aux) {
    segments.push_back({alpha * E, 0, T, {b.global_f.begin(), b.global_f.end()}});
  } else {
    for (std::int64_t s = 0; s < b.num_seqs; ++s) {
      std::vector<double> f(static_cast<std::size_t>(c.num_experts), 0.0);
      for (std::int64_t t = s * b.seq_len; t < (s + 1) * b.seq_len; ++t)
        for (const int e : largest(row_of(r.scores_TE, t), c.top_k)) f[static_cast<std::size_t>(e)] += E / (K * b.seq_len);
      segments.push_back({alpha / b.num_seqs, s * b.seq_len, b.seq_len, f});
    }
  }
  return segments;
}

struct RowSums {
  double s = 0, fs = 0;  // sum_i s_i, sum_i f_i s_i
};
RowSums row_sums(const Segment& g, const Matrix& s, std::int64_t t) {
  RowSums sums;
  for (std::int64_t e = 0; e < s.cols; ++e) {
    sums.s += s(t, e);
    sums.fs += g.f.at(static_cast<std::size_t>(e)) * s(t, e);
  }
  return sums;
}

double segment_loss(const Segment& g, const Matrix& s) {
  double sum = 0;
  for (std::int64_t t = g.begin; t < g.begin + g.n; ++t) sum += row_sums(g, s, t).fs / row_sums(g, s, t).s;
  return g.alpha * sum / static_cast<double>(g.n);
}

// d/ds_e of sum_i f_i s_i / S = f_e / S - (sum_i f_i s_i) / S^2;   ds +=
void add_segment_backward(const Segment& g, const Matrix& s, Matrix& ds) {
  for (std::int64_t t = g.begin; t < g.begin + g.n; ++t) {
    const RowSums sums = row_sums(g, s, t);
    for (std::int64_t e = 0; e < s.cols; ++e)
      ds(t, e) +=
          g.alpha / static_cast<double>(g.n) * (g.f[static_cast<std::size_t>(e)] / sums.s - sums.fs / (sums.s * sums.s));
  }
}

double z_loss(const Matrix& logits, double coefficient) {
  double sum = 0;
  for (std::int64_t t = 0; t < logits.rows; ++t) sum += std::pow(log_sum_exp(row_of(logits, t)), 2);
  return coefficient * sum / static_cast<double>(logits.rows);
}

// d lse^2 / dz = 2 lse softmax(z);   dz +=
void add_z_backward(const Matrix& logits, double coefficient, Matrix& dz) {
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    const std::vector<double> z = row_of(logits, t), p = softmax(z);
    for (std::int64_t e = 0; e < logits.cols; ++e)
      dz(t, e) += coefficient * 2 * log_sum_exp(z) * p[static_cast<std::size_t>(e)] / static_cast<double>(logits.rows);
  }
}

}  // namespace

std::vector<int> largest(std::span<const double> score, int K) {
  std::vector<int> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)]; });
  order.resize(static_cast<std::size_t>(K));
  return order;
}

Routing route(const ModelConfig& c, const Matrix& logits_TE, std::span<const double> bias, const NodeLimit& limit) {
  Routing r;
  r.logits_TE = logits_TE;
  r.scores_TE = router_scores(c, logits_TE);
  r.counts.assign(static_cast<std::size_t>(c.num_experts), 0);
  for (std::int64_t t = 0; t < logits_TE.rows; ++t) {
    std::vector<double> selection = row_of(r.scores_TE, t);
    for (std::size_t e = 0; e < bias.size(); ++e) selection[e] += bias[e];
    r.experts.push_back(largest(limit_to_nodes(c, limit, limit_to_groups(c, selection)), c.top_k));
    for (const int e : r.experts.back()) ++r.counts[static_cast<std::size_t>(e)];
  }
  set_gates(c, r);
  return r;
}

void add_balance_terms(const ModelConfig& c, const Routing& r, const Balance& b, ReferenceTerms& terms) {
  for (const Segment& g : segments_of(c, r, b, &ReferenceLoss::aux)) terms.aux += segment_loss(g, r.scores_TE);
  for (const Segment& g : segments_of(c, r, b, &ReferenceLoss::seq_aux)) terms.seq_aux += segment_loss(g, r.scores_TE);
  for (const Segment& g : segments_of(c, r, b, &ReferenceLoss::global_aux)) terms.global_aux += segment_loss(g, r.scores_TE);
  terms.z += z_loss(r.logits_TE, b.coefficient.z);
}

Matrix route_backward(const ModelConfig& c, const Routing& r, const Matrix& dgates_TK, const Balance& b) {
  Matrix ds = gates_backward(c, r, dgates_TK);
  for (const auto which : {&ReferenceLoss::aux, &ReferenceLoss::seq_aux, &ReferenceLoss::global_aux})
    for (const Segment& g : segments_of(c, r, b, which)) add_segment_backward(g, r.scores_TE, ds);
  Matrix dz = scores_backward(c, r.scores_TE, ds);
  add_z_backward(r.logits_TE, b.coefficient.z, dz);
  return dz;
}

}  // namespace moe::reference
