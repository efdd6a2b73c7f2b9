// Rows of what lies around the experts' linear maps: SwiGLU in both forms, biases with the router's gate. Bound by memory,
// as bench_row_ops.cpp.
#include "lib/run/bench_rows.h"

namespace moe {
namespace {

struct Swiglu {
  Env env;
  SwigluShape form;
  std::int64_t R, F;
  struct Set {
    Mat gu, h, dgu;
    std::span<float> gate, dgate;
  };
  Set take(Operands& o) const { return {o.matrix(R, 2 * F), o.matrix(R, F), o.matrix(R, 2 * F), o.floats(R), o.floats(R)}; }
  void forward(const Set& s) const { env.kernels.swiglu.forward(env.stream, form, s.gu, s.gate.data(), s.h); }
  void backward(const Set& s) const {  // h serves as dh
    env.kernels.swiglu.backward_input(env.stream, form, s.h, s.gu, s.gate.data(), s.dgu, s.dgate.data());
  }
  double gate(const Set& s, std::int64_t i) const { return s.gate[static_cast<std::size_t>(i)]; }

  struct Term {
    double value, dg, du;
  };
  Term term(double g, double u) const {
    const bool clamped = form.limit > 0;
    const double limit = clamped ? double{form.limit} : INFINITY, alpha = clamped ? 1.702 : 1, more = clamped ? 1 : 0;
    const double z = std::fmin(g, limit), up = std::fmax(-limit, std::fmin(u, limit)) + more,
                 a = 1 / (1 + std::exp(-alpha * z));
    return {z * a * up, g > limit ? 0 : up * a * (1 + alpha * z * (1 - a)), std::fabs(u) > limit ? 0 : z * a};
  }

  double forward_error(Sets<Set>& all) const {
    forward(all.front());
    const Set& s = all.pulled();
    return error_of_rows(s.h, [&](std::int64_t i) {
      const Values gu = row_of(s.gu, i);
      Values h(static_cast<std::size_t>(F));
      for (std::size_t j = 0; j < h.size(); ++j) h[j] = gate(s, i) * term(gu[j], gu[j + h.size()]).value;
      return h;
    });
  }
  double backward_error(Sets<Set>& all) const {
    backward(all.front());
    const Set& s = all.pulled();
    return error_of_rows(s.dgu, [&](std::int64_t i) {
      const Values gu = row_of(s.gu, i), dh = row_of(s.h, i);
      Values want(gu.size());
      for (std::size_t j = 0; j < dh.size(); ++j) {
        const Term t = term(gu[j], gu[j + dh.size()]);
        want[j] = gate(s, i) * dh[j] * t.dg;
        want[j + dh.size()] = gate(s, i) * dh[j] * t.du;
      }
      return want;
    });
  }
};

void add_swiglu(const BenchTarget& t, const std::string& name, SwigluShape form, std::vector<BenchEntry>& list) {
  using Set = Swiglu::Set;
  const Swiglu w{t.env, form, t.shape.num_tokens() * t.config.top_k, t.config.expert_ffn};
  const double element = t.element() * static_cast<double>(w.R * w.F);
  const auto take = [w](Operands& o) { return w.take(o); };
  list.push_back({name + "/forward", dims({w.R, w.F}), [=] {  // reads gu (2 F), writes h
                    return bytes_case(
                        t, 3 * element, take, [w](const Set& s) { w.forward(s); },
                        [w](Sets<Set>& all) { return w.forward_error(all); });
                  }});
  list.push_back({name + "/backward_input", dims({w.R, w.F}), [=] {  // reads dh, gu, writes dgu
                    return bytes_case(
                        t, 5 * element, take, [w](const Set& s) { w.backward(s); },
                        [w](Sets<Set>& all) { return w.backward_error(all); });
                  }});
}

// Of the experts' second map.
struct Bias {
  Env env;
  std::int64_t R, D;
  int E;
  std::vector<std::int64_t> psum = expert_rows(ExpertLoad::kBalanced, R, E);
  struct Set {
    Mat y, b, db;
    std::span<float> gate, dgate;
    std::span<const std::int64_t> psum;
  };
  Set take(Operands& o) const {
    return {o.matrix(R, D), o.matrix(E, D), o.matrix_f32(E, D), o.floats(R), o.floats(R), o.copy_of(psum)};
  }
  void forward(const Set& s) const { env.kernels.bias.forward(env.stream, s.b, s.psum, s.gate.data(), s.y, Store::kAssign); }
  void gate(const Set& s) const { env.kernels.bias.backward_gate(env.stream, s.y, s.b, s.psum, s.dgate.data()); }
  void weight(const Set& s) const { env.kernels.bias.backward_weight(env.stream, s.y, s.psum, s.gate.data(), s.db); }

