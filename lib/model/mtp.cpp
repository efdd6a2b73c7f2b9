#include "lib/model/mtp.h"

#include <algorithm>

#include "lib/model/model.h"

namespace moe {
namespace {

// Positions i in [first, last) of a sequence that begins at `begin` have token i + ahead in their own document: calls
// use(first, count) for runs of them, in order.
template <class Use>
void for_each_run(const MicroBatch& batch, int ahead, Use use) {
  const std::int64_t S = batch.shape.seq_len;
  for (std::int64_t begin = 0; begin < batch.shape.num_tokens(); begin += S) {
    const std::int32_t* doc = batch.doc_start_T ? batch.doc_start_T + begin : nullptr;
    for (std::int64_t i = 0; i + ahead < S;) {
      std::int64_t end = S;  // of the document of i
      if (doc) end = std::find_if(doc + i, doc + S, [&](std::int32_t start) { return start != doc[i]; }) - doc;
      if (end - ahead > i) use(begin + i, end - ahead - i);
      i = end;
    }
  }
}

Mat embedding_half(Mat m_T2D) { return m_T2D.slice_cols(0, m_T2D.cols / 2); }
Mat hidden_half(Mat m_T2D) { return m_T2D.slice_cols(m_T2D.cols / 2, m_T2D.cols / 2); }

void zero_rows(Stream& stream, Mat m, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) stream.zero(m.row(i), static_cast<std::size_t>(m.cols) * size_of(m.dtype));
}

// joined (=): both norms, and 0 where there is no token.
void join(const MtpJoin& j) {
  const auto& [stream, k] = j.env;
  const Mat left = embedding_half(j.work.joined_T2D);
  std::int64_t done = 0;
  for (const MtpTokens::Run& run : j.tokens.runs) {
    zero_rows(stream, left, done, run.first);
    k.rmsnorm.forward(stream, j.embedded_TD.slice_rows(run.first + j.tokens.ahead, run.count),
                      j.params.mtp_embedding_norm->weight, 1, j.config.norm_eps, left.slice_rows(run.first, run.count),
                      j.work.rstd_embedding_T.data() + run.first);
    done = run.first + run.count;
  }
  zero_rows(stream, left, done, left.rows);
  k.rmsnorm.forward(stream, j.hidden_TD, j.params.mtp_hidden_norm->weight, 1, j.config.norm_eps,
                    hidden_half(j.work.joined_T2D), j.work.rstd_hidden_T.data());
}

}  // namespace

std::int64_t MtpTokens::num_counted() const {
  return std::count_if(target_T.begin(), target_T.end(), [](std::int32_t t) { return t >= 0; });
}

MtpTokens mtp_tokens(const MicroBatch& batch, int k) {
  MtpTokens tokens;
  tokens.ahead = k + 1;
  tokens.target_T.assign(static_cast<std::size_t>(batch.shape.num_tokens()), -1);
  for_each_run(batch, tokens.ahead, [&](std::int64_t first, std::int64_t count) {
    tokens.runs.push_back({first, count});
    std::copy_n(batch.target_T.begin() + first + tokens.ahead, count, tokens.target_T.begin() + first);
  });
  return tokens;
}

std::int64_t num_mtp_targets(const MicroBatch& batch, int k) {
  std::int64_t counted = 0;
  for_each_run(batch, k + 1, [&](std::int64_t first, std::int64_t count) {
    const auto begin = batch.target_T.begin() + first + k + 1;
    counted += std::count_if(begin, begin + count, [](std::int32_t t) { return t >= 0; });
  });
  return counted;
}

int num_modules(const PassOptions& options, const ModelConfig& config) {
  if (options.num_modules < 0) return options.training ? config.num_mtp_layers : 0;
  return std::min(options.num_modules, config.num_mtp_layers);
}

MtpSlot take_mtp_slot(Arena& arena, const MtpRoom& room) {
  const std::int64_t T = room.num_tokens, D = room.config.d_model;
  MtpSlot s;
  s.x_TD = arena.matrix(room.dtype, T, D);
  s.h_TD = arena.matrix(room.dtype, T, D);
  s.rstd_T = arena.vector<float>(T);
  if (room.training) s.dh_TD = arena.matrix(room.dtype, T, D);
  return s;
}

