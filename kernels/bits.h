// Bit patterns of a tensor, for its digest (lib/io/digest.h) and for finding what is not finite. One thread, for each instruction
// set as the operations of kernels.h are. Not here: what the digest means.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace moe {

struct BitKernels {
  // sum (two words, low first) += sum over i of splitmix64(key + (first + i) * golden ratio) * (bits_i + 1), modulo 2^128
  void (*element_sum32)(std::uint64_t key, std::uint64_t first, std::span<const std::uint32_t> bits, std::uint64_t* sum);
  void (*element_sum16)(std::uint64_t key, std::uint64_t first, std::span<const std::uint16_t> bits, std::uint64_t* sum);
  // Neither infinity nor not-a-number among fp32 or bf16.
  bool (*all_finite32)(std::span<const std::uint32_t> fp32);
  bool (*all_finite16)(std::span<const std::uint16_t> bf16);
};

// Those of cpu_kernels(), and of cpu_kernels_by_isa(): nullptr if this processor or this build does not have them.
const BitKernels& cpu_bits();
const BitKernels* cpu_bits_by_isa(const std::string& isa);

}  // namespace moe
