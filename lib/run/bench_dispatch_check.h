// What must arrive where in `moe-bench dispatch`, row by row. Every row names its token in its values, in integers so small
// that all sums are exact; a rank works out from the seed what all ranks send it, and looks for each row once. Not here:
// who sends what (bench_workload.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/view.h"
#include "lib/run/bench_workload.h"

namespace moe {

// Column c of the row of token `id` holds digit c mod num_digits of the id, changed by a constant of the column.
class RowCode {
 public:
  // max_factor: of sums of rows. Error(kUsage) if num_cols are too few to tell num_ids tokens apart.
  RowCode(DType dtype, int max_factor, std::int64_t num_cols, std::int64_t num_ids);

  // m (=): row i holds factors[i] times the row of token first + i.
  void write(Mat m, std::int64_t first, std::span<const std::int32_t> factors) const;
  std::int64_t id_of(CMat m, std::int64_t row) const;
  // All columns of the row hold `factor` times the row of token `id`.
  bool holds(CMat m, std::int64_t row, std::int64_t id, std::int32_t factor) const;

 private:
  float value(std::int64_t id, std::size_t col) const {
    return static_cast<float>((static_cast<std::uint32_t>(id >> shift_D_[col]) ^ change_D_[col]) & mask_);
  }
  std::uint32_t mask_;
  std::vector<int> shift_D_;
  std::vector<std::uint32_t> change_D_;
  std::size_t num_digits_;
};

// Gates that the tokens of all ranks have: 1 or 2.
std::int32_t bench_gate(std::int64_t slot_of_group);

// Who sends what to whom in one repetition. Tokens of the group are numbered source * most_tokens + token.
class DispatchOracle {
 public:
  DispatchOracle(const RowSource& source, const ExpertMap& map, int top_k, int rank);
  void set_repetition(int repetition);

  std::int64_t num_tokens() const { return num_tokens_; }  // of this rank
  std::int64_t first_id() const { return rank_ * most_tokens_; }
  const std::vector<std::int32_t>& idx_N() const { return routes_[static_cast<std::size_t>(rank_)]; }
  std::vector<float> gate_N() const;
  std::vector<std::int32_t> gate_sums_T() const;
  std::vector<std::int32_t> num_slots_T() const;       // experts that each token chose
  std::int64_t num_rows() const { return num_rows_; }  // that must arrive here

  // Numbers of rows that are not as they must be; missing and doubled ones count.
  std::int64_t wrong_rows(const RowCode& code, const Route& route, CMat y_RD, std::span<const float> gate_R) const;
  // Of sums over slots, weighted by `factors_T`.
  std::int64_t wrong_sums(const RowCode& code, CMat x_TD, std::span<const std::int32_t> factors_T) const;
  std::int64_t wrong_gates(std::span<const float> dgate_N, float factor) const;

 private:
  std::int64_t slot_of(std::int64_t id, int expert) const;  // of the group; -1: the token did not choose it

  const RowSource& source_;
  const ExpertMap& map_;
  int top_k_, rank_, repetition_ = -1;
  std::int64_t most_tokens_, num_tokens_, num_rows_ = 0;
  std::vector<std::vector<std::int32_t>> routes_;  // of each rank
};

}  // namespace moe
