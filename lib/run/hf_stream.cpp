#include "lib/run/hf_stream.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "lib/base/error.h"

namespace moe {
namespace {

// IEEE half to float: exact, subnormals, infinities and not-a-numbers too.
float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = std::uint32_t{h} >> 15 << 31, exponent = (h >> 10) & 31u, fraction = h & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent > 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float small = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -small : small;
}

template <class From, class To, class Rule>
void each(const std::byte* in, std::int64_t count, std::byte* out, Rule rule) {
  for (std::int64_t i = 0; i < count; ++i) {
    From from;
    std::memcpy(&from, in + static_cast<std::size_t>(i) * sizeof from, sizeof from);
    const To to = rule(from);
    std::memcpy(out + static_cast<std::size_t>(i) * sizeof to, &to, sizeof to);
  }
}

}  // namespace

void cut_box(const Box& box, std::int64_t most_elements, std::vector<Box>& out) {
  const std::int64_t all = elements_of(box.extent);
  std::size_t d = 0;
  while (d + 1 < box.extent.size() && box.extent[d] == 1) ++d;
  if (all <= most_elements || d + 1 >= box.extent.size()) {
    out.push_back(box);
    return;
  }
  const std::int64_t rows = std::max<std::int64_t>(1, most_elements / (all / box.extent[d]));
  for (std::int64_t at = 0; at < box.extent[d]; at += rows) {
    Box part = box;
    part.offset[d] += at;
    part.extent[d] = std::min(rows, box.extent[d] - at);
    cut_box(part, most_elements, out);
  }
}

Box relative_to(const Box& box, const std::vector<std::int64_t>& origin) {
  Box local = box;
  for (std::size_t d = 0; d < origin.size(); ++d) local.offset[d] -= origin[d];
  return local;
}

void convert_elements(SafeType from, const std::byte* in, std::int64_t count, DType to, std::byte* out) {
  const bool narrow = to == DType::kBF16;
  if ((from == SafeType::kBF16 && narrow) || (from == SafeType::kF32 && !narrow))
    std::memcpy(out, in, static_cast<std::size_t>(count) * size_of(to));
  else if (from == SafeType::kBF16)
    each<BF16, float>(in, count, out, to_float);
  else if (from == SafeType::kF32)
    each<float, BF16>(in, count, out, to_bf16);
  else if (from == SafeType::kF16 && narrow)
    each<std::uint16_t, BF16>(in, count, out, [](std::uint16_t h) { return to_bf16(half_to_float(h)); });
  else if (from == SafeType::kF16)
    each<std::uint16_t, float>(in, count, out, half_to_float);
  else
    throw Error(Exit::kInternal, std::string("no conversion from ") + name_of(from));
}

HfMemory split_memory(std::int64_t memory_bytes) {
  constexpr std::int64_t kLeast = 64 << 10, kMostBlock = 4 << 20;
  if (memory_bytes < kLeast)
    throw Error(Exit::kUsage, "--memory: expected at least 64K, found " + std::to_string(memory_bytes));
  const std::int64_t block = std::min(memory_bytes / 16, kMostBlock);
  return {memory_bytes - 4 * block, block};  // blocks: as read, converted, and of reading back
}

nlohmann::json model_options_json(ModelConfig model, DType dtype) {
  Options o("moe-train", "", {});
  add_model_options(o, model);
  nlohmann::json kept;
  for (const auto& option : o.all()) kept[option->name] = option->get();
  kept["dtype"] = name_of(dtype);
  return kept;
}

ModelConfig model_of_state(const nlohmann::json& state, const std::string& path) try {
  ModelConfig model;
  Options o("moe-train", "", {});
  add_model_options(o, model);
  const nlohmann::json& kept = state.at("options");
  for (const auto& option : o.all())
    if (kept.contains(option->name)) o.set(option->name, {kept.at(option->name).get<std::string>()}, Origin::kCheckpoint);
  check_config(model);
  return model;
} catch (const nlohmann::json::exception& e) {
  throw Error(Exit::kBadInput, path + ": state: " + e.what(), "this checkpoint does not say which model it is of");
} catch (const Error& e) {
  throw Error(Exit::kBadInput, path + ": state: " + e.what(), e.hint());
}

}  // namespace moe
