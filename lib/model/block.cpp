#include "lib/model/block.h"

#include <tuple>

#include "lib/model/linear.h"

namespace moe {
namespace {

// The routed rows of a buffer that has room for all.
Mat rows(const SegmentArgs& a, Mat m) { return m.slice_rows(0, a.slot.plan.num_rows); }

void norm2_forward(const SegmentArgs& a) {
  const BlockContext& b = a.block;
  b.env.kernels.rmsnorm.forward(b.env.stream, a.slot.x1_TD, b.params.ffn_norm->weight, 1, b.config.norm_eps, a.slot.n2_TD,
                                a.slot.rstd2_T.data());
}

// pre: attention, norm, router.
void pre_forward(const SegmentArgs& a) {
  attention_forward(a);
  norm2_forward(a);
  if (!a.block.is_dense) router_forward(a);
}

void pre_backward_input(const SegmentArgs& a) {
  const BlockContext& b = a.block;
  if (!b.is_dense) router_backward_input(a);
  b.env.kernels.rmsnorm.backward_input(b.env.stream, b.stash.dn2_TD, a.slot.x1_TD, b.params.ffn_norm->weight, 1,
                                       a.slot.rstd2_T.data(), a.dx_TD, Store::kAdd);
  attention_backward_input(a);
}

void pre_backward_weight(const SegmentArgs& a) {
  const BlockContext& b = a.block;
  if (b.recompute == Recompute::kLight) norm2_forward(a);
  if (!b.is_dense) router_backward_weight(a);
  b.env.kernels.rmsnorm.backward_weight(b.env.stream, b.stash.dn2_TD, a.slot.x1_TD, 1, a.slot.rstd2_T.data(),
                                        b.params.ffn_norm->grad.f32());
  attention_backward_weight(a);
}

// Of the device, as the host sees it: where that is one memory it is not copied, else it is in the room.
template <class T>
struct OnHost {
  Stream& stream;
  std::span<T> device, view;

  OnHost(Stream& s, std::span<T> d, HostRoom& room) : stream(s), device(d), view(s.is_cpu() ? d : room.of<T>(d.size())) {}
  void pull() {
    if (!stream.is_cpu()) stream.copy(view.data(), device.data(), device.size_bytes());
  }
  void push(std::size_t n) {
    if (!stream.is_cpu()) stream.copy(device.data(), view.data(), n * sizeof(T));
  }
};

// Memory for the rows that come, on a device where it is taken as it is needed (Pass): of all that has rows in this block.
void take_rows(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const Device& device = b.lane_stream.device();
  const std::int64_t n = s.plan.num_rows;
  for (const Mat& m : {s.x_RD, s.gu_R2F, s.h_RF, b.stash.dy_RD, b.stash.dgu_R2F, b.work.y_RD, b.work.dh_RF})
    commit_rows(device, m, n);
  for (const std::span<float> v : {s.gate_R, b.work.dgate_R})
    commit(device, v.data(), static_cast<std::size_t>(n) * sizeof(float));
}

// Who sends what to whom is the host's work, on the lane's stream: it waits once, for ids and gates.
void plan_with_others(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  RoutePlan& plan = s.plan;
  Stream& stream = b.lane_stream;
  PlanRooms& rooms = b.plan_rooms;
  OnHost<std::int32_t> idx_TK(stream, s.idx_TK, rooms.idx_TK), slot2row(stream, plan.slot2row_N, rooms.slot2row);
  OnHost<float> gate_TK(stream, s.gate_TK, rooms.gate_TK), gate_R(stream, s.gate_R, rooms.gate_R);
  idx_TK.pull(), gate_TK.pull();
  if (plan.num_dropped > 0) slot2row.pull();
  stream.synchronize();
  std::vector<std::int32_t> kept;
  if (plan.num_dropped > 0) {
    kept.assign(idx_TK.view.begin(), idx_TK.view.end());
    for (std::size_t i = 0; i < kept.size(); ++i)
      if (slot2row.view[i] < 0) kept[i] = -1;
  }
  b.dispatcher->plan(plan.num_dropped > 0 ? kept : idx_TK.view, gate_TK.view, b.config.top_k, *plan.route, gate_R.view,
                     b.expert_map);
  plan.num_rows = plan.route->num_rows;
  take_rows(a);
  gate_R.push(static_cast<std::size_t>(plan.num_rows));
  plan.psum_rows_L1 = plan.route->psum_rows_L1;
  if (stream.is_cpu()) return;
  plan.psum_rows_L1 = plan.psum_rows_room.first(plan.route->psum_rows_L1.size());
  stream.copy(plan.psum_rows_room.data(), plan.route->psum_rows_L1.data(), plan.psum_rows_L1.size_bytes());
}

// dispatch: rows to their experts, wherever they are; its transpose adds the rows' gradients up in the order of k.
void plan_rows(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  RoutePlan& plan = s.plan;
  if (!b.dispatcher) {
    plan.num_rows = plan.num_kept;
    plan.psum_rows_L1 = plan.psum_rows_E1;
    return b.env.kernels.permute.gather_values(b.env.stream, s.gate_TK.data(), plan.row2slot(), s.gate_R.data());
  }
  plan_with_others(a);
}

void dispatch_forward(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  if (b.is_dense) return;
  plan_rows(a);
  if (b.dispatcher)
    b.dispatcher->dispatch(*s.plan.route, s.n2_TD, rows(a, s.x_RD));
  else
    b.env.kernels.permute.gather(b.env.stream, s.n2_TD, s.plan.row2slot(), b.config.top_k, rows(a, s.x_RD));
}

void gates_from_others(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  OnHost<float> dgate_R(b.lane_stream, b.work.dgate_R.first(static_cast<std::size_t>(s.plan.num_rows)),
                        b.plan_rooms.dgate_R),
      dgate_TK(b.lane_stream, b.work.dgate_TK, b.plan_rooms.dgate_TK);
  dgate_R.pull();
  b.lane_stream.synchronize();
  b.dispatcher->return_gates(*s.plan.route, dgate_R.view, dgate_TK.view);
  dgate_TK.push(dgate_TK.device.size());
}

// dn2 already holds the gradient through the shared experts, if there are any.
void dispatch_backward_input(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  if (b.is_dense) return;
  const BlockWork& w = b.work;
  const Store store = b.plain_ffn() > 0 ? Store::kAdd : Store::kAssign;
  if (b.dispatcher) {
    b.dispatcher->combine(*s.plan.route, rows(a, w.y_RD), b.stash.dn2_TD, store);
    return gates_from_others(a);
  }
  b.env.kernels.permute.combine(b.env.stream, rows(a, w.y_RD), s.plan.slot2row_N, b.config.top_k, b.stash.dn2_TD, store);
  b.env.kernels.permute.return_values(b.env.stream, w.dgate_R.data(), s.plan.slot2row_N, w.dgate_TK.data());
}

// The SwiGLU that every token passes: shared experts, or the whole feed-forward of a dense block.
struct Plain {
  const SegmentArgs& a;
  const BlockContext& b = a.block;
  const Param& gate_up = b.is_dense ? *b.params.gate_up : *b.params.shared_gate_up;
  const Param& down = b.is_dense ? *b.params.down : *b.params.shared_down;
  Mat h = a.slot.h_TF.slice_cols(0, b.plain_ffn());
  Mat dh = b.work.dh_TF.slice_cols(0, b.plain_ffn());

