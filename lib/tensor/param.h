// Parameters: what they are (ParamSpec, the only list of them is lib/model/params.cpp) and where they live (ParamStore).
// Not here: files (lib/run/train_state.cpp makes the slices), sharding.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "lib/tensor/arena.h"

namespace moe {

struct ParamSpec {
  std::string name;
  std::vector<std::int64_t> shape;  // dimension 0 of an expert tensor is the logical expert id
  float init_std = 0;               // normal(0, init_std); 0: all ones (norm weights)
  bool is_expert = false;           // per routed expert: a token uses top_k / num_experts of it
  bool is_input_embedding = false;  // looked up, not multiplied

  bool decays() const { return shape.size() > 1; }  // weight decay on matrices, none on norms
  std::int64_t num_elements() const;
  std::int64_t num_rows() const { return num_elements() / num_cols(); }  // as the matrix [rows, last dimension]
  std::int64_t num_cols() const { return shape.back(); }
};

// One parameter with its training state. In fp32 the weight is its own master.
struct Param {
  ParamSpec spec;
  Mat weight;               // fp32 or bf16, what kernels read
  float* master = nullptr;  // fp32
  Mat grad;                 // f32
  float* m = nullptr;       // AdamW moments, f32
  float* v = nullptr;
};

class ParamStore {
 public:
  // Takes the memory of all parameters; without `training` only the weights.
  ParamStore(Arena& arena, const std::vector<ParamSpec>& specs, DType dtype, bool training);

  std::vector<Param>& all() { return params_; }
  const std::vector<Param>& all() const { return params_; }
  const Param& find(const std::string& name) const;  // throws std::out_of_range with the name

  // Initial values: a pure function of (seed, name, element index).
  void initialize(std::uint64_t seed);
  // weight = rounded master (bf16 only).
  void round_masters();
  // For AdamW; `decay` for the tensors that decay.
  std::vector<AdamWTensor> adamw_tensors(float decay);

 private:
  std::vector<Param> params_;
};

}  // namespace moe
