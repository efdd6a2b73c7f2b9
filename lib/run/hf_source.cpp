#include "lib/run/hf_source.h"

#include <algorithm>
#include <optional>

#include "lib/base/error.h"
#include "lib/run/hf_dequantize.h"
#include "lib/run/hf_stream.h"

namespace moe {
namespace {

using Kind = HfQuantization::Kind;

// `name` without `suffix`; "" if it does not end so.
std::string stem_of(const std::string& name, const std::string& suffix) {
  return name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : "";
}

[[noreturn]] void refuse(const SafetensorsDirectory::Entry& e, const std::string& what) {
  throw Error(Exit::kBadInput, e.file->path() + ": tensor " + e.tensor->name + ": " + what,
              "the quantised weights do not fit the quantization_config of config.json");
}

void expect_shape(const SafetensorsDirectory::Entry& e, const std::vector<std::int64_t>& shape) {
  if (e.tensor->shape != shape) refuse(e, "expected [" + joined(shape) + "], found [" + joined(e.tensor->shape) + "]");
}

std::int64_t blocks_of(std::int64_t n, std::int64_t block) { return (n + block - 1) / block; }

}  // namespace

HfSource::HfSource(const std::string& directory, const HfQuantization& quantization)
    : directory_(directory), quantization_(quantization) {
  const auto& all = directory_.tensors();
  for (const auto& [name, entry] : all) tensors_[name] = {entry.tensor->shape, entry};
  for (const auto& [name, entry] : all) {
    if (quantization.kind == Kind::kFp8)
      if (const std::string stem = stem_of(name, "_scale_inv"); all.contains(stem)) add_fp8(stem, entry);
    if (quantization.kind == Kind::kMxfp4)
      if (const std::string stem = stem_of(name, "_scales"); all.contains(stem + "_blocks")) add_packed(stem, entry);
  }
  for (const auto& [name, t] : tensors_)
    if (quantization.kind == Kind::kFp8 && t.data.tensor->type == SafeType::kF8E4M3 && !t.scales)
      refuse(t.data, "expected " + name + "_scale_inv beside it, found none");
}

void HfSource::add_fp8(const std::string& name, const Entry& scales) {
  Tensor& t = tensors_.at(name);
  const SafeType type = t.data.tensor->type;
  if (type != SafeType::kF8E4M3) refuse(t.data, std::string("expected F8_E4M3 as it has scales, found ") + name_of(type));
  if (t.shape.size() != 2) refuse(t.data, "expected a matrix as it has scales, found [" + joined(t.shape) + "]");
  const SafeType scale = scales.tensor->type;
  if (scale != SafeType::kF32 && scale != SafeType::kBF16)
    refuse(scales, std::string("expected F32 or BF16, found ") + name_of(scale));
  expect_shape(scales, {blocks_of(t.shape[0], quantization_.block_rows), blocks_of(t.shape[1], quantization_.block_cols)});
  t.scales = scales;
  tensors_.erase(scales.tensor->name);
}

void HfSource::add_packed(const std::string& name, const Entry& scales) {
  const Entry data = directory_.tensors().at(name + "_blocks");
  for (const Entry& e : {data, scales})
    if (e.tensor->type != SafeType::kU8) refuse(e, std::string("expected U8, found ") + name_of(e.tensor->type));
  std::vector<std::int64_t> shape = data.tensor->shape;
  if (shape.size() < 2 || shape.back() != kMxfp4Block / 2)
    refuse(data, "expected 16 bytes in the last dimension, found [" + joined(shape) + "]");
  shape.pop_back();
  expect_shape(scales, shape);
  shape.back() *= kMxfp4Block;
  if (tensors_.contains(name)) refuse(data, "expected " + name + " packed or plain, found both");
  tensors_.erase(data.tensor->name);
  tensors_.erase(scales.tensor->name);
  tensors_[name] = {shape, data, scales, true};
}

std::vector<HfFound> HfSource::found() const {
  std::vector<HfFound> list;
  for (const auto& [name, t] : tensors_) list.push_back({name, t.shape});
  return list;
}

bool HfSource::has_packed() const {
  for (const auto& [name, t] : tensors_)
    if (t.is_packed) return true;
  return false;
}

void HfSource::read(const Tensor& t, std::int64_t first, std::int64_t count, DType to, std::byte* out) {
  const SafeTensor& data = *t.data.tensor;
  if (!t.scales) {
    raw_.resize(static_cast<std::size_t>(count) * size_of(data.type));
    t.data.file->read(data, first, count, raw_.data());
    return convert_elements(data.type, raw_.data(), count, to, out);
  }
  values_.resize(static_cast<std::size_t>(count));
  t.is_packed ? read_packed(t, first, count) : read_fp8(t, first, count);
  convert_elements(SafeType::kF32, reinterpret_cast<const std::byte*>(values_.data()), count, to, out);
}

void HfSource::expect_same(const std::string& copy, const std::string& own, std::int64_t most) {
  const Tensor &a = tensors_.at(copy), &b = tensors_.at(own);
  const std::int64_t all = elements_of(b.shape);
  std::vector<std::byte> found(static_cast<std::size_t>(std::min(most, all)) * sizeof(float)), expected(found.size());
  for (std::int64_t at = 0; at < all; at += most) {
    const std::int64_t n = std::min(most, all - at);
    read(a, at, n, DType::kF32, found.data());
    read(b, at, n, DType::kF32, expected.data());
    if (std::equal(found.begin(), found.begin() + n * static_cast<std::int64_t>(sizeof(float)), expected.begin())) continue;
    throw Error(Exit::kBadInput,
                a.data.file->path() + ": tensor " + copy + ": expected the same as " + own +
                    ", found another value in elements " + std::to_string(at) + " to " + std::to_string(at + n - 1),
                "the modules of multi-token prediction share embedding and head here; --drop-mtp imports without them");
  }
}

void HfSource::read_fp8(const Tensor& t, std::int64_t first, std::int64_t count) {
  raw_.resize(static_cast<std::size_t>(count));
  t.data.file->read(*t.data.tensor, first, count, raw_.data());
  const Fp8Blocks blocks{t.shape[1], quantization_.block_rows, quantization_.block_cols};
  const std::int64_t begin = blocks.scale_row(first), end = blocks.scale_row(first + count - 1) + 1;
  const auto n = static_cast<std::size_t>((end - begin) * blocks.scale_cols());
  const SafeTensor& scales = *t.scales->tensor;
  raw_scales_.resize(n * size_of(scales.type));
  t.scales->file->read(scales, begin * blocks.scale_cols(), static_cast<std::int64_t>(n), raw_scales_.data());
  scales_.resize(n);
  convert_elements(scales.type, raw_scales_.data(), static_cast<std::int64_t>(n), DType::kF32,
                   reinterpret_cast<std::byte*>(scales_.data()));
  dequantize_fp8(blocks, first, raw_, scales_, values_.data());
}

void HfSource::read_packed(const Tensor& t, std::int64_t first, std::int64_t count) {
  const auto part = [&](const Entry& e, std::int64_t per_byte, std::vector<std::byte>& out) {
    const std::int64_t begin = first / per_byte, end = (first + count - 1) / per_byte + 1;
    out.resize(static_cast<std::size_t>(end - begin));
    e.file->read(*e.tensor, begin, end - begin, out.data());
  };
  part(t.data, 2, raw_);
  part(*t.scales, kMxfp4Block, raw_scales_);
  dequantize_mxfp4(first, count, raw_.data(), raw_scales_.data(), values_.data());
}

}  // namespace moe
