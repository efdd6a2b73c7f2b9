#include "tests/reference_mtp.h"

namespace moe::reference {
namespace {

// Index of token i+ahead, if it is one of the sequence and the document of token i; else -1.
std::int64_t token_ahead(const ReferenceInput& in, std::int64_t t, int ahead) {
  if (t % in.seq_len + ahead >= in.seq_len) return -1;
  const auto i = static_cast<std::size_t>(t), j = i + static_cast<std::size_t>(ahead);
  return in.doc_start.empty() || in.doc_start[i] == in.doc_start[j] ? static_cast<std::int64_t>(j) : -1;
}

std::int64_t row_of_table(const MtpInput& m, std::int64_t t) {
  const std::int64_t ahead = token_ahead(m.in, t, m.k + 1);
  return ahead < 0 ? -1 : m.in.tokens[static_cast<std::size_t>(ahead)];
}

Matrix embedded(const MtpInput& m) {
  Matrix e(std::int64_t{m.in.num_seqs} * m.in.seq_len, m.c.d_model);
  for (std::int64_t t = 0; t < e.rows; ++t)
    for (std::int64_t d = 0; d < e.cols && row_of_table(m, t) >= 0; ++d)
      e(t, d) = m.embedding.w[row_of_table(m, t) * e.cols + d];
  return e;
}

Matrix normed(const MtpInput& m, const Matrix& h) {
  return join_columns(rmsnorm(embedded(m), m.weight("mtp.embedding_norm.weight"), 1, m.c.norm_eps),
                      rmsnorm(h, m.weight("mtp.hidden_norm.weight"), 1, m.c.norm_eps));
}

}  // namespace

Matrix mtp_join(const MtpInput& m, const Matrix& h) {
  return linear(normed(m, h), m.weight("mtp.projection.weight"), m.c.d_model);
}

Matrix mtp_join_backward(const MtpInput& m, const Matrix& dx, const Matrix& h) {
  const std::int64_t D = m.c.d_model;
  const Matrix d = linear_backward(dx, normed(m, h), m.weight("mtp.projection.weight"));
  const Matrix de = rmsnorm_backward(d.columns(0, D), embedded(m), m.weight("mtp.embedding_norm.weight"), 1, m.c.norm_eps);
  for (std::int64_t t = 0; t < de.rows; ++t)
    for (std::int64_t i = 0; i < D && row_of_table(m, t) >= 0; ++i) m.embedding.dw[row_of_table(m, t) * D + i] += de(t, i);
  return rmsnorm_backward(d.columns(D, D), h, m.weight("mtp.hidden_norm.weight"), 1, m.c.norm_eps);
}

std::vector<std::int32_t> mtp_targets(const ReferenceInput& in, int k) {
  std::vector<std::int32_t> targets(in.targets.size(), -1);
  for (std::size_t t = 0; t < targets.size(); ++t)
    if (const std::int64_t ahead = token_ahead(in, static_cast<std::int64_t>(t), k + 1); ahead >= 0)
      targets[t] = in.targets[static_cast<std::size_t>(ahead)];
  return targets;
}

}  // namespace moe::reference
