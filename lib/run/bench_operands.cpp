#include "lib/run/bench_operands.h"

#include <cmath>

namespace moe {

template <class T>
std::span<T> Operands::take(std::int64_t n) {
  const std::span<T> v = arena_.vector<T>(n);
  if (!v.empty()) pieces_.push_back({v.data(), v.size(), sizeof(T), std::is_same_v<T, BF16>});
  return v;
}

namespace {

float uniform(const Rng& rng, std::uint64_t i, float low, float high) {
  return low + (high - low) * 0x1p-24f * static_cast<float>(rng.bits(i) >> 40);
}
void set(float& to, float v) { to = v; }
void set(BF16& to, float v) { to = to_bf16(v); }

}  // namespace

// On the host in place; elsewhere the same run of values over and over, of a length that fits no row.
template <class T>
void Operands::fill(std::span<T> to, float low, float high) {
  constexpr std::size_t kRun = 4194301;
  if (!fills_ || to.empty()) return;
  const bool in_place = stream_.is_cpu();
  std::vector<T> run(in_place ? 0 : std::min(kRun, to.size()));
  const std::span<T> values = in_place ? to : std::span<T>(run);
  const auto n = static_cast<std::int64_t>(values.size());
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < n; ++i)
    set(values[static_cast<std::size_t>(i)], uniform(rng_, next_ + static_cast<std::uint64_t>(i), low, high));
  next_ += static_cast<std::uint64_t>(n);
  for (std::size_t at = 0; !in_place && at < to.size(); at += run.size())
    stream_.copy(&to[at], run.data(), std::min(run.size(), to.size() - at) * sizeof(T));
}

std::span<float> Operands::floats(std::int64_t n, float low, float high) {
  const std::span<float> v = take<float>(n);
  fill(v, low, high);
  return v;
}

Mat Operands::matrix(std::int64_t rows, std::int64_t cols) {
  if (dtype_ == DType::kF32) return matrix_f32(rows, cols);
  const std::span<BF16> v = take<BF16>(rows * cols);
  fill(v, -1, 1);
  return {v.data(), DType::kBF16, rows, cols, cols};
}

std::span<float> Operands::sines(std::span<const float> cosines, std::int64_t n) {
  const std::span<float> v = take<float>(n);
  if (!fills_ || v.empty()) return v;
  std::vector<float> values(v.size());
  stream_.copy(values.data(), cosines.data(), cosines.size_bytes());
  stream_.synchronize();
  for (float& x : values) x = std::sqrt(1 - x * x);
  stream_.copy(v.data(), values.data(), v.size_bytes());
  return v;
}

std::span<std::int32_t> Operands::ints(std::int64_t n, std::int64_t end) {
  const std::span<std::int32_t> v = take<std::int32_t>(n);
  if (!fills_ || v.empty()) return v;
  std::vector<std::int32_t> values(v.size());
  for (std::int32_t& x : values) x = static_cast<std::int32_t>(rng_.bits(next_++) % static_cast<std::uint64_t>(end));
  stream_.copy(v.data(), values.data(), v.size_bytes());
  return v;
}

std::span<std::int64_t> Operands::copy_of(std::span<const std::int64_t> values) {
  const std::span<std::int64_t> v = take<std::int64_t>(static_cast<std::int64_t>(values.size()));
  if (fills_ && !v.empty()) stream_.copy(v.data(), values.data(), v.size_bytes());
  return v;
}

OperandImage::OperandImage(const Operands& of, std::size_t bytes) : of_(of), host_(1), memory_(bytes, host_, DType::kF32) {
  memory_.fills_ = false;
}

void OperandImage::pull() {
  Stream& stream = of_.stream();
  std::vector<BF16> narrow;
  for (std::size_t i = 0; i < memory_.pieces_.size(); ++i) {
    const Operands::Piece &from = of_.pieces_[i], &to = memory_.pieces_[i];
    if (from.is_bf16) narrow.resize(from.n);
    stream.copy(from.is_bf16 ? narrow.data() : to.data, from.data, from.n * from.element_bytes);
    stream.synchronize();
    auto* wide = static_cast<float*>(to.data);
    const auto n = static_cast<std::int64_t>(from.is_bf16 ? from.n : 0);
#pragma omp parallel for schedule(static)
    for (std::int64_t j = 0; j < n; ++j) wide[j] = to_float(narrow[static_cast<std::size_t>(j)]);
  }
}

void OperandImage::push() {
  Stream& stream = of_.stream();
  std::vector<BF16> narrow;
  for (std::size_t i = 0; i < memory_.pieces_.size(); ++i) {
    const Operands::Piece &from = memory_.pieces_[i], &to = of_.pieces_[i];
    if (to.is_bf16) narrow.resize(to.n);
    const auto* wide = static_cast<const float*>(from.data);
    const auto n = static_cast<std::int64_t>(to.is_bf16 ? to.n : 0);
#pragma omp parallel for schedule(static)
    for (std::int64_t j = 0; j < n; ++j) narrow[static_cast<std::size_t>(j)] = to_bf16(wide[j]);
    stream.copy(to.data, to.is_bf16 ? static_cast<const void*>(narrow.data()) : from.data, to.n * to.element_bytes);
    stream.synchronize();
  }
}

std::size_t cycle_bytes(const Stream& stream) {
  constexpr std::size_t kHost = std::size_t{64} << 20, kDevice = std::size_t{256} << 20;
  if (stream.is_cpu()) return kHost;
  std::size_t used = 0, total = 0;
  stream.device().memory(&used, &total);
  return std::min(kDevice, (total - used) / 4);
}

}  // namespace moe
