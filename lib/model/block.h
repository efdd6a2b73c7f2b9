// A decoder block as a list of segments {pre, dispatch, experts, combine}, each with forward, backward_input and
// backward_weight (DESIGN 2 and 5). The lanes alternate compute and communication; where all experts are here the
// two communication segments only reorder rows. F fills the slot; I writes activation gradients (=; the residual stream +=)
// and stashes what W needs; W adds parameter gradients (+=) and needs nobody else.
// Not here: the mathematics (kernels/), memory (slot.h), the order of blocks (model.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/model/kv_cache.h"
#include "lib/model/params.h"
#include "lib/model/slot.h"
#include "lib/model/tally.h"

namespace moe {

// Tables of the rotary embedding and the position of each row.
struct RopeTables {
  std::span<float> cos_PR2, sin_PR2;
  std::span<std::int32_t> pos_T;
};

// One micro-batch on its way through a model.
struct MicroBatch {
  BatchShape shape;
  std::span<const std::int32_t> id_T, target_T;  // target -1: not counted
  const std::int32_t* doc_start_T = nullptr;     // see AttentionKernels; nullptr: no document masking
  double loss_scale = 1;                         // 1 / counted tokens of the global batch
  float share = 1;                               // of the global batch, for losses that are means over micro-batches
  bool with_gradient = true;
  bool tally = true;                 // count this forward (false for evaluation and recomputation)
  bool last_of_step = true;          // the gradients are complete after it
  const CacheStep* cache = nullptr;  // the tokens go behind those in a cache (Pass::extend)
  // Of each module of multi-token prediction: factor of its summed cross-entropy in the total loss, weight / (modules x its
  // counted targets of the global batch). Empty: 0.
  std::span<const double> mtp_scale_D{};
};

// What the host plans rows with where experts are on other ranks, one layer at a time (the lane's).
struct PlanRooms {
  explicit PlanRooms(const Device& d) : idx_TK(d), slot2row(d), gate_TK(d), gate_R(d), dgate_R(d), dgate_TK(d) {}
  HostRoom idx_TK, slot2row, gate_TK, gate_R, dgate_R, dgate_TK;
};

struct BlockContext {
  Env env;
  const ModelConfig& config;
  const BalanceOptions& balance;
  BlockParams params;
  int layer;
  bool is_dense;
  Recompute recompute;
  RopeTables rope;
  std::span<const float> router_bias_E;  // of the device; empty without router_bias
  BlockWork& work;
  BlockStash& stash;
  RoutingTally* tally;  // nullptr in dense blocks
  const TallyRoom& tally_room;
  Dispatcher* dispatcher;  // nullptr: all experts are here
  Stream& lane_stream;     // of the communication segments, if there is a dispatcher
  PlanRooms& plan_rooms;   // the same
  std::size_t expert_map;  // the dispatcher's, of this layer
  std::span<const std::int32_t> expert2node;
  int num_nodes;
  int window;  // of attention; 0: everything before

  RouterShape router_shape() const;  // with the limit of nodes, if there is one

  AttentionShape attention_shape(const BatchShape& shape) const;  // without sinks
  SwigluShape swiglu_shape() const { return {.limit = config.swiglu_limit}; }
  RopeShape rope_shape(int head_dim, int first) const;  // columns [first, head_dim) of each head
  int plain_ffn() const { return is_dense ? config.dense_ffn : config.num_shared_experts * config.expert_ffn; }
};

enum class Lane : std::uint8_t { kCompute, kComm };

// x2_TD: the block's output, which is the next block's x0_TD. dx_TD: gradient of the residual stream, of x2 on entry
// of the last segment, of x0 on exit of the first.
struct SegmentArgs {
  const BlockContext& block;
  const MicroBatch& batch;
  BlockSlot& slot;
  Mat x2_TD;
  Mat dx_TD;
};
struct Segment {
  const char* name;
  Lane lane;
  void (*forward)(const SegmentArgs&);
  void (*backward_input)(const SegmentArgs&);
  void (*backward_weight)(const SegmentArgs&);
  // What may run before the communication in front of the segment is done: the SwiGLU that every token passes.
  void (*forward_ahead)(const SegmentArgs&);
  void (*backward_input_ahead)(const SegmentArgs&);
};

extern const Segment kPre, kDispatch, kExperts, kCombine;
inline const Segment* const kBlockSegments[] = {&kPre, &kDispatch, &kExperts, &kCombine};

// The attention half of `pre`: x1 = x0 + Wo core(norm(x0)). Used by pre alone.
void attention_forward(const SegmentArgs&);
void attention_backward_input(const SegmentArgs&);  // dx_TD: of x1 on entry, of x0 on exit
void attention_backward_weight(const SegmentArgs&);

// What lies between the norm and Wo: slot.n1 -> slot.o; work.do -> stash.dn1 (=); W does not touch norm and Wo.
struct AttentionCore {
  void (*forward)(const SegmentArgs&);
  void (*backward_input)(const SegmentArgs&);
  void (*backward_weight)(const SegmentArgs&);
};
extern const AttentionCore kGqaCore, kMlaCore;  // gqa.cpp, mla.cpp

// The same over the cache of batch.cache (cache_attention.cpp), from what the cores have projected and turned -> slot.o.
void gqa_over_cache(const SegmentArgs&, const AttentionShape&, Mat q, Mat k, Mat v);
void append_latent(const SegmentArgs&, Mat normed, Mat key_part);  // [T, C], [T, R] into the cache
void mla_over_cache(const SegmentArgs&);                           // slot.mla.q alone
void mla_prefill(const SegmentArgs&);                              // slot.mla.q, k, v of sequences that begin
LatentShape latent_shape(const ModelConfig& config);

// The router half of `pre`: n2 = norm(x1), scores, choice, plan.
void router_forward(const SegmentArgs&);
void router_backward_input(
    const SegmentArgs&);  // work.dgate_TK -> stash.dlogits; stash.dn2 +=; balance losses into the tally
void router_backward_weight(const SegmentArgs&);

}  // namespace moe
