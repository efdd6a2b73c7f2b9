// What a Dispatcher owns, and how its messages are put together and counted. Only dispatch.cpp and dispatch_plan.cpp include
// this.
#pragma once

#include <algorithm>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "lib/comm/dispatch_route.h"

namespace moe {

// Memory of a device that grows by at least half and is kept: fresh pages are slow. 64-byte aligned.
class RowBuffer {
 public:
  explicit RowBuffer(Stream& stream) : stream_(stream) {}
  RowBuffer(const RowBuffer&) = delete;
  RowBuffer& operator=(const RowBuffer&) = delete;
  ~RowBuffer() { release(); }

  // The content is undefined, whatever was there before.
  Mat rows(DType dtype, std::int64_t n, std::int64_t cols) {
    return {bytes(static_cast<std::size_t>(n * cols) * size_of(dtype)), dtype, n, cols, cols};
  }
  void* bytes(std::size_t wanted) {
    if (wanted > bytes_) grow(std::max(wanted, bytes_ + bytes_ / 2));
    return data_;
  }

 private:
  void release() {
    if (data_) stream_.device().release(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }
  void grow(std::size_t bytes) {
    stream_.synchronize();  // what is in it may still be read
    release();
    data_ = stream_.device().allocate(bytes);
    if (!data_) throw std::bad_alloc();
    bytes_ = bytes;
  }
  Stream& stream_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Maps where the device reads them. A map is valid until the next but kDepth.
class DeviceMaps {
 public:
  explicit DeviceMaps(Stream& stream) : stream_(stream) {
    for (int i = 0; i < kDepth; ++i) buffers_.push_back(std::make_unique<RowBuffer>(stream));
  }
  std::span<const std::int32_t> operator()(std::span<const std::int32_t> map) {
    if (stream_.is_cpu() || map.empty()) return map;
    void* const to = buffers_[static_cast<std::size_t>(next_++ % kDepth)]->bytes(map.size_bytes());
    stream_.copy(to, map.data(), map.size_bytes());
    return {static_cast<const std::int32_t*>(to), map.size()};
  }

 private:
  static constexpr int kDepth = 4;
  Stream& stream_;
  std::vector<std::unique_ptr<RowBuffer>> buffers_;
  int next_ = 0;
};

// One batch of messages in the making, and the number of bytes and rows in it.
class MessageBatch {
 public:
  template <class T>
  void send(int peer, const T* data, std::int64_t n) {
    sends_.push_back({peer, data, static_cast<std::size_t>(n) * sizeof(T)});
    sent_bytes_ += n * static_cast<std::int64_t>(sizeof(T));
  }
  template <class T>
  void receive(int peer, T* data, std::int64_t n) {
    receives_.push_back({peer, data, static_cast<std::size_t>(n) * sizeof(T)});
  }
  // Rows [at, at + n) of packed rows.
  void send_rows(const DispatchWays& ways, int peer, CMat rows, std::int64_t at, std::int64_t n, DispatchTraffic& traffic) {
    const std::int64_t bytes = n * row_bytes(rows);
    sends_.push_back({peer, rows.row(at), static_cast<std::size_t>(bytes)});
    (ways.is_far_R[peer] ? traffic.inter_node_bytes : traffic.intra_node_bytes) += bytes;
    (ways.is_far_R[peer] ? traffic.inter_node_rows : traffic.intra_node_rows) += n;
  }
  void receive_rows(int peer, Mat rows, std::int64_t at, std::int64_t n) {
    receives_.push_back({peer, rows.row(at), static_cast<std::size_t>(n * row_bytes(rows))});
  }
  static std::int64_t row_bytes(CMat rows) { return rows.cols * static_cast<std::int64_t>(size_of(rows.dtype)); }

  // The batch is empty and can be filled again; its messages are on their way.
  std::unique_ptr<Transfer> start(Comm& comm, const char* what) {
    auto transfer = comm.start(what, sends_, receives_);
    sends_.clear();
    receives_.clear();
    return transfer;
  }
  // For ids, counts and gates.
  void exchange_control(Comm& comm, const char* what, DispatchTraffic& traffic) {
    traffic.control_bytes += std::exchange(sent_bytes_, 0);
    start(comm, what)->wait();
  }

 private:
  std::vector<SendPiece> sends_;
  std::vector<RecvPiece> receives_;
  std::int64_t sent_bytes_ = 0;
};

struct Dispatcher::State {
  Comm &comm, &rows_comm;
  Stream& stream;
  const PermuteKernels permute;
  const DispatchWays ways;
  std::vector<ExpertWays> maps;                  // by number of the map
  std::vector<std::vector<SlotChoice>> choices;  // none or one of each
  DispatchTraffic traffic;
  MessageBatch batch;
  // dispatch(): out_rows and forward_rows are sent, arrived_rows come by hop 1, here_rows is U. combine(): here_rows holds
  // all partial sums, arrived_rows the sums over a node on their way home.
  RowBuffer out_rows{stream}, forward_rows{stream}, arrived_rows{stream}, here_rows{stream};
  DeviceMaps on_device{stream};
  // plan(): what tokens, hop 1 and hop 2 brought.
  PacketList arrived, here;
  std::vector<std::int32_t> chosen_N, tokens_num_entries, words_out, words_in;
  std::vector<std::int32_t> last_token_of_node;
  std::vector<float> out_values, forward_values, arrived_values, here_values;  // return_gates()

  bool alone() const { return !ways.hop1 && !ways.hop2; }
  int num_buckets() const { return static_cast<int>(ways.buckets.size()); }
  int num_inside() const { return static_cast<int>(ways.inside.size()); }

  // plan(), in this order
  void count_other_nodes(PacketView tokens, const ExpertWays& experts, Route::Hops& hops);
  void count_hop1(Route::Hops& hops);
  void exchange_hop1(PacketView tokens, Route::Hops& hops);
  void count_hop2(Route::Hops& hops);
  void exchange_hop2(PacketView tokens, Route::Hops& hops);

  // dispatch(), in this order
  struct DispatchRows {
    Mat out, arrived, forward, here;
  };
  DispatchRows rows_of_dispatch(const Route::Hops& hops, DType dtype, std::int64_t D);
  void gather(const PacketSplit& split, int b, CMat from, Mat to);
  std::unique_ptr<Transfer> send_hop1(const Route::Hops& hops, CMat x_TD, const DispatchRows& m);
  std::unique_ptr<Transfer> send_own(const Route::Hops& hops, CMat x_TD, const DispatchRows& m);
  std::unique_ptr<Transfer> send_forwarded(const Route::Hops& hops, const DispatchRows& m);

  // combine() and return_gates(), the same way back; nullptr where the group has nothing to send
  std::unique_ptr<Transfer> return_inside(const Route::Hops& hops, Mat sums, bool own);
  std::unique_ptr<Transfer> return_hop1(const Route::Hops& hops, Mat sums);
  void return_values_inside(const Route::Hops& hops);
  void return_values_home(const Route::Hops& hops);
};

}  // namespace moe
