#include "lib/run/bench_dispatch_run.h"

#include <algorithm>

#include "lib/base/stopwatch.h"
#include "lib/run/bench_ranks.h"

namespace moe {
namespace {

// Packed rows of the device that stay where they are while they grow no further, and their image on the host.
class Rows {
 public:
  Rows(Stream& stream, DType dtype, std::int64_t cols) : room_(stream), dtype_(dtype), cols_(cols) {}
  Mat of(std::int64_t n) { return {room_.data(bytes(n)), dtype_, n, cols_, cols_}; }
  Mat image(std::int64_t n) { return {room_.image(bytes(n)), dtype_, n, cols_, cols_}; }
  void push(std::int64_t n) { room_.push(bytes(n)); }
  Mat pulled(std::int64_t n) {
    room_.pull(bytes(n));
    return image(n);
  }

 private:
  std::size_t bytes(std::int64_t n) const { return static_cast<std::size_t>(n * cols_) * size_of(dtype_); }
  ImagedRoom room_;
  DType dtype_;
  std::int64_t cols_;
};

// One workload by one way of exchange, on this rank.
class DispatchRun {
 public:
  DispatchRun(const BenchOptions& o, DispatchGroup& group, const DispatchJob& job, DispatchMode mode, DeviceLink& link)
      : o_(o),
        group_(group),
        world_(group.world),
        K_(o.model.top_k),
        D_(o.model.d_model),
        source_(*job.source),
        map_(job.map),
        oracle_(source_, map_, K_, group.place.ep),
        code_(code_of(o, group, source_)),
        stream_(link.stream()),
        dispatcher_(link.host(), link.comm(), group.rank2node, std::vector<LayerMap>{{map_, {}}}, mode, stream_,
                    link.env().kernels),
        x_(stream_, o.dtype, D_),
        rows_(stream_, o.dtype, D_),
        weighted_(stream_, o.dtype, D_),
        sums_(stream_, o.dtype, D_),
        expected_(world_.num_nodes()) {
    row_.name = source_.name();
    row_.description = source_.description();
    row_.layer = job.layer;
    row_.tokens = job.tokens;
    row_.mode = dispatcher_.mode();
    set_repetition(0);
    gate_R_.resize(static_cast<std::size_t>(
        Dispatcher::max_rows(group.shape.ep * source_.most_tokens(), K_, static_cast<int>(num_experts_here()))));
  }

  DispatchMode mode() const { return row_.mode; }

  // On a GPU memory is dear to take: every repetition that differs is made once before any is measured.
  DispatchRow measure(double budget) {
    const int period = source_.period();
    for (int i = stream_.is_cpu() ? 0 : period - 1; i >= 0; --i) repeat(i);
    Stopwatch clock;
    repeat(0);
    double seconds = clock.seconds();
    max_over_ranks(world_, std::span(&seconds, 1));
    const int n = (num_repetitions(budget, seconds) + period - 1) / period * period;
    for (auto& s : seconds_) s.clear();
    forward_ = {};
    expected_ = NodeTraffic(world_.num_nodes());
    row_.rows_r.clear();
    row_.max_over_mean = 0;
    for (int i = 0; i < n; ++i) {
      repeat(i);
      add_node_traffic(oracle_.idx_N(), K_, world_.rank2node()[static_cast<std::size_t>(world_.rank())], map_,
                       group_.rank2node, mode(), expected_);
    }
    finish(n);
    return row_;
  }

 private:
  std::size_t num_experts_here() const { return map_.rank2experts[static_cast<std::size_t>(group_.place.ep)].size(); }

  void set_repetition(int repetition) {
    oracle_.set_repetition(repetition);
    gate_N_ = oracle_.gate_N();
    const std::int64_t T = oracle_.num_tokens();
    code_.write(x_.image(T), oracle_.first_id(), std::vector<std::int32_t>(static_cast<std::size_t>(T), 1));
    x_.push(T);
  }

  Mat x() { return x_.of(oracle_.num_tokens()); }
  Mat sums() { return sums_.of(oracle_.num_tokens()); }
  Mat rows() { return rows_.of(route_.num_rows); }
  Mat weighted() { return weighted_.of(route_.num_rows); }

  // What a growing room would take inside of the times.
  void take_memory() {
    rows();
    weighted();
    sums();
  }

  // y_RD, as they were pulled -> weighted (=) gate * y, as the experts leave it.
  void weigh() {
    const Mat y = rows_.image(route_.num_rows), w = weighted_.image(route_.num_rows);
    for (std::int64_t r = 0; r < y.rows; ++r) {
      const float gate = gate_R_[static_cast<std::size_t>(r)];
      for (std::int64_t c = 0; c < D_; ++c)
        if (o_.dtype == DType::kF32)
          static_cast<float*>(w.row(r))[c] = gate * static_cast<const float*>(y.row(r))[c];
        else
          static_cast<BF16*>(w.row(r))[c] = to_bf16(gate * to_float(static_cast<const BF16*>(y.row(r))[c]));
    }
    weighted_.push(route_.num_rows);
  }

  void plan() { dispatcher_.plan(oracle_.idx_N(), gate_N_, K_, route_, gate_R_); }
  void dispatch() { dispatcher_.dispatch(route_, x(), rows()); }
  void combine(Mat y) { dispatcher_.combine(route_, y, sums(), Store::kAssign); }
  void gates() {
    dgate_N_.resize(gate_N_.size());
    dispatcher_.return_gates(route_, std::span(gate_R_).first(static_cast<std::size_t>(route_.num_rows)), dgate_N_);
  }

