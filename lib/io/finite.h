// Finding what is not finite among bit patterns of fp32 (32 bits) or bf16 (16 bits), as fast as memory gives them.
// Not here: what to do about it.
#pragma once

#include <cstdint>
#include <span>

namespace moe {

// Index of the first infinity or not-a-number; -1: all are finite.
std::int64_t first_not_finite(std::span<const std::uint32_t> fp32);
std::int64_t first_not_finite(std::span<const std::uint16_t> bf16);

}  // namespace moe