  void activate() const { b.env.kernels.swiglu.forward(b.env.stream, b.swiglu_shape(), a.slot.gu_T2F, nullptr, h); }
  void forward() const {
    b.env.kernels.gemm.forward(b.env.stream, a.slot.n2_TD, gate_up.weight, a.slot.gu_T2F, Store::kAssign);
    activate();
    b.env.kernels.gemm.forward(b.env.stream, h, down.weight, a.x2_TD, Store::kAdd);
  }
  Mat dgu = b.stash.dgu_T2F.slice_cols(0, 2 * b.plain_ffn());

  void backward_input() const {  // dn2 (=)
    const GemmKernels& gemm = b.env.kernels.gemm;
    gemm.backward_input(b.env.stream, b.stash.dx2_TD, down.weight, dh, Store::kAssign);
    b.env.kernels.swiglu.backward_input(b.env.stream, b.swiglu_shape(), dh, a.slot.gu_T2F, nullptr, dgu, nullptr);
    gemm.backward_input(b.env.stream, dgu, gate_up.weight, b.stash.dn2_TD, Store::kAssign);
  }
  void backward_weight() const {
    if (b.recompute == Recompute::kLight) activate();
    b.env.kernels.gemm.backward_weight(b.env.stream, b.stash.dx2_TD, h, down.grad);
    b.env.kernels.gemm.backward_weight(b.env.stream, dgu, a.slot.n2_TD, gate_up.grad);
  }
};

// experts: y = Wd (gate * silu(g) * u) + gate * bias of each row; the residual stream moves on, with the shared experts'
// part.
void activate_experts(const SegmentArgs& a) {
  const BlockContext& b = a.block;
  b.env.kernels.swiglu.forward(b.env.stream, b.swiglu_shape(), rows(a, a.slot.gu_R2F), a.slot.gate_R.data(),
                               rows(a, a.slot.h_RF));
}

// y (=) x w^T + gate * bias of each row's expert; as linear_forward().
void experts_linear(const SegmentArgs& a, Mat x, const Param& w, const Param* bias, const float* gate_R, Mat y) {
  const auto& [stream, k] = a.block.env;
  const auto psum = a.slot.plan.psum_rows_L1;
  if (bias) k.bias.forward(stream, bias->weight, psum, gate_R, rows(a, y), Store::kAssign);
  k.grouped_gemm.forward(stream, rows(a, x), w.weight, psum, rows(a, y), bias ? Store::kAdd : Store::kAssign);
}
void experts_linear_backward_weight(const SegmentArgs& a, Mat dy, Mat x, const Param& w, const Param* bias,
                                    const float* gate_R) {
  const auto& [stream, k] = a.block.env;
  const auto psum = a.slot.plan.psum_rows_L1;
  k.grouped_gemm.backward_weight(stream, rows(a, dy), rows(a, x), psum, w.grad);
  if (bias) k.bias.backward_weight(stream, rows(a, dy), psum, gate_R, bias->grad);
}

void plain_forward(const SegmentArgs& a) {
  copy_tokens(a.block.env, a.slot.x1_TD, a.x2_TD);
  if (a.block.plain_ffn() > 0) Plain{a}.forward();
}

void experts_forward(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const BlockParams& p = b.params;
  if (b.is_dense || s.plan.num_rows == 0) return;
  experts_linear(a, s.x_RD, *p.expert_gate_up, p.expert_gate_up_bias, nullptr, s.gu_R2F);
  activate_experts(a);
  experts_linear(a, s.h_RF, *p.expert_down, p.expert_down_bias, s.gate_R.data(), b.work.y_RD);
}

// Keeps the gradient of the block's output for W, which comes after dx_TD has moved on.
void plain_backward_input(const SegmentArgs& a) {
  copy_tokens(a.block.env, a.dx_TD, a.block.stash.dx2_TD);
  if (a.block.plain_ffn() > 0) Plain{a}.backward_input();
}

// y_RD (=) gradient of the rows' inputs.
void experts_backward_input(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  if (b.is_dense || s.plan.num_rows == 0) return;
  const Mat dgu = rows(a, b.stash.dgu_R2F), dh = rows(a, b.work.dh_RF);
  k.grouped_gemm.backward_input(stream, rows(a, b.stash.dy_RD), b.params.expert_down->weight, s.plan.psum_rows_L1, dh,
                                Store::kAssign);
  k.swiglu.backward_input(stream, b.swiglu_shape(), dh, rows(a, s.gu_R2F), s.gate_R.data(), dgu, b.work.dgate_R.data());
  if (b.params.expert_down_bias)
    k.bias.backward_gate(stream, rows(a, b.stash.dy_RD), b.params.expert_down_bias->weight, s.plan.psum_rows_L1,
                         b.work.dgate_R.data());
  k.grouped_gemm.backward_input(stream, dgu, b.params.expert_gate_up->weight, s.plan.psum_rows_L1, rows(a, b.work.y_RD),
                                Store::kAssign);
}

void experts_backward_weight(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const BlockParams& p = b.params;
  if (b.recompute == Recompute::kLight) norm2_forward(a);
  if (b.plain_ffn() > 0) Plain{a}.backward_weight();
  if (b.is_dense || s.plan.num_rows == 0) return;
  if (b.recompute == Recompute::kLight) activate_experts(a);
  experts_linear_backward_weight(a, b.stash.dy_RD, s.h_RF, *p.expert_down, p.expert_down_bias, s.gate_R.data());
  experts_linear_backward_weight(a, b.stash.dgu_R2F, s.x_RD, *p.expert_gate_up, p.expert_gate_up_bias, nullptr);
}

// combine: x2 += sum over k, in the order of k; its transpose hands each row the gradient of its token.
void combine_forward(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  if (b.is_dense) return;
  if (b.dispatcher)
    b.dispatcher->combine(*s.plan.route, rows(a, b.work.y_RD), a.x2_TD, Store::kAdd);
  else
    b.env.kernels.permute.combine(b.env.stream, rows(a, b.work.y_RD), s.plan.slot2row_N, b.config.top_k, a.x2_TD,
                                  Store::kAdd);
}

void combine_backward_input(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  if (b.is_dense) return;
  if (b.dispatcher)
    b.dispatcher->dispatch(*s.plan.route, a.dx_TD, rows(a, b.stash.dy_RD));
  else
    b.env.kernels.permute.gather(b.env.stream, a.dx_TD, s.plan.row2slot(), b.config.top_k, rows(a, b.stash.dy_RD));
}

void nothing(const SegmentArgs&) {}

}  // namespace

const Segment kPre = {"pre", Lane::kCompute, pre_forward, pre_backward_input, pre_backward_weight, nothing, nothing};
const Segment kDispatch = {"dispatch", Lane::kComm, dispatch_forward, dispatch_backward_input, nothing, nothing, nothing};
const Segment kExperts = {
    "experts",     Lane::kCompute,      experts_forward, experts_backward_input, experts_backward_weight,
    plain_forward, plain_backward_input};
const Segment kCombine = {"combine", Lane::kComm, combine_forward, combine_backward_input, nothing, nothing, nothing};

}  // namespace moe
