#include "lib/parallel/muon.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moe {
namespace {

// Of five steps of Newton-Schulz, up to a constant factor.
double work_of(std::int64_t rows, std::int64_t cols) {
  const auto r = static_cast<double>(std::min(rows, cols)), n = static_cast<double>(std::max(rows, cols));
  return r * r * (2 * n + r);
}

}  // namespace

// Largest first to whoever has least to do.
Muon::Group::Group(const ParamStore& store, bool of_experts)
    : cut(of_experts ? store.layout().expert : store.layout().dense), owner2matrices(static_cast<std::size_t>(cut.count)) {
  std::vector<Matrix> all;
  for (std::size_t i = 0; i < store.all().size(); ++i) {
    const Param& p = store.all()[i];
    if (!p.is_muon || p.spec.is_expert != of_experts) continue;
    const std::int64_t rows_there = p.num_local() / p.spec.num_cols();
    for (std::int64_t row = 0; row < rows_there;)
      for (const std::int64_t rows : p.spec.matrix_rows) {
        all.push_back({i, row, rows, p.spec.num_cols()});
        row += rows;
      }
  }
  const auto work = [](const Matrix& m) { return work_of(m.rows, m.cols); };
  std::stable_sort(all.begin(), all.end(), [&](const Matrix& a, const Matrix& b) { return work(a) > work(b); });
  std::vector<double> owner2work(owner2matrices.size());
  for (const Matrix& m : all) {
    const auto owner = static_cast<std::size_t>(std::min_element(owner2work.begin(), owner2work.end()) - owner2work.begin());
    owner2work[owner] += work(m);
    owner2matrices[owner].push_back(m);
  }
}

std::size_t Muon::Group::num_rounds() const {
  std::size_t most = 0;
  for (const auto& matrices : owner2matrices) most = std::max(most, matrices.size());
  return most;
}

const Muon::Matrix* Muon::Group::matrix(int owner, std::size_t round) const {
  const auto& matrices = owner2matrices[static_cast<std::size_t>(owner)];
  return round < matrices.size() ? &matrices[round] : nullptr;
}

// Two matrices where they are brought together, one on its way; none where they lie whole.
Muon::Buffers Muon::take_buffers(Arena& arena, const Group& dense, const Group& expert) {
  std::int64_t gathered = 0, work = 0;
  for (const Group* group : {&dense, &expert})
    for (const Matrix& m : group->owner2matrices[static_cast<std::size_t>(group->cut.index)]) {
      if (group->cut.count > 1) gathered = std::max(gathered, m.rows * m.cols);
      work = std::max(work, orthogonalize_floats(m.rows, m.cols));
    }
  return {{arena.vector<float>(gathered), arena.vector<float>(gathered)}, arena.vector<float>(work)};
}

std::size_t Muon::buffer_bytes(const ParamStore& store) {
  Arena measuring(0);
  take_buffers(measuring, Group(store, false), Group(store, true));
  return measuring.used_bytes();
}

Muon::Muon(ParamStore& store, const UnitComms& comms, CommLane& lane, const Device& device)
    : store_(store),
      lane_(lane),
      dense_(store, false),
      expert_(store, true),
      arena_(std::max<std::size_t>(64, buffer_bytes(store)), device) {
  dense_.comm = comms.dense;
  expert_.comm = comms.expert;
  buffers_ = take_buffers(arena_, dense_, expert_);
}

// Rows of a matrix that a rank of the group has.
Muon::RowRange Muon::shared_rows(const Group& group, const Matrix& m, int rank) const {
  const Cut cut{rank, group.cut.count};
  const std::int64_t all = store_.all()[m.param].num_local() / m.cols;
  const std::int64_t begin = std::max(m.begin, cut.begin(all)), end = std::min(m.begin + m.rows, cut.end(all));
  return {begin, std::max(begin, end)};
}

float* Muon::own_rows(const Matrix& m, const RowRange& rows) const {
  const Param& p = store_.all()[m.param];
  return p.grad_shard + (rows.begin - p.shard_begin) * m.cols;
}

// The matrices of a round to their owners, or back.
CommLane::Ticket Muon::exchange(const Group& group, std::size_t round, Way way) {
  std::vector<SendPiece> sends;
  std::vector<RecvPiece> receives;
  const auto bytes = [](const Matrix& m, const RowRange& r) {
    return static_cast<std::size_t>((r.end - r.begin) * m.cols) * sizeof(float);
  };
  const auto move = [&](int peer, float* data, std::size_t n, bool is_send) {
    if (n == 0) return;
    is_send ? sends.push_back({peer, data, n}) : receives.push_back({peer, data, n});
  };
  for (int peer = 0; peer < group.cut.count; ++peer) {
    if (const Matrix* theirs = group.matrix(peer, round)) {
      const RowRange rows = shared_rows(group, *theirs, group.cut.index);
      if (const std::size_t n = bytes(*theirs, rows)) move(peer, own_rows(*theirs, rows), n, way == Way::kGather);
    }
    if (const Matrix* mine = group.matrix(group.cut.index, round)) {
      const RowRange rows = shared_rows(group, *mine, peer);
      float* const at = buffers_.matrix[round % 2].data() + (rows.begin - mine->begin) * mine->cols;
      move(peer, at, bytes(*mine, rows), way == Way::kScatter);
    }
  }
  return lane_.submit("muon", [comm = group.comm, sends = std::move(sends), receives = std::move(receives)] {
    comm->exchange("muon", sends, receives);
  });
}

void Muon::orthogonalize(Stream& stream, const Kernels& kernels, const Matrix& m, float* data) {
  const float scale = 0.2f * std::sqrt(static_cast<float>(std::max(m.rows, m.cols)));
  kernels.muon.orthogonalize(stream, mat(data, m.rows, m.cols), scale, buffers_.work);
}

void Muon::work_alone(Stream& stream, const Kernels& kernels, const Group& group) {
  for (const Matrix& m : group.owner2matrices[0])
    orthogonalize(stream, kernels, m, own_rows(m, {m.begin, m.begin + m.rows}));
}

// The lane runs tasks in order: what comes into a buffer comes after what leaves it.
void Muon::work_together(Stream& stream, const Kernels& kernels, const Group& group) {
  const std::size_t rounds = group.num_rounds();
  CommLane::Ticket arrived = rounds > 0 ? exchange(group, 0, Way::kGather) : 0, last = arrived;
  for (std::size_t round = 0; round < rounds; ++round) {
    const CommLane::Ticket next = round + 1 < rounds ? exchange(group, round + 1, Way::kGather) : 0;
    lane_.wait(arrived);
    if (const Matrix* mine = group.matrix(group.cut.index, round))
      orthogonalize(stream, kernels, *mine, buffers_.matrix[round % 2].data());
    last = exchange(group, round, Way::kScatter);
    arrived = next;
  }
  if (rounds > 0) lane_.wait(last);
}

void Muon::step(Stream& stream, const Kernels& kernels, const MuonHyper& h) {
  const std::vector<AdamWTensor> tensors = store_.muon_tensors(h.decay);
  for (const AdamWTensor& t : tensors) kernels.muon.momentum(stream, t, h.momentum, h.grad_scale);
  for (const Group* group : {&dense_, &expert_})
    group->comm ? work_together(stream, kernels, *group) : work_alone(stream, kernels, *group);
  for (const AdamWTensor& t : tensors) kernels.muon.apply(stream, t, h.lr);
}

}  // namespace moe
