// Rows to the ranks that hold their experts and back (DESIGN 2, field: DeepSeek-V3 report 3.2.2, DeepEP).
// A token's row crosses to another node once: to the rank with the sender's index inside the node, which forwards it to the
// ranks of its node that want it, once to each. On the way back a rank adds up what its experts made of a token, the
// forwarder adds up over its node, and one row per node goes home. Flat: every rank is a node of its own. dispatch() and
// combine() are transposes over one Route: two exchanges, four uses. Everything runs on the lane's thread; plan, dispatch,
// combine and return_gates are collective calls. Letters: L experts held here, R rows here (token x local expert), U rows
// that arrived here (token x this rank).
// Orders, the same for one mesh and mode every time. Rows: by local expert, then by forwarder (inside a node the source
// itself; flat: there is none, the own tokens come first), source, token. Sums: slots of a token that are on one rank in
// the order of k; then the ranks of another node; then nodes by their lowest rank, in the place of the own node its ranks
// one by one, so that += rounds once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "lib/comm/comm.h"
#include "lib/comm/expert_map.h"

namespace moe {

enum class DispatchMode : std::uint8_t { kAuto, kFlat, kTwoLevel };

// Payload of rows alone; what counts and ids took is `control_bytes`. Sent by this rank, to itself not counted.
struct DispatchTraffic {
  std::int64_t inter_node_bytes = 0, intra_node_bytes = 0, control_bytes = 0;
  std::int64_t inter_node_rows = 0, intra_node_rows = 0;
  // What crossing nodes cannot do without: distinct destination nodes per token, other than the own, times row bytes.
  std::int64_t inter_node_bytes_min = 0;
};

// One micro-batch on its way through one layer, kept from forward to backward. Filled by Dispatcher::plan.
struct Route {
  struct Hops;  // maps of both hops
  Route();
  ~Route();
  Route(Route&&) noexcept;
  Route& operator=(Route&&) noexcept;

  std::int64_t num_rows = 0;               // R
  std::vector<std::int64_t> psum_rows_L1;  // first row of each local expert
  std::unique_ptr<Hops> hops;
};

class Dispatcher {
 public:
  // comm: the expert-parallel group; rank2node: node of each of its ranks (any numbers). kAuto takes two levels if a node
  // with several ranks and a second node are there. `maps`: of layers whose experts lie differently; they share all buffers.
  // rows_comm: the same group, for memory of the stream's device; `comm` carries counts, ids and gates, of the host.
  Dispatcher(Comm& comm, Comm& rows_comm, const std::vector<int>& rank2node, std::span<const LayerMap> maps,
             DispatchMode mode, Stream& stream, const Kernels& kernels);
  Dispatcher(Comm& comm, const std::vector<int>& rank2node, const ExpertMap& map, DispatchMode mode, Stream& stream,
             const Kernels& kernels);
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  DispatchMode mode() const;  // never kAuto

  // Decides the way of every row: idx_N (logical expert of slot t*K + k; -1: dropped), gate_N, any number of tokens, 0 too.
  // route (=); gate_R (=) the gates of the rows here, in room for max_rows(); Error(kInternal) if they do not fit. `map`:
  // the number of the layer's map. All of the host, as are the gates of return_gates().
  void plan(std::span<const std::int32_t> idx_N, std::span<const float> gate_N, int top_k, Route& route,
            std::span<float> gate_R, std::size_t map = 0);
  // y_RD (=) the row of x_TD of each row's token, sorted by local expert; y_RD has route.num_rows rows. If one is bf16, bf16
  // travels.
  void dispatch(const Route& route, CMat x_TD, Mat y_RD);
  // x_TD (=|+=) for each token the sum of its rows of y_RD, wherever they are. Partial sums travel as the dtype of y_RD.
  void combine(const Route& route, CMat y_RD, Mat x_TD, Store store);
  // dgate_N (=) the value of each slot's row; 0 for dropped slots. The way of combine() for one number per row.
  void return_gates(const Route& route, std::span<const float> dgate_R, std::span<float> dgate_N);

  // Since the last call; dispatch() and combine() count.
  DispatchTraffic take_traffic();

  // Rows that can arrive here at most when the ranks of the group hold `tokens_of_group` tokens in all.
  static std::int64_t max_rows(std::int64_t tokens_of_group, int top_k, int num_local_experts);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moe
