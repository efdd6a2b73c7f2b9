// The moving average of the masters (moe-train --ema): mean += (1 - decay) (master - mean) after each update. It is in
// memory of the host on every device, and on a GPU it follows beside the next step, as DeepSeek-V3 keeps it (arXiv
// 2412.19437, 3.2.3, "Exponential Moving Average in CPU"); on the CPU it is made in its place.
//
// On a GPU the average comes to it piece by piece, takes the masters in by the same kernel, and goes back, on two streams
// in turn with a room of one piece each: one piece comes while the other one goes. The streams wait for the update (an event
// of the stream that computes) and the next update waits for them (another); the host only puts the work into streams and
// waits for nothing. So the average after step n is made of the masters after step n, and of all of them: if the bus is slow
// the next update comes later. Masters are the rank's shards, so is the average.
//
// Moved for a parameter, in bytes: 4 over the bus each way, which run at the same time; 20 of the GPU's memory; 8 of the
// host's. With 0.9e9 parameters of a rank (7e9 on 8 GPUs) and 25 to 50 GB/s that is 70 to 140 ms of the bus in a step, and 6
// ms of the GPU's memory at 3 TB/s, instead of 3.6 GB of it. The average is pinned as a whole, for copies that do not wait;
// there is no second one, and of the GPU's memory two rooms are taken. Other ways, and why not:
// - The host computes, from two pinned pieces that the masters come to: 4 bytes over the bus one way, 4 of the GPU's memory,
//   but 16 of the host's, which is what the ranks of a node share, and threads of the host, which feed the GPU. A room is
//   free when the host has read it, so the last copies of a step are put into the stream by and by: the next update could
//   not wait for them by an event, the host would have to. And the bits would be those of the host's kernels, which are the
//   GPU's where the processor fuses multiply and add (avx2 and above) and others where it does not.
// - The kernel reads and writes the average over the bus, without rooms: 8 bytes over the bus as well, but its blocks live
//   as long as the bus takes, and hold registers of multiprocessors meanwhile; a product with a block for each of them
//   waits for the slowest. Here a kernel lives tens of microseconds a piece.
//
// Not here: where the average lies (ParamStore), files, the evaluation with it (lib/run/train_evaluation.h).
#pragma once

#include <deque>
#include <vector>

#include "lib/tensor/param.h"

namespace moe {

class MovingAverage {
 public:
  static constexpr std::int64_t kPiece = std::int64_t{8} << 20;  // elements: 32 MiB, long for a bus and short for a GPU

  // Takes the rooms. store: with averages (ParamStore::take_ema); it outlives this, as its memory does.
  MovingAverage(const ParamStore& store, const Device& device, std::int64_t piece = kPiece);

  // The masters as env.stream leaves them are taken in, on a GPU some time later: masters may change, and the average may be
  // touched, behind join() only.
  void update(Env env, double decay);
  // What comes into the stream from here on comes when the average is made; so the host has it once it has waited for the
  // stream.
  void join(Stream& stream);

  // Memory of the GPU that it takes.
  static std::size_t device_bytes(const ParamStore& store, std::int64_t piece = kPiece);

 private:
  struct Piece {
    float* mean;
    const float* master;
    std::int64_t n;
  };
  struct Side {
    Side(const Device& device, std::int64_t room_elements);
    Arena arena;
    Stream stream;
    float* room;
    void* done = nullptr;  // the mark that nobody has waited for
  };
  std::vector<Piece> pieces() const;

  const ParamStore& store_;
  std::int64_t piece_;
  std::deque<Side> sides_;  // none on the CPU
};

}  // namespace moe
