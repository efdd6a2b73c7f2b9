// Rows of what works along rows of activations, and AdamW: rmsnorm, rope, cross entropy. Bound by memory, so their
// work is bytes: each operand element once per reading or writing, as the comment of each case says.
// Not here: SwiGLU and biases (bench_ffn_ops.cpp).
#include <cmath>
#include <cstring>

#include "lib/model/params.h"
#include "lib/run/bench_rows.h"

namespace moe {
namespace {

struct Norm {
  Env env;
  std::int64_t T, D;
  float eps;
  struct Set {
    Mat x, w, y, dy, dx;
    std::span<float> rstd, dw;
  };
  Set take(Operands& o) const {
    return {o.matrix(T, D), o.matrix(1, D), o.matrix(T, D), o.matrix(T, D), o.matrix(T, D), o.floats(T), o.floats(D)};
  }
  void forward(const Set& s) const { env.kernels.rmsnorm.forward(env.stream, s.x, s.w, 1, eps, s.y, s.rstd.data()); }
  void input(const Set& s) const {
    env.kernels.rmsnorm.backward_input(env.stream, s.dy, s.x, s.w, 1, s.rstd.data(), s.dx, Store::kAssign);
  }
  void weight(const Set& s) const {
    env.kernels.rmsnorm.backward_weight(env.stream, s.dy, s.x, 1, s.rstd.data(), s.dw.data());
  }

