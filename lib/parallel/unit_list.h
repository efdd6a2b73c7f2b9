// The units of a model, derived from the names of its parameters, and the memory that they are gathered into and reduced
// from: a few buffers that units of one kind take turns in. Sizes only: nothing here reads a tensor, so the store may be one
// that a measuring arena made. Not here: who holds which buffer (units.cpp).
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "lib/tensor/arena.h"
#include "lib/tensor/param.h"

namespace moe {

// Units that take turns in the same buffers. Tied embeddings are used together with the final norm, which then has a buffer
// of its own.
enum class UnitKind : std::uint8_t { kBlock, kExperts, kEnds, kTiedNorm };
inline constexpr std::size_t kNumUnitKinds = 4;

// A tensor of a unit: its place in ParamStore::all(), and where it lies in a buffer, in bytes.
struct UnitTensor {
  std::size_t param, weight_at, grad_at;
};
struct Unit {
  std::string name;  // for messages: "embedding", "layers.3", "layers.3.experts", "head"
  UnitKind kind;
  Cut cut;                          // of all its tensors; one part: neither gathered nor summed
  std::vector<UnitTensor> tensors;  // in the order of the store
  std::size_t weight_bytes = 0, grad_bytes = 0;

  bool is_cut() const { return cut.count > 1; }
};

struct UnitList {
  std::vector<Unit> units;
  int embedding = -1, head = -1;
  std::vector<int> dense, experts;  // by layer; experts: -1 in a layer without

  explicit UnitList(const ParamStore& store);

 private:
  int unit_of(const ParamSpec& spec, const ParamLayout& layout);
  int& index_of(const ParamSpec& spec);
};

struct UnitBuffers {
  // By UnitKind. Two for blocks and two for experts: one in use while the other is on its way. One for the ends of the
  // model, which lie a whole pass apart.
  std::array<std::vector<std::byte*>, kNumUnitKinds> weights, grads;
  std::span<float> staging;
};
UnitBuffers take_unit_buffers(Arena& arena, const UnitList& list, const ParamStore& store, bool training, int num_replicas);

}  // namespace moe
