// One layer's copies of experts on ranks while a solver changes them: loads of ranks, who has what, how many copies, kept
// up to date by each change. Not here: which change is good (solve_search.h).
//   E experts   R ranks
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "lib/base/placement.h"

namespace moe {

// What a layer asks for. All copies of an expert get an equal part of its load.
struct LayerProblem {
  std::vector<double> load_E;
  std::vector<int> min_slots_R, max_slots_R;
  int num_slots = 0;                      // of all ranks
  std::vector<std::pair<int, int>> pins;  // (rank, expert): this copy stays
  LayerPlacement old;                     // what there was; no ranks: nothing. Copies on other ranks count as moved

  int num_experts() const { return static_cast<int>(load_E.size()); }
  int num_ranks() const { return static_cast<int>(max_slots_R.size()); }
};

class Packing {
 public:
  explicit Packing(const LayerProblem& problem);

  const LayerProblem& problem() const { return *problem_; }
  int num_experts() const { return problem_->num_experts(); }
  int num_ranks() const { return problem_->num_ranks(); }
  std::span<const int> experts_of(int rank) const { return rank2experts_[at(rank)]; }
  std::span<const int> ranks_of(int expert) const { return expert2ranks_[at(expert)]; }
  int num_copies(int expert) const { return static_cast<int>(expert2ranks_[at(expert)].size()); }
  int num_free(int rank) const { return problem_->max_slots_R[at(rank)] - static_cast<int>(rank2experts_[at(rank)].size()); }
  bool may_lose(int rank) const {
    return problem_->min_slots_R[at(rank)] < static_cast<int>(rank2experts_[at(rank)].size());
  }
  bool has(int rank, int expert) const { return (flags(rank, expert) & kHere) != 0; }
  bool is_pinned(int rank, int expert) const { return (flags(rank, expert) & kPinned) != 0; }
  bool was_there(int rank, int expert) const { return (flags(rank, expert) & kOld) != 0; }
  double copy_load(int expert) const { return copy_load_E_[at(expert)]; }
  double load_of(int rank) const { return load_R_[at(rank)]; }
  int worst_rank() const;  // the lowest of those with the most load
  double max_load() const { return load_of(worst_rank()); }
  int num_moved() const { return num_moved_; }  // copies on ranks that did not have them

  // A copy comes (the rank has none, and room) or goes; the others' parts change. Loads of all its ranks follow.
  void put(int rank, int expert);
  void take(int rank, int expert);
  void move(int expert, int from, int to);
  void exchange(int rank, int expert, int other_rank, int other_expert);
  LayerPlacement placement() const;  // ids ascending on each rank

 private:
  static constexpr std::uint8_t kHere = 1, kPinned = 2, kOld = 4;
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }
  std::uint8_t flags(int rank, int expert) const { return flags_RE_[at(rank) * problem_->load_E.size() + at(expert)]; }
  std::uint8_t& flags(int rank, int expert) { return flags_RE_[at(rank) * problem_->load_E.size() + at(expert)]; }
  void enter(int rank, int expert);
  void leave(int rank, int expert);
  void sum_rank(int rank);      // anew, in the order of slots: no drift
  void share_anew(int expert);  // the load of each copy, and of their ranks

  const LayerProblem* problem_;
  std::vector<std::vector<int>> rank2experts_, expert2ranks_;
  std::vector<std::uint8_t> flags_RE_;
  std::vector<double> copy_load_E_, load_R_;
  int num_moved_ = 0;
};

}  // namespace moe
