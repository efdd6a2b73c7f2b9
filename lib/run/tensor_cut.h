// Which boxes of a logical tensor a rank holds. Not here: who holds what (ParamLayout), files (lib/io).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/io/box.h"
#include "lib/tensor/param.h"

namespace moe {

// True for the names of tensors whose dimension 0 is the logical expert id: what ParamSpec::is_expert says, for tensors of
// which only the name is known.
bool is_expert_name(const std::string& name);

// A box of a tensor that is contiguous in a shard from element `at`.
struct ShardBox {
  Box box;
  std::int64_t at;
};

// Rows [begin, end) of a tensor as boxes. Experts [E, N, K]: rows of the matrix [E x N, K], as what the range has of its
// first expert, whole experts, what it has of its last. Others: along dimension 0. Nothing for an empty range.
std::vector<ShardBox> row_boxes(const std::vector<std::int64_t>& shape, bool is_expert, std::int64_t begin,
                                std::int64_t end);
std::int64_t num_rows(const std::vector<std::int64_t>& shape, bool is_expert);

// What the store holds of a parameter, with or without copies that another rank speaks for; a box of extent 0 if nothing.
std::vector<ShardBox> shard_boxes(const ParamStore& store, const Param& param, bool with_copies = true);

}  // namespace moe
