// Parameters: what they are (ParamSpec, the only list of them is lib/model/params.cpp), which part of them a rank holds
// (ParamLayout), and where they live (ParamStore).
// Not here: files (lib/run/train_state.cpp makes the slices), messages (lib/parallel/units.h gathers and reduces).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "lib/tensor/arena.h"

namespace moe {

struct ParamSpec {
  std::string name;
  std::vector<std::int64_t> shape;  // dimension 0 of an expert tensor is the logical expert id
  float init_std = 0;               // normal(0, init_std); 0: all ones (norm weights), or zeros (biases)
  bool is_expert = false;           // per routed expert: a token uses top_k / num_experts of it
  bool is_input_embedding = false;  // looked up, not multiplied
  bool is_bias = false;             // added, not multiplied; of experts [E, N, 1]
  // Rows of the matrices that lie one after the other in it (in each expert of it), for optimizers that look at matrices as
  // a whole: q, k and v of a fused tensor are three. Empty: not a matrix of a block.
  std::vector<std::int64_t> matrix_rows{};

  int layer() const;                                            // of "layers.3.router.weight" 3; -1: of no layer
  bool decays() const { return shape.size() > 1 && !is_bias; }  // weight decay on matrices, none on norms and biases
  std::int64_t num_elements() const;
  std::int64_t num_rows() const { return num_elements() / num_cols(); }  // as the matrix [rows, last dimension]
  std::int64_t num_cols() const { return shape.back(); }
};

// The index-th of `count` cuts of n rows, sizes that differ by at most one.
struct Cut {
  int index = 0, count = 1;
  std::int64_t begin(std::int64_t n) const { return n * index / count; }
  std::int64_t end(std::int64_t n) const { return n * (index + 1) / count; }
};

// A place of an expert-parallel rank. Of an expert with several places the first one speaks for it: what is there is saved
// and counts in norms; the others are copies, kept equal by summing gradients (lib/parallel/copy_gradients.h).
struct LocalExpert {
  int id = 0;  // logical
  bool is_copy = false;
};

// What a rank holds of a model. Experts come whole to their expert-parallel rank and are cut further by `expert`; everything
// else is cut by `dense`. Dense tensors are cut along dimension 0 (a vector: by element), the experts of a rank along the
// rows [experts x dimension 1] of its own experts in their order.
struct ParamLayout {
  // Experts of a layer that are here, in the order of their places: one entry for all layers alike, or one per layer of the
  // model.
  std::vector<std::vector<LocalExpert>> layer2experts = {{}};
  Cut dense, expert;
  int zero = 3;  // what is sharded: 1 masters and moments, 2 gradients too, 3 weights too

  const std::vector<LocalExpert>& experts(int layer) const {
    return layer2experts[layer2experts.size() == 1 ? 0 : static_cast<std::size_t>(layer)];
  }
  std::size_t most_experts() const;  // of any layer
  bool has_copies() const;

  static ParamLayout whole(int num_experts);
};

// What training keeps of parameters beside masters and gradients.
struct TrainingState {
  DType moments = DType::kF32;  // of m and v: computed in float, rounded once
  bool muon = false;            // tensors with matrix_rows have momentum m alone
  bool ema = false;             // moving average of the masters, fp32
};

// One parameter with its training state. `weight` and `grad` are what kernels read and add to: the whole dense tensor, or
// the experts of this rank, as the matrix [rows, last dimension]. Their data is nullptr while a unit is not gathered. The
// shard is what this rank owns: rows [shard_begin, shard_begin + shard_rows) of shard_cols elements each. Where the cut has
// one part the shard is the whole and shares its memory; in fp32 the weight is its own master.
struct Param {
  ParamSpec spec;
  Mat weight;           // fp32 or bf16
  Mat grad;             // f32
  bool is_cut = false;  // the shard is not the whole
  std::int64_t shard_begin = 0, shard_rows = 0, shard_cols = 0;
  void* weight_shard = nullptr;  // of the dtype of weight
  float* master = nullptr;       // the shard's, fp32
  float* grad_shard = nullptr;
  // Moments of the shard, [shard_rows, shard_cols]; without data: not kept. Muon has m alone.
  Mat m, v;
  float* ema = nullptr;  // of the shard's master; in memory of the host on every device (moving_average.h)
  bool is_muon = false;

  std::int64_t num_local() const { return weight.rows * weight.cols; }
  std::int64_t shard_size() const { return shard_rows * shard_cols; }
};

// A run of neighbouring elements of a shard that are neighbours in the whole tensor too.
struct ShardRun {
  std::int64_t at;      // in the shard
  std::int64_t global;  // in the logical tensor, row-major
  std::int64_t count;
  bool is_copy = false;  // of experts that another rank speaks for
};
// Of the shard that `layout` gives a rank; neighbours that go on in shard and tensor are one run, experts of one kind alike.
std::vector<ShardRun> shard_runs(const ParamSpec& spec, const ParamLayout& layout);

class ParamStore {
 public:
  // Takes the memory of what the layout gives this rank; without `training` only the weights. Averages: take_ema().
  ParamStore(Arena& arena, const std::vector<ParamSpec>& specs, DType dtype, bool training, const ParamLayout& layout,
             const TrainingState& state = {});

  const ParamLayout& layout() const { return layout_; }
  DType dtype() const { return dtype_; }
  bool training() const { return training_; }
  const TrainingState& state() const { return state_; }
  std::vector<Param>& all() { return params_; }
  const std::vector<Param>& all() const { return params_; }
  const Param& find(const std::string& name) const;  // throws std::out_of_range with the name
  std::vector<ShardRun> runs(const Param& param) const { return shard_runs(param.spec, layout_); }

  // Initial values of the shards, in memory of the host: a pure function of (seed, name, global element index).
  void initialize(std::uint64_t seed);
  // weight_shard = rounded master (bf16 only).
  void round_masters(Env env);
  // Takes the memory of the averages, if they are kept: of an arena of memory of the host.
  void take_ema(Arena& host);
  // Averages start at the masters.
  void start_ema(Stream& stream);
  // Averages in the place of masters and weights, and these in theirs. Twice: every bit as it was. Behind
  // MovingAverage::join().
  void swap_ema(Env env);
  // The shards, for AdamW; `decay` for the tensors that decay. Empty shards are left out, and Muon's.
  std::vector<AdamWTensor> adamw_tensors(float decay);
  std::vector<AdamWTensor> muon_tensors(float decay);  // Muon's alone

 private:
  std::vector<AdamWTensor> optimizer_tensors(bool muon, float decay);

  ParamLayout layout_;
  DType dtype_;
  bool training_;
  TrainingState state_;
  std::vector<Param> params_;
};

}  // namespace moe