MtpWork take_mtp_work(Arena& arena, const MtpRoom& room) {
  const std::int64_t T = room.num_tokens, D = room.config.d_model;
  MtpWork w;
  w.joined_T2D = arena.padded_matrix(room.dtype, T, 2 * D);
  w.rstd_embedding_T = arena.vector<float>(T);
  w.rstd_hidden_T = arena.vector<float>(T);
  if (!room.training) return w;
  w.djoined_T2D = arena.padded_matrix(room.dtype, T, 2 * D);
  w.dembedded_TD = arena.matrix(room.dtype, T, D);
  return w;
}

MtpSlot fitted(MtpSlot s, std::int64_t num_tokens) {
  for (Mat* m : {&s.x_TD, &s.h_TD, &s.dh_TD}) m->rows = m->data ? num_tokens : 0;
  return s;
}

MtpWork fitted(MtpWork w, std::int64_t num_tokens) {
  for (Mat* m : {&w.joined_T2D, &w.djoined_T2D, &w.dembedded_TD}) m->rows = m->data ? num_tokens : 0;
  return w;
}

void mtp_join_forward(const MtpJoin& j, Mat x_TD) {
  join(j);
  j.env.kernels.gemm.forward(j.env.stream, j.work.joined_T2D, j.params.mtp_projection->weight, x_TD, Store::kAssign);
}

void mtp_join_backward(const MtpJoin& j, CMat dx_TD, Mat dhidden_TD) {
  const auto& [stream, k] = j.env;
  const MtpWork& w = j.work;
  join(j);
  k.gemm.backward_input(stream, dx_TD, j.params.mtp_projection->weight, w.djoined_T2D, Store::kAssign);
  k.gemm.backward_weight(stream, dx_TD, w.joined_T2D, j.params.mtp_projection->grad);
  const Mat dleft = embedding_half(w.djoined_T2D), dright = hidden_half(w.djoined_T2D);
  for (const auto& [first, count] : j.tokens.runs) {
    const Mat dy = dleft.slice_rows(first, count);
    const CMat embedded = j.embedded_TD.slice_rows(first + j.tokens.ahead, count);
    const float* rstd = w.rstd_embedding_T.data() + first;
    k.rmsnorm.backward_weight(stream, dy, embedded, 1, rstd, j.params.mtp_embedding_norm->grad.f32());
    k.rmsnorm.backward_input(stream, dy, embedded, j.params.mtp_embedding_norm->weight, 1, rstd,
                             w.dembedded_TD.slice_rows(first + j.tokens.ahead, count), Store::kAdd);
  }
  k.rmsnorm.backward_weight(stream, dright, j.hidden_TD, 1, w.rstd_hidden_T.data(), j.params.mtp_hidden_norm->grad.f32());
  k.rmsnorm.backward_input(stream, dright, j.hidden_TD, j.params.mtp_hidden_norm->weight, 1, w.rstd_hidden_T.data(),
                           dhidden_TD, Store::kAdd);
}

void mtp_norm_forward(const Env& env, const ModelConfig& c, const BlockParams& params, const MtpSlot& s) {
  env.kernels.rmsnorm.forward(env.stream, s.x_TD, params.mtp_norm->weight, 1, c.norm_eps, s.h_TD, s.rstd_T.data());
}

void mtp_norm_backward(const Env& env, const BlockParams& params, const MtpSlot& s, Mat dx_TD) {
  env.kernels.rmsnorm.backward_weight(env.stream, s.dh_TD, s.x_TD, 1, s.rstd_T.data(), params.mtp_norm->grad.f32());
  env.kernels.rmsnorm.backward_input(env.stream, s.dh_TD, s.x_TD, params.mtp_norm->weight, 1, s.rstd_T.data(), dx_TD,
                                     Store::kAssign);
}

}  // namespace moe
