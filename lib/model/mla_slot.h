// What latent attention keeps in a slot, leaves from I to W, and works in (see slot.h). Widths: C = kv_lora_rank, Q =
// q_lora_rank, R = qk_rope_head_dim, H heads of S for queries and keys and Sv for values, N = S - R.
// Not here: the mathematics (mla.cpp).
#pragma once

#include "lib/model/config.h"
#include "lib/tensor/arena.h"

namespace moe {

// The norms and the up-projections are cheap beside what they take: the light policy computes them again, as DeepSeek-V3
// does (report, 3.2.3). Queries that are not compressed have no up-projection and are kept.
struct MlaSlot {
  Mat qa_TQ, kva_TC;  // compressed, before their norms; kva_TC [T, C + R]: its last R columns are the turned key part
  std::span<float> rstd_q_T, rstd_kv_T;
  Mat q_TC;                       // [T, H*S], turned
  Mat qn_TQ, kvn_TC, k_TC, v_TC;  // normed [T, Q] and [T, C]; keys [T, H*S], values [T, H*Sv]
};
struct MlaStash {
  Mat dq_TC, dqn_TQ, dqa_TQ;     // dq_TC [T, H*S]
  Mat dkv_TC, dkvn_TC, dkva_TC;  // [T, H*(N+Sv)], [T, C], [T, C + R]
};
struct MlaWork {
  Mat kv_TC, dk_TC, dv_TC;     // the up-projection [T, H*(N+Sv)]; [T, H*S], [T, H*Sv]
  Mat absorbed_q, absorbed_o;  // of generation alone: [T, H*(C+R)], [T, H*C]
};

// Gives out padded matrices of T rows.
struct MlaTaker {
  Arena& arena;
  const ModelConfig& c;
  DType dtype;
  std::int64_t T;

  void take_cheap(MlaSlot& s) const;  // what the light policy computes again
  void take_kept(MlaSlot& s) const;
  MlaStash take_stash() const;
  MlaWork take_work(bool generates) const;

 private:
  Mat tokens(std::int64_t cols) const { return arena.padded_matrix(dtype, T, cols); }
};
void copy_cheap(const MlaSlot& from, MlaSlot& to, const ModelConfig& config);

// fit(view) for every view.
template <class Fit>
void fit_all(MlaSlot& s, const Fit& fit) {
  fit.all(s.qa_TQ, s.kva_TC, s.rstd_q_T, s.rstd_kv_T, s.q_TC, s.qn_TQ, s.kvn_TC, s.k_TC, s.v_TC);
}
template <class Fit>
void fit_all(MlaStash& s, const Fit& fit) {
  fit.all(s.dq_TC, s.dqn_TQ, s.dqa_TQ, s.dkv_TC, s.dkvn_TC, s.dkva_TC);
}
template <class Fit>
void fit_all(MlaWork& w, const Fit& fit) {
  fit.all(w.kv_TC, w.dk_TC, w.dv_TC, w.absorbed_q, w.absorbed_o);
}

}  // namespace moe
