// Muon on the ranks of a mesh. The momentum of a matrix that ranks share is brought together on one of them, its owner, made
// orthogonal there, and its rows go back to whose they are. Owners are chosen so that their work is even over the group that
// shares the matrices: the ranks of a replica for dense ones, the shards of an expert-parallel rank for experts. Round by
// round each owner has one matrix, the largest first; the next one is on its way meanwhile. A matrix that is not cut is
// worked on where it lies. The result does not depend on the owner, so a mesh gives the same bits every time; replicas do
// the same work, each for itself, and copies of experts, whose gradients are equal, stay equal.
// Not here: the mathematics (kernels/muon.cpp), which matrices there are (ParamSpec::matrix_rows).
#pragma once

#include <vector>

#include "lib/comm/lane.h"
#include "lib/parallel/units.h"
#include "lib/tensor/arena.h"

namespace moe {

struct MuonHyper {
  float lr = 0, decay = 0, grad_scale = 1;
  float momentum = 0.95f;
};

class Muon {
 public:
  Muon(ParamStore& store, const UnitComms& comms, CommLane& lane, const Device& device = cpu_device());

  // Masters and weights of Muon's tensors -= lr * (0.2 sqrt(max(rows, cols)) * orthogonal + decay * w), of each matrix;
  // their momentum is kept in Param::m, grad_shard becomes 0. The factor makes an update as large as AdamW's usually are
  // (arXiv 2502.16982, 2.2). Every rank calls, when finish_gradients() is done.
  void step(Stream& stream, const Kernels& kernels, const MuonHyper& hyper);

  // Bytes of the buffers. `store` may be one that a measuring arena made.
  static std::size_t buffer_bytes(const ParamStore& store);

 private:
  // Rows [begin, begin + rows) of what the ranks of a group hold of a parameter together.
  struct Matrix {
    std::size_t param;
    std::int64_t begin, rows, cols;
  };
  struct Group {
    Comm* comm = nullptr;  // nullptr: not cut
    Cut cut;
    std::vector<std::vector<Matrix>> owner2matrices;  // round by round

    Group(const ParamStore& store, bool of_experts);
    std::size_t num_rounds() const;
    const Matrix* matrix(int owner, std::size_t round) const;
  };
  struct Buffers {
    std::span<float> matrix[2], work;
  };
  static Buffers take_buffers(Arena& arena, const Group& dense, const Group& expert);
  struct RowRange {
    std::int64_t begin, end;
  };
  RowRange shared_rows(const Group& group, const Matrix& matrix, int rank) const;
  float* own_rows(const Matrix& matrix, const RowRange& rows) const;
  enum class Way { kGather, kScatter };
  CommLane::Ticket exchange(const Group& group, std::size_t round, Way way);
  void orthogonalize(Stream& stream, const Kernels& kernels, const Matrix& matrix, float* data);
  void work_alone(Stream& stream, const Kernels& kernels, const Group& group);
  void work_together(Stream& stream, const Kernels& kernels, const Group& group);

  ParamStore& store_;
  CommLane& lane_;
  Group dense_, expert_;
  Arena arena_;
  Buffers buffers_;
};

}  // namespace moe
