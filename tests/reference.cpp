// The decoder of the specification: the order of the operations, forwards and backwards. The residual stream before
// each half block is all that is saved; backward recomputes the rest. See reference.h for formulas and choices.
#include "tests/reference.h"

#include <stdexcept>

#include "tests/reference_attention.h"
#include "tests/reference_mtp.h"
#include "tests/reference_ops.h"
#include "tests/reference_router.h"

namespace moe {
namespace {

using namespace reference;

// Everything that is fixed during one pass. `grads` is null in a forward pass.
struct Pass {
  const ModelConfig& c;
  const ReferenceParams& params;
  const ReferenceInput& in;
  const ReferenceLoss& loss;
  ReferenceParams* grads = nullptr;

  Weight weight(const std::string& name) const {
    const auto p = params.find(name);
    if (p == params.end()) throw std::invalid_argument("reference: no parameter " + name);
    return {p->second.data(), grads ? grads->at(name).data() : nullptr};
  }
  Weight weight(int layer, const std::string& name) const { return weight("layers." + std::to_string(layer) + "." + name); }
  std::string head_name() const { return c.tied_embeddings ? "embedding.weight" : "head.weight"; }
  std::int64_t num_tokens() const { return std::int64_t{in.num_seqs} * in.seq_len; }
};

Matrix embed(const Pass& p) {
  const Weight table = p.weight("embedding.weight");
  Matrix x(p.num_tokens(), p.c.d_model);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t d = 0; d < x.cols; ++d) x(t, d) = table.w[p.in.tokens.at(static_cast<std::size_t>(t)) * x.cols + d];
  return x;
}

void embed_backward(const Pass& p, const Matrix& dx) {
  const Weight table = p.weight("embedding.weight");
  for (std::int64_t t = 0; t < dx.rows; ++t)
    for (std::int64_t d = 0; d < dx.cols; ++d) table.dw[p.in.tokens[static_cast<std::size_t>(t)] * dx.cols + d] += dx(t, d);
}

// ---- attention half block -------------------------------------------------------------------------------------

AttentionInput attention_input(const Pass& p, int layer) {
  return {p.c,
          [&p, layer](const std::string& name) { return p.weight(layer, name); },
          p.in.num_seqs,
          p.in.seq_len,
          p.in.doc_start,
          layer};
}

Weight output_bias(const Pass& p, int layer) { return p.c.attention_bias ? p.weight(layer, "attn.o.bias") : Weight{}; }

Matrix attention_norm(const Pass& p, int layer, const Matrix& x) {
  return rmsnorm(x, p.weight(layer, "attn_norm.weight"), 1, p.c.norm_eps);
}

Matrix attention_part(const Pass& p, int layer, const Matrix& x) {
  const Matrix o = attention_core(attention_input(p, layer), attention_norm(p, layer, x));
  return linear(o, p.weight(layer, "attn.o.weight"), p.c.d_model, output_bias(p, layer));
}

Matrix attention_part_backward(const Pass& p, int layer, const Matrix& dy, const Matrix& x) {
  const AttentionInput in = attention_input(p, layer);
  const Matrix h = attention_norm(p, layer, x);
  const Matrix d_o = linear_backward(dy, attention_core(in, h), p.weight(layer, "attn.o.weight"), output_bias(p, layer));
  const Matrix dh = attention_core_backward(in, d_o, h);
  return rmsnorm_backward(dh, x, p.weight(layer, "attn_norm.weight"), 1, p.c.norm_eps);
}

// ---- feed-forward half block ----------------------------------------------------------------------------------

Balance balance_of(const Pass& p, int layer) {
  Balance b{p.loss, p.in.num_seqs, p.in.seq_len, {}};
  if (p.loss.global_aux != 0) b.global_f = p.in.global_f.at(static_cast<std::size_t>(layer));
  return b;
}

Weight logit_bias(const Pass& p, int layer) { return p.c.router_logit_bias ? p.weight(layer, "router.bias") : Weight{}; }

Routing routing_of(const Pass& p, int layer, const Matrix& h) {
  const auto bias = p.in.router_bias.find("layers." + std::to_string(layer) + ".router.bias");
  return route(p.c, linear(h, p.weight(layer, "router.weight"), p.c.num_experts, logit_bias(p, layer)),
               bias == p.in.router_bias.end() ? std::span<const double>() : bias->second,
               {p.in.expert2node, p.in.num_nodes_kept});
}

Swiglu expert(const Pass& p, int layer, int e) {
  const std::int64_t D = p.c.d_model, F = p.c.expert_ffn;
  Swiglu f{.gate_up = p.weight(layer, "experts.gate_up.weight").at(e * 2 * F * D),
           .down = p.weight(layer, "experts.down.weight").at(e * D * F),
           .F = F,
           .limit = p.c.swiglu_limit};
  if (!p.c.expert_bias) return f;
  f.gate_up_bias = p.weight(layer, "experts.gate_up.bias").at(e * 2 * F);
  f.down_bias = p.weight(layer, "experts.down.bias").at(e * D);
  return f;
}
Swiglu plain(const Pass& p, int layer, const std::string& name, std::int64_t F) {
  return {.gate_up = p.weight(layer, name + ".gate_up.weight"),
          .down = p.weight(layer, name + ".down.weight"),
          .F = F,
          .limit = p.c.swiglu_limit};
}
Swiglu shared(const Pass& p, int layer) {
  return plain(p, layer, "shared", std::int64_t{p.c.num_shared_experts} * p.c.expert_ffn);
}
Swiglu dense(const Pass& p, int layer) { return plain(p, layer, "mlp", p.c.dense_ffn); }

void add_row(Matrix& y, std::int64_t t, double factor, const Matrix& one) {
  for (std::int64_t d = 0; d < y.cols; ++d) y(t, d) += factor * one(0, d);
}

// y_t = sum over k of gate_tk * expert_{e(t,k)}(h_t), + shared(h_t)
Matrix mixture(const Pass& p, int layer, const Routing& r, const Matrix& h) {
  Matrix y(h.rows, h.cols);
  for (std::int64_t t = 0; t < h.rows; ++t)
    for (int k = 0; k < p.c.top_k; ++k) {
      const int e = r.experts[static_cast<std::size_t>(t)][static_cast<std::size_t>(k)];
      add_row(y, t, r.gates_TK(t, k), swiglu(h.row(t), expert(p, layer, e)));
    }
  if (p.c.num_shared_experts > 0) y += swiglu(h, shared(p, layer));
  return y;
}

Matrix mixture_backward(const Pass& p, int layer, const Matrix& dy, const Matrix& h) {
  const Routing r = routing_of(p, layer, h);
  Matrix dh(h.rows, h.cols), dgates(h.rows, p.c.top_k);
  for (std::int64_t t = 0; t < h.rows; ++t)
    for (int k = 0; k < p.c.top_k; ++k) {
      const Swiglu f = expert(p, layer, r.experts[static_cast<std::size_t>(t)][static_cast<std::size_t>(k)]);
      const Matrix y = swiglu(h.row(t), f);
      Matrix dy_k(1, h.cols);
      for (std::int64_t d = 0; d < h.cols; ++d) {
        dgates(t, k) += dy(t, d) * y(0, d);
        dy_k(0, d) = dy(t, d) * r.gates_TK(t, k);
      }
      add_row(dh, t, 1, swiglu_backward(dy_k, h.row(t), f));
    }
  dh += linear_backward(route_backward(p.c, r, dgates, balance_of(p, layer)), h, p.weight(layer, "router.weight"),
                        logit_bias(p, layer));
  if (p.c.num_shared_experts > 0) dh += swiglu_backward(dy, h, shared(p, layer));
  return dh;
}

void record(const Routing& r, ReferenceOutput& out) {
  out.counts.back() = r.counts;
  for (const std::vector<int>& chosen : r.experts)
    out.experts.back().insert(out.experts.back().end(), chosen.begin(), chosen.end());
  out.gates.back() = r.gates_TK.v;
}

Matrix ffn_part(const Pass& p, int layer, const Matrix& x, ReferenceOutput& out) {
  const Matrix h = rmsnorm(x, p.weight(layer, "ffn_norm.weight"), 1, p.c.norm_eps);
  out.counts.emplace_back(), out.experts.emplace_back(), out.gates.emplace_back();
  if (p.c.is_dense_layer(layer)) return swiglu(h, dense(p, layer));
  const Routing r = routing_of(p, layer, h);
  record(r, out);
  add_balance_terms(p.c, r, balance_of(p, layer), out.terms);
  return mixture(p, layer, r, h);
}

Matrix ffn_part_backward(const Pass& p, int layer, const Matrix& dy, const Matrix& x) {
  const Weight norm = p.weight(layer, "ffn_norm.weight");
  const Matrix h = rmsnorm(x, norm, 1, p.c.norm_eps);
  const Matrix dh = p.c.is_dense_layer(layer) ? swiglu_backward(dy, h, dense(p, layer)) : mixture_backward(p, layer, dy, h);
  return rmsnorm_backward(dh, x, norm, 1, p.c.norm_eps);
}

// ---- the decoder ----------------------------------------------------------------------------------------------

// The residual stream before each half block (2 L of them) and at the end.
using Residual = std::vector<Matrix>;

Residual forward(const Pass& p, ReferenceOutput& out) {
  Residual stream = {embed(p)};
  const auto add = [&](const Matrix& y) {
    stream.push_back(stream.back());
    stream.back() += y;
  };
  for (int layer = 0; layer < p.c.num_layers; ++layer) {
    add(attention_part(p, layer, stream.back()));
    add(ffn_part(p, layer, stream.back(), out));
  }
  const Matrix h = rmsnorm(stream.back(), p.weight("final_norm.weight"), 1, p.c.norm_eps);
  out.logits = linear(h, p.weight(p.head_name()), p.c.vocab_size).v;
  return stream;
}

// ---- multi-token prediction -----------------------------------------------------------------------------------

// What a module saw on its way: h^k, the residual stream of its block, h^(k+1).
struct Module {
  int layer;
  MtpInput in;
  std::vector<std::int32_t> targets;
  Matrix h, x0, x1, x2, next;
};

Module run_module(const Pass& p, int k, const Matrix& h, ReferenceOutput& out) {
  const int layer = p.c.num_layers + k;
  Module m{layer,
           {p.c, p.in, k, [&p, layer](const std::string& n) { return p.weight(layer, n); }, p.weight("embedding.weight")},
           mtp_targets(p.in, k),
           h,
           {},
           {},
           {},
           {}};
  m.x2 = m.x1 = m.x0 = mtp_join(m.in, h);
  m.x1 += attention_part(p, layer, m.x0);
  m.x2 = m.x1;
  m.x2 += ffn_part(p, layer, m.x1, out);
  m.next = rmsnorm(m.x2, p.weight(layer, "mtp.norm.weight"), 1, p.c.norm_eps);
  const Matrix logits = linear(m.next, p.weight(p.head_name()), p.c.vocab_size);
  out.mtp_logits.push_back(logits.v);
  out.terms.mtp.push_back(cross_entropy(logits, m.targets));
  out.terms.mtp_weighted += p.loss.mtp / p.c.num_mtp_layers * out.terms.mtp.back();
  return m;
}

std::vector<Module> run_modules(const Pass& p, const Residual& stream, ReferenceOutput& out) {
  std::vector<Module> modules;
  Matrix h = rmsnorm(stream.back(), p.weight("final_norm.weight"), 1, p.c.norm_eps);
  for (int k = 0; k < p.c.num_mtp_layers; ++k) {
    modules.push_back(run_module(p, k, h, out));
    h = modules.back().next;
  }
  return modules;
}

// dnext: of h^(k+1) through the module behind. Returns dh^k.
Matrix module_backward(const Pass& p, const Module& m, const Matrix& dnext) {
  const Matrix logits = linear(m.next, p.weight(p.head_name()), p.c.vocab_size);
  Matrix dlogits = cross_entropy_backward(logits, m.targets);
  for (double& d : dlogits.v) d *= p.loss.mtp / p.c.num_mtp_layers;
  Matrix d = linear_backward(dlogits, m.next, p.weight(p.head_name()));
  d += dnext;
  Matrix dx = rmsnorm_backward(d, m.x2, p.weight(m.layer, "mtp.norm.weight"), 1, p.c.norm_eps);
  dx += ffn_part_backward(p, m.layer, dx, m.x1);
  dx += attention_part_backward(p, m.layer, dx, m.x0);
  return mtp_join_backward(m.in, dx, m.h);
}

// ---- backwards ------------------------------------------------------------------------------------------------

void backward(const Pass& p, const Residual& stream, const std::vector<Module>& modules, const Matrix& dlogits) {
  const Weight norm = p.weight("final_norm.weight");
  const Matrix h = rmsnorm(stream.back(), norm, 1, p.c.norm_eps);
  Matrix dh(h.rows, h.cols);
  for (auto m = modules.rbegin(); m != modules.rend(); ++m) dh = module_backward(p, *m, dh);
  dh += linear_backward(dlogits, h, p.weight(p.head_name()));
  Matrix dx = rmsnorm_backward(dh, stream.back(), norm, 1, p.c.norm_eps);
  for (int layer = p.c.num_layers - 1; layer >= 0; --layer) {
    const auto at = static_cast<std::size_t>(2 * layer);
    dx += ffn_part_backward(p, layer, dx, stream[at + 1]);
    dx += attention_part_backward(p, layer, dx, stream[at]);
  }
  embed_backward(p, dx);
}

void check_sizes(const Pass& p) {
  const auto T = static_cast<std::size_t>(p.num_tokens());
  if (p.in.tokens.size() != T || p.in.targets.size() != T || (!p.in.doc_start.empty() && p.in.doc_start.size() != T))
    throw std::invalid_argument("reference: tokens, targets and doc_start must hold num_seqs * seq_len values");
  for (const ReferenceShape& s : reference_shapes(p.c)) {
    const auto param = p.params.find(s.name);
    if (param == p.params.end() || static_cast<std::int64_t>(param->second.size()) != s.size())
      throw std::invalid_argument("reference: parameter " + s.name + " must hold " + std::to_string(s.size()) + " values");
  }
}

Matrix logits_of(const Pass& p, const ReferenceOutput& out) {
  Matrix logits(p.num_tokens(), p.c.vocab_size);
  logits.v = out.logits;
  return logits;
}

}  // namespace

ReferenceOutput reference_forward(const ModelConfig& config, const ReferenceParams& params, const ReferenceInput& in,
                                  const ReferenceLoss& loss) {
  const Pass p{config, params, in, loss};
  check_sizes(p);
  ReferenceOutput out;
  run_modules(p, forward(p, out), out);
  out.terms.cross_entropy = cross_entropy(logits_of(p, out), in.targets);
  return out;
}

ReferenceOutput reference_run(const ModelConfig& config, const ReferenceParams& params, const ReferenceInput& in,
                              const ReferenceLoss& loss) {
  ReferenceOutput out;
  for (const auto& [name, values] : params) out.grads[name].assign(values.size(), 0.0);
  const Pass p{config, params, in, loss, &out.grads};
  check_sizes(p);
  const Residual stream = forward(p, out);
  const std::vector<Module> modules = run_modules(p, stream, out);
  out.terms.cross_entropy = cross_entropy(logits_of(p, out), in.targets);
  backward(p, stream, modules, cross_entropy_backward(logits_of(p, out), in.targets));
  return out;
}

}  // namespace moe