  template <class Body>
  void timed(DispatchPhase phase, Body body) {
    seconds_[static_cast<std::size_t>(phase)].push_back(timed_on_lane(world_, stream_, body));
  }

  // Each phase by itself, then forward and backward in a row; all that arrived is looked at, outside of the times.
  void repeat(int repetition) {
    set_repetition(repetition);
    timed(DispatchPhase::kPlan, [&] { plan(); });
    take_memory();
    timed(DispatchPhase::kDispatch, [&] { dispatch(); });
    check_rows();
    weigh();
    timed(DispatchPhase::kCombine, [&] { combine(weighted()); });
    check_sums(oracle_.gate_sums_T());
    timed(DispatchPhase::kGates, [&] { gates(); });
    row_.num_wrong += oracle_.wrong_gates(dgate_N_, 1);
    count(sent_, dispatcher_.take_traffic());
    timed(DispatchPhase::kForward, [&] {
      plan();
      dispatch();
      combine(rows());
    });
    const DispatchTraffic forward = dispatcher_.take_traffic();
    count(forward_, forward);
    count(sent_, forward);
    const std::vector<std::int32_t> all_slots = oracle_.num_slots_T();
    check_sums(all_slots);
    timed(DispatchPhase::kBackward, [&] {
      dispatch();
      gates();
      combine(rows());
    });
    count(sent_, dispatcher_.take_traffic());
    check_rows();
    check_sums(all_slots);
    if (repetition < source_.period()) collect_rows();
  }

  void check_rows() { row_.num_wrong += oracle_.wrong_rows(code_, route_, rows_.pulled(route_.num_rows), gate_R_); }
  void check_sums(const std::vector<std::int32_t>& factors_T) {
    row_.num_wrong += oracle_.wrong_sums(code_, sums_.pulled(oracle_.num_tokens()), factors_T);
  }

  static void count(DispatchTraffic& sum, const DispatchTraffic& t) {
    sum.inter_node_bytes += t.inter_node_bytes;
    sum.intra_node_bytes += t.intra_node_bytes;
    sum.control_bytes += t.control_bytes;
    sum.inter_node_bytes_min += t.inter_node_bytes_min;
  }

  // Means over the repetitions that differ.
  void collect_rows() {
    std::vector<std::int64_t> rows_r(static_cast<std::size_t>(world_.size()));
    rows_r[static_cast<std::size_t>(world_.rank())] = route_.num_rows;
    sum_over_ranks(world_, rows_r);
    row_.rows_r.resize(rows_r.size());
    std::vector<double> now_r(rows_r.begin(), rows_r.end());
    row_.max_over_mean += max_over_mean_rows(now_r) / source_.period();
    for (std::size_t r = 0; r < now_r.size(); ++r) row_.rows_r[r] += now_r[r] / source_.period();
  }

  void finish(int n) {
    for (std::size_t p = 0; p < kNumDispatchPhases; ++p) {
      max_over_ranks(world_, seconds_[p]);
      row_.seconds[p] = timing_of(seconds_[p]);
    }
    std::vector<std::int64_t> sums = {
        forward_.inter_node_bytes, forward_.intra_node_bytes, forward_.control_bytes, forward_.inter_node_bytes_min,
        sent_.inter_node_bytes,    sent_.intra_node_bytes,    row_.num_wrong,         expected_.least};
    sum_over_ranks(world_, sums);
    sum_over_ranks(world_, expected_.sent_n);
    sum_over_ranks(world_, expected_.received_n);
    const double row_bytes = static_cast<double>(size_of(o_.dtype)) * D_;
    const auto mean = [n](std::int64_t sum) { return static_cast<double>(sum) / n; };
    row_.inter_bytes = mean(sums[0]), row_.intra_bytes = mean(sums[1]), row_.control_bytes = mean(sums[2]);
    row_.inter_bytes_min = mean(sums[3]);
    row_.sent_inter_bytes = sums[4], row_.sent_intra_bytes = sums[5], row_.num_wrong = sums[6];
    row_.least_bytes_expected = mean(2 * sums[7] * static_cast<std::int64_t>(row_bytes));
    row_.row_bytes = row_bytes;
    row_.inter_bytes_expected = mean(2 * expected_.rows() * static_cast<std::int64_t>(row_bytes));
    row_.busiest_node_bytes = mean(expected_.busiest()) * row_bytes;
  }

  const BenchOptions& o_;
  DispatchGroup& group_;
  World& world_;
  int K_;
  std::int64_t D_;
  const RowSource& source_;
  const ExpertMap& map_;
  DispatchOracle oracle_;
  RowCode code_;
  Stream& stream_;
  Dispatcher dispatcher_;
  Route route_;
  Rows x_, rows_, weighted_, sums_;
  std::vector<float> gate_N_, gate_R_, dgate_N_;
  std::array<std::vector<double>, kNumDispatchPhases> seconds_;
  DispatchTraffic forward_, sent_;  // of measured forward phases, of everything
  NodeTraffic expected_;
  DispatchRow row_;
};

}  // namespace

RowCode code_of(const BenchOptions& o, const DispatchGroup& group, const RowSource& source) {
  return {o.dtype, 2 * o.model.top_k, o.model.d_model, group.shape.ep * source.most_tokens()};
}

DispatchRow measure_dispatch(const BenchOptions& o, DispatchGroup& group, const DispatchJob& job, DispatchMode mode,
                             DeviceLink& link, double budget) {
  return DispatchRun(o, group, job, mode, link).measure(budget);
}

}  // namespace moe
