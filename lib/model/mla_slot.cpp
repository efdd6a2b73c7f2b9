#include "lib/model/mla_slot.h"

namespace moe {
namespace {

struct Widths {
  std::int64_t queries, keys, values, up;  // H*S, H*S, H*Sv, H*(N+Sv)
  explicit Widths(const ModelConfig& c)
      : queries(std::int64_t{c.num_heads} * c.qk_dim()),
        keys(queries),
        values(std::int64_t{c.num_heads} * c.v_head_dim),
        up(std::int64_t{c.num_heads} * (c.qk_nope_head_dim + c.v_head_dim)) {}
};

}  // namespace

void MlaTaker::take_cheap(MlaSlot& s) const {
  const Widths w(c);
  s.kvn_TC = tokens(c.kv_lora_rank);
  s.k_TC = tokens(w.keys);
  s.v_TC = tokens(w.values);
  if (c.q_lora_rank == 0) return;
  s.qn_TQ = tokens(c.q_lora_rank);
  s.q_TC = tokens(w.queries);
}

void MlaTaker::take_kept(MlaSlot& s) const {
  s.kva_TC = tokens(c.kv_lora_rank + c.qk_rope_head_dim);
  s.rstd_kv_T = arena.vector<float>(T);
  if (c.q_lora_rank == 0) {
    s.q_TC = tokens(Widths(c).queries);
    return;
  }
  s.qa_TQ = tokens(c.q_lora_rank);
  s.rstd_q_T = arena.vector<float>(T);
}

MlaStash MlaTaker::take_stash() const {
  const Widths w(c);
  MlaStash s;
  s.dq_TC = tokens(w.queries);
  s.dkv_TC = tokens(w.up);
  s.dkvn_TC = tokens(c.kv_lora_rank);
  s.dkva_TC = tokens(c.kv_lora_rank + c.qk_rope_head_dim);
  if (c.q_lora_rank == 0) return s;
  s.dqn_TQ = tokens(c.q_lora_rank);
  s.dqa_TQ = tokens(c.q_lora_rank);
  return s;
}

MlaWork MlaTaker::take_work(bool generates) const {
  const Widths w(c);
  MlaWork m{.kv_TC = tokens(w.up), .dk_TC = tokens(w.keys), .dv_TC = tokens(w.values), .absorbed_q = {}, .absorbed_o = {}};
  if (!generates) return m;
  m.absorbed_q = tokens(std::int64_t{c.num_heads} * (c.kv_lora_rank + c.qk_rope_head_dim));
  m.absorbed_o = tokens(std::int64_t{c.num_heads} * c.kv_lora_rank);
  return m;
}

void copy_cheap(const MlaSlot& from, MlaSlot& to, const ModelConfig& c) {
  to.kvn_TC = from.kvn_TC;
  to.k_TC = from.k_TC;
  to.v_TC = from.v_TC;
  if (c.q_lora_rank == 0) return;
  to.qn_TQ = from.qn_TQ;
  to.q_TC = from.q_TC;
}

}  // namespace moe
