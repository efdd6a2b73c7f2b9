// Rows along a route and back. Not here: how a route comes about (dispatch_plan.cpp, dispatch_route.cpp, dispatch_ways.cpp).
#include "lib/comm/dispatch.h"

#include <algorithm>
#include <string>
#include <utility>

#include "lib/base/error.h"
#include "lib/comm/dispatch_state.h"

namespace moe {
namespace {

void expect_rows(const char* what, CMat m, std::int64_t rows, std::int64_t cols) {
  if (m.rows == rows && m.cols == cols) return;
  throw Error(Exit::kInternal, std::string("dispatch: ") + what + ": expected " + std::to_string(rows) + " x " +
                                   std::to_string(cols) + ", found " + std::to_string(m.rows) + " x " +
                                   std::to_string(m.cols));
}

const Route::Hops& hops_of(const Route& route) {
  if (!route.hops) throw Error(Exit::kInternal, "dispatch: expected a planned route, found an empty one");
  return *route.hops;
}

void copy_entries(const std::vector<float>& from, const PacketRange& a, std::vector<float>& to, const PacketRange& b) {
  std::copy_n(from.begin() + a.entry, a.num_entries, to.begin() + b.entry);
}

void wait_for(const std::unique_ptr<Transfer>& transfer) {
  if (transfer) transfer->wait();
}

// to_N[map_N[i]] (=) from_N[i]
void scatter(const std::vector<float>& from_N, std::span<const std::int32_t> map_N, std::span<float> to_N) {
  for (std::size_t i = 0; i < map_N.size(); ++i) to_N[static_cast<std::size_t>(map_N[i])] = from_N[i];
}

}  // namespace

Route::Route() = default;
Route::~Route() = default;
Route::Route(Route&&) noexcept = default;
Route& Route::operator=(Route&&) noexcept = default;

Dispatcher::Dispatcher(Comm& comm, Comm& rows_comm, const std::vector<int>& rank2node, std::span<const LayerMap> maps,
                       DispatchMode mode, Stream& stream, const Kernels& kernels)
    : state_(new State{.comm = comm,
                       .rows_comm = rows_comm,
                       .stream = stream,
                       .permute = kernels.permute,
                       .ways = {comm.rank(), rank2node, mode}}) {
  for (const LayerMap& map : maps) {
    state_->maps.emplace_back(state_->ways, map.map);
    state_->choices.push_back(map.choice);
  }
}
Dispatcher::Dispatcher(Comm& comm, const std::vector<int>& rank2node, const ExpertMap& map, DispatchMode mode,
                       Stream& stream, const Kernels& kernels)
    : Dispatcher(comm, comm, rank2node, std::vector<LayerMap>{{map, {}}}, mode, stream, kernels) {}
Dispatcher::~Dispatcher() = default;

DispatchMode Dispatcher::mode() const { return state_->ways.mode; }

DispatchTraffic Dispatcher::take_traffic() { return std::exchange(state_->traffic, {}); }

std::int64_t Dispatcher::max_rows(std::int64_t tokens_of_group, int top_k, int num_local_experts) {
  return tokens_of_group * std::min(top_k, num_local_experts);
}

// Rows of dispatch(); the memory of those that nobody needs is not touched.
Dispatcher::State::DispatchRows Dispatcher::State::rows_of_dispatch(const Route::Hops& hops, DType dtype, std::int64_t D) {
  DispatchRows m;
  m.out = out_rows.rows(dtype, hops.out.num_packets(), D);
  m.here = here_rows.rows(dtype, hops.num_u(), D);
  if (num_inside() == 1) {  // nobody to forward to: rows arrive where they stay
    m.arrived = m.here.slice_rows(hops.forwarded_F[0].row, hops.forwarded_F[0].num_rows);
    return m;
  }
  m.arrived = arrived_rows.rows(dtype, hops.num_arrived(), D);
  m.forward = forward_rows.rows(dtype, hops.forward.num_packets(), D);
  return m;
}

// to (=) for bucket b of `split` its rows of `from`.
void Dispatcher::State::gather(const PacketSplit& split, int b, CMat from, Mat to) {
  if (to.rows > 0) permute.gather(stream, from, on_device(split.sources_of(b)), 1, to);
}

std::unique_ptr<Transfer> Dispatcher::State::send_hop1(const Route::Hops& hops, CMat x_TD, const DispatchRows& m) {
  for (int b = 0; b < num_buckets(); ++b) {
    if (ways.buckets[b].inside) continue;
    const PacketRange r = hops.out.bucket(b);
    gather(hops.out, b, x_TD, m.out.slice_rows(r.row, r.num_rows));
    batch.send_rows(ways, ways.buckets[b].peer, m.out, r.row, r.num_rows, traffic);
  }
  for (std::size_t i = 0; i < ways.sources.size(); ++i)
    batch.receive_rows(ways.sources[i], m.arrived, hops.arrived_S[i].row, hops.arrived_S[i].num_rows);
  return ways.hop1 ? batch.start(rows_comm, "dispatch rows") : nullptr;
}

// Own rows for this node: to the ranks that want them; those that stay are copied once, while the others travel.
std::unique_ptr<Transfer> Dispatcher::State::send_own(const Route::Hops& hops, CMat x_TD, const DispatchRows& m) {
  for (int d = 0; d < num_inside(); ++d) {
    const PacketRange r = hops.out.bucket(ways.inside2bucket[d]), at = hops.own_F[d];
    if (d == ways.self_inside) continue;
    gather(hops.out, ways.inside2bucket[d], x_TD, m.out.slice_rows(r.row, r.num_rows));
    batch.send_rows(ways, ways.inside[d], m.out, r.row, r.num_rows, traffic);
    batch.receive_rows(ways.inside[d], m.here, at.row, at.num_rows);
  }
  auto transfer = ways.hop2 ? batch.start(rows_comm, "dispatch forward") : nullptr;
  const PacketRange self = hops.own_F[ways.self_inside];
  gather(hops.out, ways.self_bucket, x_TD, m.here.slice_rows(self.row, self.num_rows));
  return transfer;
}

// The same for rows that came by hop 1.
std::unique_ptr<Transfer> Dispatcher::State::send_forwarded(const Route::Hops& hops, const DispatchRows& m) {
  if (!ways.hop1 || !ways.hop2) return nullptr;
  for (int d = 0; d < num_inside(); ++d) {
    const PacketRange r = hops.forward.bucket(d), at = hops.forwarded_F[d];
    if (d == ways.self_inside) continue;
    gather(hops.forward, d, m.arrived, m.forward.slice_rows(r.row, r.num_rows));
    batch.send_rows(ways, ways.inside[d], m.forward, r.row, r.num_rows, traffic);
    batch.receive_rows(ways.inside[d], m.here, at.row, at.num_rows);
  }
  auto transfer = batch.start(rows_comm, "dispatch forward");
  const PacketRange self = hops.forwarded_F[ways.self_inside];
  if (num_inside() > 1) gather(hops.forward, ways.self_inside, m.arrived, m.here.slice_rows(self.row, self.num_rows));
  return transfer;
}

void Dispatcher::dispatch(const Route& route, CMat x_TD, Mat y_RD) {
  State& s = *state_;
  const Route::Hops& hops = hops_of(route);
  expect_rows("tokens", x_TD, hops.num_tokens, y_RD.cols);
  expect_rows("rows", y_RD, route.num_rows, x_TD.cols);
  if (s.alone()) return s.permute.gather(s.stream, x_TD, s.on_device(hops.row2u_R), 1, y_RD);
  const DType dtype = x_TD.dtype == DType::kBF16 ? DType::kBF16 : y_RD.dtype;  // the narrower one travels
  const State::DispatchRows m = s.rows_of_dispatch(hops, dtype, x_TD.cols);
  s.traffic.inter_node_bytes_min += hops.num_other_nodes * MessageBatch::row_bytes(m.out);
  const auto hop1 = s.send_hop1(hops, x_TD, m);
  const auto own = s.send_own(hops, x_TD, m);
  wait_for(hop1);
  const auto forwarded = s.send_forwarded(hops, m);
  wait_for(own);
  wait_for(forwarded);
  s.permute.gather(s.stream, m.here, s.on_device(hops.row2u_R), 1, y_RD);
}

// Hop 2 backwards: the partial sums of what arrived here go to who sent it, for its own tokens or for what it forwarded.
std::unique_ptr<Transfer> Dispatcher::State::return_inside(const Route::Hops& hops, Mat sums, bool own) {
  if (!ways.hop2) return nullptr;
  for (int d = 0; d < num_inside(); ++d) {
    if (d == ways.self_inside) continue;
    const PacketRange mine = own ? hops.own_F[d] : hops.forwarded_F[d];
    const PacketRange theirs = own ? hops.out.bucket(ways.inside2bucket[d]) : hops.forward.bucket(d);
    batch.send_rows(ways, ways.inside[d], sums, mine.row, mine.num_rows, traffic);
    batch.receive_rows(ways.inside[d], sums, theirs.row + (own ? hops.out_at() : hops.forward_at()), theirs.num_rows);
  }
  return batch.start(rows_comm, "combine inside");
}

// Hop 1 backwards: for each packet that came from another node the sum over this one.
std::unique_ptr<Transfer> Dispatcher::State::return_hop1(const Route::Hops& hops, Mat sums) {
  if (!ways.hop1) return nullptr;
  const PacketRange self = hops.forwarded_F[ways.self_inside];
  Mat home = sums.slice_rows(self.row, self.num_rows);  // a node of one rank: its partial sums are the node's
  if (num_inside() > 1) {
    home = arrived_rows.rows(sums.dtype, hops.num_arrived(), sums.cols);
    permute.combine(stream, sums, on_device(hops.arrived2sums.rows), hops.arrived2sums.stride, home, Store::kAssign);
  }
  for (std::size_t i = 0; i < ways.sources.size(); ++i)
    batch.send_rows(ways, ways.sources[i], home, hops.arrived_S[i].row, hops.arrived_S[i].num_rows, traffic);
  for (int b = 0; b < num_buckets(); ++b) {
    if (ways.buckets[b].inside) continue;
    const PacketRange r = hops.out.bucket(b);
    batch.receive_rows(ways.buckets[b].peer, sums, hops.out_at() + r.row, r.num_rows);
  }
  return batch.start(rows_comm, "combine rows");
}

void Dispatcher::combine(const Route& route, CMat y_RD, Mat x_TD, Store store) {
  State& s = *state_;
  const Route::Hops& hops = hops_of(route);
  expect_rows("tokens", x_TD, hops.num_tokens, y_RD.cols);
  expect_rows("rows", y_RD, route.num_rows, x_TD.cols);
  const RowMap& token2sums = hops.token2sums;
  if (s.alone()) return s.permute.combine(s.stream, y_RD, s.on_device(token2sums.rows), token2sums.stride, x_TD, store);
  const Mat sums = s.here_rows.rows(y_RD.dtype, hops.num_sums(), y_RD.cols);
  s.traffic.inter_node_bytes_min += hops.num_other_nodes * MessageBatch::row_bytes(sums);
  s.permute.combine(s.stream, y_RD, s.on_device(hops.u2rows.rows), hops.u2rows.stride, sums.slice_rows(0, hops.num_u()),
                    Store::kAssign);
  if (s.ways.hop1) wait_for(s.return_inside(hops, sums, false));  // first what has the longer way
  const auto hop1 = s.return_hop1(hops, sums);
  const auto own = s.return_inside(hops, sums, true);
  wait_for(own);
  wait_for(hop1);
  s.permute.combine(s.stream, sums, s.on_device(token2sums.rows), token2sums.stride, x_TD, store);
}

// out_values, forward_values (=) what the ranks of this node say of the entries that they got from here.
void Dispatcher::State::return_values_inside(const Route::Hops& hops) {
  for (int d = 0; d < num_inside(); ++d) {
    const PacketRange own = hops.out.bucket(ways.inside2bucket[d]), forwarded = hops.forward.bucket(d);
    if (d == ways.self_inside) {
      copy_entries(here_values, hops.own_F[d], out_values, own);
      copy_entries(here_values, hops.forwarded_F[d], forward_values, forwarded);
      continue;
    }
    batch.send(ways.inside[d], here_values.data() + hops.own_F[d].entry, hops.own_F[d].num_entries);
    batch.send(ways.inside[d], here_values.data() + hops.forwarded_F[d].entry, hops.forwarded_F[d].num_entries);
    batch.receive(ways.inside[d], out_values.data() + own.entry, own.num_entries);
    batch.receive(ways.inside[d], forward_values.data() + forwarded.entry, forwarded.num_entries);
  }
  if (ways.hop2) batch.exchange_control(comm, "gates", traffic);
}

// out_values (=) those of other nodes.
void Dispatcher::State::return_values_home(const Route::Hops& hops) {
  if (!ways.hop1) return;
  for (std::size_t i = 0; i < ways.sources.size(); ++i)
    batch.send(ways.sources[i], arrived_values.data() + hops.arrived_S[i].entry, hops.arrived_S[i].num_entries);
  for (int b = 0; b < num_buckets(); ++b) {
    if (ways.buckets[b].inside) continue;
    const PacketRange r = hops.out.bucket(b);
    batch.receive(ways.buckets[b].peer, out_values.data() + r.entry, r.num_entries);
  }
  batch.exchange_control(comm, "gates", traffic);
}

void Dispatcher::return_gates(const Route& route, std::span<const float> dgate_R, std::span<float> dgate_N) {
  State& s = *state_;
  const Route::Hops& hops = hops_of(route);
  expect_rows("gates", {.rows = static_cast<std::int64_t>(dgate_R.size()), .cols = 1}, route.num_rows, 1);
  expect_rows("slots", {.rows = static_cast<std::int64_t>(dgate_N.size()), .cols = 1}, hops.num_slots, 1);
  s.here_values.resize(dgate_R.size());
  for (std::size_t i = 0; i < dgate_R.size(); ++i) s.here_values[i] = dgate_R[static_cast<std::size_t>(hops.entry2row_R[i])];
  s.out_values.resize(hops.out.entry2source_N.size());
  s.forward_values.resize(hops.forward.entry2source_N.size());
  s.arrived_values.resize(s.forward_values.size());  // every entry of hop 1 is wanted by one rank of this node
  s.return_values_inside(hops);
  scatter(s.forward_values, hops.forward.entry2source_N, s.arrived_values);
  s.return_values_home(hops);
  std::fill(dgate_N.begin(), dgate_N.end(), 0.0f);
  scatter(s.out_values, hops.out.entry2source_N, dgate_N);
}

}  // namespace moe