  std::int64_t expert_of(std::int64_t row) const {
    return std::upper_bound(psum.begin(), psum.end(), row) - psum.begin() - 1;
  }
  double forward_error(Sets<Set>& all) const {
    forward(all.front());
    const Set& s = all.pulled();
    return error_of_rows(s.y, [&](std::int64_t i) {
      Values want = row_of(s.b, expert_of(i));
      for (double& v : want) v *= double{s.gate[static_cast<std::size_t>(i)]};
      return want;
    });
  }
  double gate_error(Sets<Set>& all) const {
    all.change([](const Set& s) { std::fill(s.dgate.begin(), s.dgate.end(), 0.0f); });
    gate(all.front());
    const Set& s = all.pulled();
    return error_of_rows(mat(s.dgate.data(), R, 1), [&](std::int64_t i) {
      const Values y = row_of(s.y, i), b = row_of(s.b, expert_of(i));
      double sum = 0, size = 0;
      for (std::size_t j = 0; j < y.size(); ++j) sum += y[j] * b[j], size += std::fabs(y[j] * b[j]);
      return Values{std::fabs(sum) > 1e-2 * size ? sum : double{s.dgate[static_cast<std::size_t>(i)]}};  // else it cancels
    });
  }
  double weight_error(Sets<Set>& all) const {
    all.change([this](const Set& s) { std::fill_n(s.db.f32(), E * D, 0.0f); });
    weight(all.front());
    const Set& s = all.pulled();
    return error_of_rows(s.db, [&](std::int64_t e) {
      Values want(static_cast<std::size_t>(D));
      for (std::int64_t r = psum[static_cast<std::size_t>(e)]; r < psum[static_cast<std::size_t>(e) + 1]; ++r) {
        const Values y = row_of(s.y, r);
        for (std::size_t j = 0; j < want.size(); ++j) want[j] += double{s.gate[static_cast<std::size_t>(r)]} * y[j];
      }
      return want;
    });
  }
};

void add_bias(const BenchTarget& t, std::vector<BenchEntry>& list) {
  using Set = Bias::Set;
  const Bias w{t.env, t.shape.num_tokens() * t.config.top_k, t.config.d_model, t.config.num_experts};
  const double bytes = t.element() * static_cast<double>(w.R * w.D);  // of the rows, which are written or read once
  const auto take = [w](Operands& o) { return w.take(o); };
  const auto add = [&](const char* name, auto run, auto error) {
    list.push_back({name, dims({w.R, w.D, w.E}), [=] {
                      return bytes_case(
                          t, bytes, take, [=](const Set& s) { (w.*run)(s); },
                          [=](Sets<Set>& all) { return (w.*error)(all); });
                    }});
  };
  add("bias/forward", &Bias::forward, &Bias::forward_error);
  add("bias/backward_gate", &Bias::gate, &Bias::gate_error);
  add("bias/backward_weight", &Bias::weight, &Bias::weight_error);
}

}  // namespace

std::vector<BenchEntry> ffn_op_entries(const BenchTarget& t) {
  std::vector<BenchEntry> list;
  add_swiglu(t, "swiglu", {}, list);
  add_swiglu(t, "swiglu_clamped", {.limit = 0.5f}, list);  // operands lie in [-1, 1]
  add_bias(t, list);
  return list;
}

}  // namespace moe