  double rstd(const Values& x) const {
    double squares = 0;
    for (const double v : x) squares += v * v;
    return 1 / std::sqrt(squares / static_cast<double>(D) + static_cast<double>(eps));
  }
  double forward_error(Sets<Set>& all) const {
    forward(all.front());
    const Set& s = all.pulled();
    return error_of_rows(s.y, [&](std::int64_t i) {
      Values x = row_of(s.x, i);
      const double r = rstd(x);
      for (std::size_t j = 0; j < x.size(); ++j) x[j] *= r * static_cast<double>(s.w.f32()[j]);
      return x;
    });
  }
  double input_error(Sets<Set>& all) const {
    forward(all.front());
    input(all.front());
    const Set& s = all.pulled();
    return error_of_rows(s.dx, [&](std::int64_t i) {
      const Values x = row_of(s.x, i);
      Values dx = row_of(s.dy, i);
      const double r = rstd(x);
      double mean = 0;
      for (std::size_t j = 0; j < x.size(); ++j) mean += (dx[j] *= static_cast<double>(s.w.f32()[j])) * x[j];
      for (std::size_t j = 0; j < x.size(); ++j) dx[j] = r * (dx[j] - x[j] * r * r * mean / static_cast<double>(D));
      return dx;
    });
  }
  double weight_error(Sets<Set>& all) const {
    forward(all.front());
    all.change([](const Set& s) { std::fill(s.dw.begin(), s.dw.end(), 0.0f); });  // dw +=
    weight(all.front());
    const Set& s = all.pulled();
    Values want(s.dw.size());
    for (std::int64_t i = 0; i < T; ++i) {
      const Values x = row_of(s.x, i), dy = row_of(s.dy, i);
      const double r = rstd(x);
      for (std::size_t j = 0; j < x.size(); ++j) want[j] += dy[j] * x[j] * r;
    }
    WorstDeviation worst;
    compare(s.dw, want, worst);
    return worst.value();
  }
};

void add_norm(const BenchTarget& t, std::vector<BenchEntry>& list) {
  using Set = Norm::Set;
  const Norm n{t.env, t.shape.num_tokens(), t.config.d_model, t.config.norm_eps};
  const double element = t.element() * static_cast<double>(n.T * n.D);
  const auto take = [n](Operands& o) { return n.take(o); };
  const std::string shape = dims({n.T, n.D});
  list.push_back({"rmsnorm/forward", shape, [=] {  // reads x, writes y
                    return bytes_case(
                        t, 2 * element, take, [n](const Set& s) { n.forward(s); },
                        [n](Sets<Set>& all) { return n.forward_error(all); });
                  }});
  list.push_back({"rmsnorm/backward_input", shape, [=] {  // reads dy, x, writes dx
                    return bytes_case(
                        t, 3 * element, take, [n](const Set& s) { n.input(s); },
                        [n](Sets<Set>& all) { return n.input_error(all); });
                  }});
  list.push_back({"rmsnorm/backward_weight", shape, [=] {  // reads dy, x
                    return bytes_case(
                        t, 2 * element, take, [n](const Set& s) { n.weight(s); },
                        [n](Sets<Set>& all) { return n.weight_error(all); });
                  }});
}

struct RopeSet {
  Mat x;
  std::span<std::int32_t> pos;
  std::span<float> cosine, sine;  // tables [seq_len, S/2]
};

// Random angles do as tables, and random positions; rotations keep x as large as it was, however often they are applied.
RopeSet take_rope(Operands& o, std::int64_t T, std::int64_t C, std::int64_t L, std::int64_t half) {
  RopeSet s{o.matrix(T, C), o.ints(T, L), o.floats(L * half), {}};
  s.sine = o.sines(s.cosine, L * half);
  return s;
}

// Heads that one call turns: q and k lie side by side; latent attention turns q.
std::int64_t rope_heads(const ModelConfig& c) { return c.is_mla() ? c.num_heads : c.num_heads + c.num_kv_heads; }

BenchCase rope_case(const BenchTarget& t) {
  const Env env = t.env;
  const ModelConfig& c = t.config;
  const RopeShape shape{.head_dim = c.qk_dim(), .first = c.qk_dim() - c.rope_dim(), .interleaved = c.rope_interleaved};
  const std::int64_t T = t.shape.num_tokens(), L = t.shape.seq_len, S = shape.head_dim, half = c.rope_dim() / 2;
  const std::int64_t C = rope_heads(c) * S;
  const auto take = [=](Operands& o) { return take_rope(o, T, C, L, half); };
  const auto run = [=](const RopeSet& s) {
    env.kernels.rope.forward(env.stream, s.x, shape, s.pos, s.cosine.data(), s.sine.data());
  };
  const auto error = [=](Sets<RopeSet>& all) {
    all.change([=](const RopeSet& s) {
      for (std::int64_t i = 0; i < T * C; ++i) s.x.f32()[i] = static_cast<float>(i % 97) / 97 - 0.5f;
    });
    const auto old = [C](std::int64_t i, std::int64_t j) {
      return static_cast<double>(static_cast<float>((i * C + j) % 97) / 97 - 0.5f);
    };
    run(all.front());
    const RopeSet& s = all.pulled();
    return error_of_rows(s.x, [&](std::int64_t i) {
      Values want(static_cast<std::size_t>(C));
      for (std::int64_t j = 0; j < C; ++j) {
        want[static_cast<std::size_t>(j)] = old(i, j);
        const std::int64_t r = j % S - shape.first;  // in the turned part
        if (r < 0) continue;
        const std::int64_t pair = shape.interleaved ? r / 2 : r % half, step = shape.interleaved ? 1 : half;
        const std::int64_t first = j - r + (shape.interleaved ? 2 * pair : pair);
        const auto at = static_cast<std::size_t>(s.pos[static_cast<std::size_t>(i)] * half + pair);
        const double a = old(i, first), b = old(i, first + step), cosine = s.cosine[at], sine = s.sine[at];
        want[static_cast<std::size_t>(j)] = j == first ? a * cosine - b * sine : b * cosine + a * sine;
      }
      return want;
    });
  };
  // Reads and writes q and k, or the turned part of q.
  return bytes_case(t, 2 * t.element() * static_cast<double>(T * rope_heads(c) * c.rope_dim()), take, run, error);
}

struct LossSet {
  Mat logits;
  std::span<std::int32_t> target;
};

// The gradient replaces the logits; any numbers are logits again.
BenchCase cross_entropy_case(const BenchTarget& t) {
  const Env env = t.env;
  const std::int64_t T = t.shape.num_tokens(), V = t.config.vocab_size;
  const float scale = 0.5f;
  const auto take = [=](Operands& o) { return LossSet{o.matrix_f32(T, V), o.ints(T, V)}; };
  const auto sum = std::make_shared<DeviceNumber>(env.stream);
  const auto run = [=](const LossSet& s) {
    env.kernels.cross_entropy.forward(env.stream, s.logits, s.target, scale, nullptr, sum->data());
  };
  const auto error = [=](Sets<LossSet>& all) {
    const auto logit = [V](std::int64_t i, std::int64_t j) { return static_cast<float>((i * V + j) % 61) / 20; };
    all.change([=](const LossSet& s) {
      for (std::int64_t i = 0; i < T; ++i)
        for (std::int64_t j = 0; j < V; ++j) s.logits.f32()[i * V + j] = logit(i, j);
    });
    run(all.front());
    const LossSet& s = all.pulled();
    return error_of_rows(s.logits, [&](std::int64_t i) {
      Values want(static_cast<std::size_t>(V));
      double sum = 0;
      for (std::int64_t j = 0; j < V; ++j)
        sum += want[static_cast<std::size_t>(j)] = std::exp(static_cast<double>(logit(i, j)));
      for (double& w : want) w *= static_cast<double>(scale) / sum;
      want[static_cast<std::size_t>(s.target[static_cast<std::size_t>(i)])] -= static_cast<double>(scale);
      return want;
    });
  };
  return bytes_case(t, 8.0 * static_cast<double>(T * V), take, run, error);  // reads logits, writes their gradient
}

struct AdamWSet {
  std::span<float> w, g, m, v;
};

AdamWTensor tensor_of(const AdamWSet& s) {
  return {.w = s.w.data(),
          .g = s.g.data(),
          .m = s.m.data(),
          .v = s.v.data(),
          .n = static_cast<std::int64_t>(s.w.size()),
          .decay = 0.1f};
}

double adamw_error(Sets<AdamWSet>& all, const AdamWHyper& h, const std::function<void()>& run) {
  constexpr std::size_t kStart = 1000;  // the first so many elements are judged
  const std::size_t n = std::min(kStart, all.front().w.size());
  const auto number = [](std::size_t i) { return static_cast<float>(i % 89) / 89 - 0.5f; };
  all.change([=](const AdamWSet& s) {
    for (std::size_t i = 0; i < n; ++i)
      s.w[i] = number(i), s.g[i] = number(i + 30), s.m[i] = number(i + 60), s.v[i] = number(i) + 0.6f;
  });
  run();
  const AdamWSet& s = all.pulled();
  Values want(n);
  for (std::size_t i = 0; i < n; ++i) {
    const double g = number(i + 30), b1 = h.beta1, b2 = h.beta2, w = number(i);
    const double m = b1 * number(i + 60) + (1 - b1) * g, v = b2 * (static_cast<double>(number(i) + 0.6f)) + (1 - b2) * g * g;
    const double step = static_cast<double>(h.step);
    want[i] = w - h.lr * (m / (1 - std::pow(b1, step)) / (std::sqrt(v / (1 - std::pow(b2, step))) + h.eps) + 0.1f * w);
  }
  WorstDeviation worst;
  compare(s.w.first(n), want, worst);
  for (std::size_t i = 0; i < n; ++i) worst.add(s.g[i], 0, 0);  // set to zero by the step
  return worst.value();
}

AdamWSet take_adamw(Operands& o, std::int64_t n) { return {o.floats(n), o.floats(n), o.floats(n), o.floats(n, 0, 1)}; }

BenchCase adamw_case(const BenchTarget& t, std::int64_t n) {
  const Env env = t.env;
  // The step sets g to zero; slow decay keeps m and v far from the denormal numbers however often it is repeated.
  const AdamWHyper hyper{.lr = 1e-3f, .beta1 = 0.9999f, .beta2 = 0.9999f, .step = 10};
  const auto run = [=](const AdamWSet& s) {
    const AdamWTensor tensor = tensor_of(s);
    env.kernels.adamw.step(env.stream, {&tensor, 1}, hyper);
  };
  return bytes_case(
      t, 32.0 * static_cast<double>(n), [=](Operands& o) { return take_adamw(o, n); }, run,  // reads and writes w, g, m, v
      [=](Sets<AdamWSet>& all) { return adamw_error(all, hyper, [&] { run(all.front()); }); });
}

BenchCase sum_of_squares_case(const BenchTarget& t, std::int64_t n) {
  const Env env = t.env;
  const auto sum = std::make_shared<DeviceNumber>(env.stream);
  const auto run = [=](std::span<const float> g) { env.kernels.adamw.sum_of_squares(env.stream, {&g, 1}, sum->data()); };
  const auto error = [=](Sets<std::span<float>>& all) {
    double want = 0;
    for (const float x : all.pulled()) want += static_cast<double>(x) * static_cast<double>(x);
    WorstDeviation worst;
    sum->zero();
    run(all.front());
    worst.add(sum->wait(), want, want);
    return worst.value();
  };
  return bytes_case(
      t, 4.0 * static_cast<double>(n), [=](Operands& o) { return o.floats(n); }, run, error);  // reads g
}

}  // namespace

std::vector<BenchEntry> row_op_entries(const BenchTarget& t) {
  constexpr std::int64_t kMostParams = std::int64_t{16} << 20;
  const std::int64_t T = t.shape.num_tokens(), V = t.config.vocab_size;
  const std::int64_t n = std::min(count_parameters(t.config).total, kMostParams);
  std::vector<BenchEntry> list;
  add_norm(t, list);
  list.push_back({"rope/forward", dims({T, rope_heads(t.config), t.config.rope_dim()}), [=] { return rope_case(t); }});
  list.push_back({"cross_entropy/forward", dims({T, V}), [=] { return cross_entropy_case(t); }});
  list.push_back({"adamw/step", dims({n}), [=] { return adamw_case(t, n); }});
  list.push_back({"adamw/sum_of_squares", dims({n}), [=] { return sum_of_squares_case(t, n); }});
  return list;
}

}  // namespace moe
