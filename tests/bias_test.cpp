// Biases: against plain loops, finite differences, empty experts, any number of threads.
#include "tests/kernel_test.h"

namespace moe {
namespace {

struct Shape {
  std::int64_t N;
  std::vector<std::int64_t> psum;  // empty: one expert without a list
  std::int64_t R = psum.empty() ? 0 : psum.back();
  std::int64_t pad = 1;  // factor on the elements that follow a row: with 8, all rows begin at multiples of 16 bytes
  std::int64_t E() const { return psum.empty() ? 1 : static_cast<std::int64_t>(psum.size()) - 1; }
  std::size_t expert_of(std::int64_t r) const {
    std::size_t e = 0;
    while (!psum.empty() && r >= psum[e + 1]) ++e;
    return e;
  }
};
std::vector<Shape> shapes() {
  return {{1, {}, 1},
          {37, {}, 13},
          {16, {0, 1}},
          {70, {0, 0, 5, 5, 5, 300, 301, 301}},
          {257, {0, 3, 7}},
          {8, {0, 0, 0}},
          {40, {0, 0, 129, 130, 393, 393}, 393, 8},
          {264, {}, 65, 8},
          {2056, {0, 3}, 3, 8}};
}

template <class R>
struct Reference {
  std::vector<R> y, dgate, db;
};
// y is added to what is there; dgate and db begin with 1.
template <class R>
Reference<R> reference(const Shape& s, const std::vector<R>& b, const std::vector<R>& gate, const std::vector<R>& dy,
                       bool add) {
  Reference<R> out{dy, std::vector<R>(s.R, R(1)), std::vector<R>(s.E() * s.N, R(1))};
  for (std::int64_t r = 0; r < s.R; ++r)
    for (std::int64_t j = 0; j < s.N; ++j) {
      const std::size_t at = s.expert_of(r) * s.N + j;
      out.y[r * s.N + j] = (add ? dy[r * s.N + j] : R(0)) + gate[r] * b[at];
      out.dgate[r] += dy[r * s.N + j] * b[at];
      out.db[at] += gate[r] * dy[r * s.N + j];
    }
  return out;
}

struct Inputs {
  TestMat b, dy;
  std::vector<float> gate;
  // Stored as experts are: [E*N, 1]. The type of the biases may be another.
  Inputs(const Shape& s, DType t) : Inputs(s, t, t) {}
  Inputs(const Shape& s, DType t, DType of_b)
      : b(TestMat::random(of_b, s.E() * s.N, 1, 1)),
        dy(TestMat::random(t, s.R, s.N, 2, 3 * s.pad)),
        gate(random_floats(s.R, 3)) {}
};

TEST(Bias, AgreesWithPlainLoops) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : shapes())
      for (const DType t : kDTypes)
        for (const auto& [gated, of_b] : {std::pair{true, DType::kF32}, {true, DType::kBF16}, {false, t}})
          for (const Store store : {Store::kAssign, Store::kAdd}) {
            SCOPED_TRACE(std::string(k->isa) + " " + name_of(t) + " N " + std::to_string(s.N) + " R " + std::to_string(s.R));
            Inputs in(s, t, of_b);
            if (!gated) in.gate.assign(in.gate.size(), 1.0f);
            const float* gate = gated ? in.gate.data() : nullptr;
            Stream stream(kernel_device(), 2);
            std::vector<float> dgate(s.R, 1.0f), db(s.E() * s.N, 1.0f);
            k->bias.backward_gate(stream, in.dy.view(), in.b.view(), s.psum, dgate.data());
            k->bias.backward_weight(stream, in.dy.view(), s.psum, gate, mat(db.data(), s.E() * s.N, 1));
            const bool add = store == Store::kAdd;
            const auto naive = reference<float>(s, in.b.values(), in.gate, in.dy.values(), add);
            const auto truth = reference<double>(s, in.b.values<double>(), doubles(in.gate), in.dy.values<double>(), add);
            k->bias.forward(stream, in.b.view(), s.psum, gate, in.dy.view(), store);
            EXPECT_TRUE(as_good_as_naive(in.dy.values(), naive.y, truth.y, t));
            EXPECT_TRUE(as_good_as_naive(dgate, naive.dgate, truth.dgate));
            EXPECT_TRUE(as_good_as_naive(db, naive.db, truth.db));
            EXPECT_TRUE(in.dy.padding_is_intact());
          }
}

TEST(Bias, GradientIsThatOfTheFormula) {
  const Shape s{23, {0, 4, 4, 9}};
  for (const Kernels* k : all_isas()) {
    Inputs in(s, DType::kF32);
    std::vector<float> dgate(s.R), db(s.E() * s.N);
    Stream stream(kernel_device(), 2);
    k->bias.backward_gate(stream, in.dy.view(), in.b.view(), s.psum, dgate.data());
    k->bias.backward_weight(stream, in.dy.view(), s.psum, in.gate.data(), mat(db.data(), s.E(), s.N));
    const auto b = in.b.values<double>(), dy = in.dy.values<double>(), gate = doubles(in.gate);
    expect_gradient([&](const auto& v) { return dot(reference<double>(s, v, gate, dy, false).y, dy); }, b, db);
    expect_gradient([&](const auto& v) { return dot(reference<double>(s, b, v, dy, false).y, dy); }, gate, dgate);
  }
}

TEST(Bias, BitsDoNotDependOnThreads) {
  const Shape s{131, {0, 1, 1, 2, 400, 411}};
  for (const Kernels* k : all_isas()) {
    Inputs in(s, DType::kF32);
    expect_same_bits_with_any_threads([&](Stream& stream) {
      std::vector<float> all(s.R), db(s.E() * s.N);
      TestMat y(DType::kF32, s.R, s.N);
      k->bias.forward(stream, in.b.view(), s.psum, in.gate.data(), y.view(), Store::kAssign);
      k->bias.backward_gate(stream, in.dy.view(), in.b.view(), s.psum, all.data());
      k->bias.backward_weight(stream, in.dy.view(), s.psum, in.gate.data(), mat(db.data(), s.E(), s.N));
      const std::vector<float> rows = y.values();
      all.insert(all.end(), rows.begin(), rows.end());
      all.insert(all.end(), db.begin(), db.end());
      return all;
    });
  }
}

TEST(Bias, RefusesShapes) {
  TestMat y(DType::kF32, 3, 8), b(DType::kF32, 1, 8), wide(DType::kF32, 2, 8, 1), half(DType::kBF16, 1, 8);
  const std::vector<std::int64_t> two = {0, 1, 3}, few = {0, 1, 2};
  float gate[3] = {};
  Stream stream(kernel_device(), 1);
  for (const Kernels* k : all_isas()) {
    k->bias.forward(stream, b.view(), {}, nullptr, y.view(), Store::kAssign);
    EXPECT_THROW(k->bias.forward(stream, b.view(), two, nullptr, y.view(), Store::kAssign), std::invalid_argument);
    EXPECT_THROW(k->bias.forward(stream, wide.view(), two, nullptr, y.view(), Store::kAssign), std::invalid_argument);
    EXPECT_THROW(k->bias.backward_gate(stream, y.view(), wide.view(), few, gate), std::invalid_argument);
    EXPECT_THROW(k->bias.backward_weight(stream, y.view(), {}, nullptr, half.view()), std::invalid_argument);
  }
}

}  // namespace
}  // namespace moe
