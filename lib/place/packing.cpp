#include "lib/place/packing.h"

#include <algorithm>

namespace moe {

Packing::Packing(const LayerProblem& problem)
    : problem_(&problem),
      rank2experts_(problem.max_slots_R.size()),
      expert2ranks_(problem.load_E.size()),
      flags_RE_(problem.max_slots_R.size() * problem.load_E.size()),
      copy_load_E_(problem.load_E),
      load_R_(problem.max_slots_R.size()) {
  for (const auto& [rank, expert] : problem.pins) flags(rank, expert) |= kPinned;
  for (int r = 0; r < problem.old.num_ranks(); ++r)
    for (const int e : problem.old.rank2experts[at(r)]) flags(r, e) |= kOld;
}

int Packing::worst_rank() const {
  return static_cast<int>(std::max_element(load_R_.begin(), load_R_.end()) - load_R_.begin());
}

void Packing::enter(int rank, int expert) {
  rank2experts_[at(rank)].push_back(expert);
  expert2ranks_[at(expert)].push_back(rank);
  flags(rank, expert) |= kHere;
  if (!was_there(rank, expert)) ++num_moved_;
}

void Packing::leave(int rank, int expert) {
  auto& experts = rank2experts_[at(rank)];
  auto& ranks = expert2ranks_[at(expert)];
  experts.erase(std::find(experts.begin(), experts.end(), expert));
  ranks.erase(std::find(ranks.begin(), ranks.end(), rank));
  flags(rank, expert) &= static_cast<std::uint8_t>(~kHere);
  if (!was_there(rank, expert)) --num_moved_;
}

void Packing::sum_rank(int rank) {
  double sum = 0;
  for (const int e : rank2experts_[at(rank)]) sum += copy_load_E_[at(e)];
  load_R_[at(rank)] = sum;
}

void Packing::share_anew(int expert) {
  const auto& ranks = expert2ranks_[at(expert)];
  copy_load_E_[at(expert)] = problem_->load_E[at(expert)] / static_cast<double>(std::max<std::size_t>(ranks.size(), 1));
  for (const int r : ranks) sum_rank(r);
}

void Packing::put(int rank, int expert) {
  enter(rank, expert);
  share_anew(expert);
}

void Packing::take(int rank, int expert) {
  leave(rank, expert);
  share_anew(expert);
  sum_rank(rank);
}

void Packing::move(int expert, int from, int to) {
  leave(from, expert);
  enter(to, expert);
  sum_rank(from);
  sum_rank(to);
}

void Packing::exchange(int rank, int expert, int other_rank, int other_expert) {
  leave(rank, expert);
  leave(other_rank, other_expert);
  enter(other_rank, expert);
  enter(rank, other_expert);
  sum_rank(rank);
  sum_rank(other_rank);
}

LayerPlacement Packing::placement() const {
  LayerPlacement layer{rank2experts_};
  for (auto& experts : layer.rank2experts) std::sort(experts.begin(), experts.end());
  return layer;
}

}  // namespace moe
