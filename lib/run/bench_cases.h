// The rows of `moe-bench kernels`, as lists of things that can be measured. Not here: the measuring (bench_measure.h).
#pragma once

#include <string>
#include <vector>

#include "lib/run/bench_measure.h"

namespace moe {

// What the rows are made for: the kernels, and a model with a micro-batch, whose layer shapes they take.
struct BenchTarget {
  Env env;
  const ModelConfig& config;
  BatchShape shape;
  DType dtype = DType::kF32;  // of activations and weights; gradients of weights, logits and gates are fp32

  double element() const { return static_cast<double>(size_of(dtype)); }
  // `fp32` where results are of dtype: one rounding more.
  double tolerance(double fp32) const { return dtype == DType::kBF16 ? fp32 + 0x1p-8 : fp32; }
};

std::vector<BenchEntry> gemm_entries(const BenchTarget& target);     // squares, then the layers' linear maps
std::vector<BenchEntry> grouped_entries(const BenchTarget& target);  // experts, by direction, load and rows per expert
std::vector<BenchEntry> attention_entries(const BenchTarget& target);
std::vector<BenchEntry> row_op_entries(const BenchTarget& target);   // rmsnorm, rope, cross entropy, AdamW
std::vector<BenchEntry> ffn_op_entries(const BenchTarget& target);   // swiglu, biases
std::vector<BenchEntry> routing_entries(const BenchTarget& target);  // router, permute, embedding

// How rows are spread over experts: the same for all; expert e by 1/(e+1) (Zipf); all to the middle expert.
enum class ExpertLoad : std::uint8_t { kBalanced, kZipf, kOne };
const char* name_of(ExpertLoad load);
// psum_rows_E1 of num_rows rows: sums exactly, larger shares first get what rounding leaves.
std::vector<std::int64_t> expert_rows(ExpertLoad load, std::int64_t num_rows, int num_experts);

// "2048x768x256"
std::string dims(std::initializer_list<std::int64_t> sizes);

}  // namespace moe
