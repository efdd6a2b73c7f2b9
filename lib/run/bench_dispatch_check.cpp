#include "lib/run/bench_dispatch_check.h"

#include <algorithm>
#include <bit>

#include "lib/base/error.h"

namespace moe {
namespace {

// splitmix64
std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

float element(CMat m, std::int64_t row, std::int64_t col) {
  return m.dtype == DType::kF32 ? static_cast<const float*>(m.row(row))[col]
                                : to_float(static_cast<const BF16*>(m.row(row))[col]);
}

}  // namespace

std::int32_t bench_gate(std::int64_t slot) {
  return 1 + static_cast<std::int32_t>(mixed(static_cast<std::uint64_t>(slot)) & 1);
}

// Integers up to 2^24 are exact in fp32, up to 2^8 in bf16.
RowCode::RowCode(DType dtype, int max_factor, std::int64_t num_cols, std::int64_t num_ids) {
  const unsigned exact = dtype == DType::kF32 ? 1u << 24 : 1u << 8;
  const int bits = std::bit_width(exact / static_cast<unsigned>(max_factor)) - 1;
  const int id_bits = std::max(1, static_cast<int>(std::bit_width(static_cast<std::uint64_t>(num_ids))));
  num_digits_ = bits > 0 ? static_cast<std::size_t>((id_bits + bits - 1) / bits) : 0;
  if (bits <= 0 || static_cast<std::size_t>(num_cols) < num_digits_)
    throw Error(Exit::kUsage,
                "--d-model: expected at least " + std::to_string(num_digits_) +
                    " columns, so that a row can name its token, found " + std::to_string(num_cols),
                "use fewer --top-k, more --d-model or --dtype fp32");
  mask_ = (1u << bits) - 1;
  for (std::size_t c = 0; c < static_cast<std::size_t>(num_cols); ++c) {
    shift_D_.push_back(static_cast<int>(c % num_digits_) * bits);
    change_D_.push_back(static_cast<std::uint32_t>(mixed(c)) & mask_);
  }
}

void RowCode::write(Mat m, std::int64_t first, std::span<const std::int32_t> factors) const {
  const std::size_t D = shift_D_.size();
  for (std::int64_t i = 0; i < m.rows; ++i) {
    const float factor = static_cast<float>(factors[static_cast<std::size_t>(i)]);
    for (std::size_t c = 0; c < D; ++c)
      if (m.dtype == DType::kF32)
        static_cast<float*>(m.row(i))[c] = factor * value(first + i, c);
      else
        static_cast<BF16*>(m.row(i))[c] = to_bf16(factor * value(first + i, c));
  }
}

std::int64_t RowCode::id_of(CMat m, std::int64_t row) const {
  std::int64_t id = 0;
  for (std::size_t c = 0; c < num_digits_; ++c) {
    const float v = element(m, row, static_cast<std::int64_t>(c));
    if (!(v >= 0 && v <= static_cast<float>(mask_))) return -1;
    id |= static_cast<std::int64_t>((static_cast<std::uint32_t>(v) ^ change_D_[c]) & mask_) << shift_D_[c];
  }
  return id;
}

bool RowCode::holds(CMat m, std::int64_t row, std::int64_t id, std::int32_t factor) const {
  const std::size_t D = shift_D_.size();
  const float f = static_cast<float>(factor);
  bool wrong = false;
  if (m.dtype == DType::kF32) {
    const auto* v = static_cast<const float*>(m.row(row));
    for (std::size_t c = 0; c < D; ++c) wrong |= !(v[c] == f * value(id, c));
  } else {
    const auto* v = static_cast<const BF16*>(m.row(row));
    for (std::size_t c = 0; c < D; ++c) wrong |= !(to_float(v[c]) == f * value(id, c));
  }
  return !wrong;
}

DispatchOracle::DispatchOracle(const RowSource& source, const ExpertMap& map, int top_k, int rank)
    : source_(source),
      map_(map),
      top_k_(top_k),
      rank_(rank),
      most_tokens_(source.most_tokens()),
      num_tokens_(source.num_tokens(rank)) {}

void DispatchOracle::set_repetition(int repetition) {
  repetition %= source_.period();
  if (repetition == repetition_) return;
  repetition_ = repetition;
  routes_.clear();
  num_rows_ = 0;
  for (int r = 0; r < source_.num_ranks(); ++r) {
    routes_.push_back(source_.route(r, repetition));
    num_rows_ += std::count_if(routes_.back().begin(), routes_.back().end(), [&](std::int32_t e) {
      return e >= 0 && map_.expert2rank[static_cast<std::size_t>(e)] == rank_;
    });
  }
}

std::vector<float> DispatchOracle::gate_N() const {
  std::vector<float> gates(idx_N().size());
  for (std::size_t i = 0; i < gates.size(); ++i)
    gates[i] = static_cast<float>(bench_gate(first_id() * top_k_ + static_cast<std::int64_t>(i)));
  return gates;
}

std::vector<std::int32_t> DispatchOracle::gate_sums_T() const {
  std::vector<std::int32_t> sums(static_cast<std::size_t>(num_tokens_));
  for (std::size_t i = 0; i < idx_N().size(); ++i)
    if (idx_N()[i] >= 0)
      sums[i / static_cast<std::size_t>(top_k_)] += bench_gate(first_id() * top_k_ + static_cast<std::int64_t>(i));
  return sums;
}

std::vector<std::int32_t> DispatchOracle::num_slots_T() const {
  std::vector<std::int32_t> num_slots(static_cast<std::size_t>(num_tokens_));
  for (std::size_t i = 0; i < idx_N().size(); ++i) num_slots[i / static_cast<std::size_t>(top_k_)] += idx_N()[i] >= 0;
  return num_slots;
}

std::int64_t DispatchOracle::slot_of(std::int64_t id, int expert) const {
  const std::int64_t source = id < 0 ? -1 : id / most_tokens_, token = id % most_tokens_;
  if (source < 0 || source >= source_.num_ranks() || token >= source_.num_tokens(static_cast<int>(source))) return -1;
  const auto begin = routes_[static_cast<std::size_t>(source)].begin() + token * top_k_;
  const auto at = std::find(begin, begin + top_k_, expert);
  return at == begin + top_k_ ? -1 : id * top_k_ + (at - begin);
}

std::int64_t DispatchOracle::wrong_rows(const RowCode& code, const Route& route, CMat y_RD,
                                        std::span<const float> gate_R) const {
  std::vector<bool> seen(static_cast<std::size_t>(source_.num_ranks() * most_tokens_ * top_k_));
  const auto& experts = map_.rank2experts[static_cast<std::size_t>(rank_)];
  std::int64_t right = 0;
  for (std::size_t l = 0; l < experts.size(); ++l)
    for (std::int64_t row = route.psum_rows_L1[l]; row < route.psum_rows_L1[l + 1]; ++row) {
      const std::int64_t id = code.id_of(y_RD, row), slot = slot_of(id, experts[l]);
      if (slot < 0 || seen[static_cast<std::size_t>(slot)]) continue;
      seen[static_cast<std::size_t>(slot)] = true;
      right += code.holds(y_RD, row, id, 1) && gate_R[static_cast<std::size_t>(row)] == static_cast<float>(bench_gate(slot));
    }
  return std::max(num_rows_, route.num_rows) - right;
}

std::int64_t DispatchOracle::wrong_sums(const RowCode& code, CMat x_TD, std::span<const std::int32_t> factors_T) const {
  std::int64_t wrong = 0;
  for (std::int64_t t = 0; t < x_TD.rows; ++t)
    wrong += !code.holds(x_TD, t, first_id() + t, factors_T[static_cast<std::size_t>(t)]);
  return wrong;
}

std::int64_t DispatchOracle::wrong_gates(std::span<const float> dgate_N, float factor) const {
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < dgate_N.size(); ++i) {
    const float gate = static_cast<float>(bench_gate(first_id() * top_k_ + static_cast<std::int64_t>(i)));
    wrong += !(dgate_N[i] == (idx_N()[i] < 0 ? 0 : factor * gate));
  }
  return wrong;
}

}  // namespace moe
