#include "lib/tensor/moving_average.h"

#include <algorithm>
#include <utility>

namespace moe {
namespace {

constexpr int kSides = 2;

std::int64_t room_elements(const ParamStore& store, std::int64_t piece) {
  Arena measuring(0);
  for (const Param& p : store.all()) measuring.vector<float>(p.shard_size());
  return std::min(piece, static_cast<std::int64_t>(measuring.used_bytes() / sizeof(float)));
}

}  // namespace

MovingAverage::Side::Side(const Device& device, std::int64_t room_elements)
    : arena(static_cast<std::size_t>(room_elements) * sizeof(float) + 64, device),
      stream(device, 1),
      room(arena.vector<float>(room_elements).data()) {}

MovingAverage::MovingAverage(const ParamStore& store, const Device& device, std::int64_t piece)
    : store_(store), piece_(piece) {
  if (device.kind == DeviceKind::kCpu) return;
  for (int i = 0; i < kSides; ++i) sides_.emplace_back(device, room_elements(store, piece));
}

std::size_t MovingAverage::device_bytes(const ParamStore& store, std::int64_t piece) {
  return kSides * static_cast<std::size_t>(room_elements(store, piece)) * sizeof(float);
}

// Tensors that lie behind each other in both arrays, the same gaps between them, are one: a copy costs the host as much
// time whether it is large or small. Nothing lies in a gap.
std::vector<MovingAverage::Piece> MovingAverage::pieces() const {
  std::vector<Piece> runs, list;
  for (const Param& p : store_.all()) {
    if (p.shard_size() == 0) continue;
    if (!runs.empty() && p.ema - runs.back().mean == p.master - runs.back().master)
      runs.back().n = p.ema - runs.back().mean + p.shard_size();
    else
      runs.push_back({p.ema, p.master, p.shard_size()});
  }
  for (const Piece& run : runs)
    for (std::int64_t at = 0; at < run.n; at += piece_)
      list.push_back({run.mean + at, run.master + at, std::min(piece_, run.n - at)});
  return list;
}

void MovingAverage::update(Env env, double decay) {
  const auto take_in = [&](Stream& stream, float* mean, const Piece& piece) {
    env.kernels.adamw.average(stream, {mean, static_cast<std::size_t>(piece.n)}, piece.master, decay);
  };
  if (sides_.empty()) {
    for (const Piece& piece : pieces()) take_in(env.stream, piece.mean, piece);
    return;
  }
  join(env.stream);
  for (Side& side : sides_) side.stream.wait_mark(env.stream.mark());
  std::size_t next = 0;
  for (const Piece& piece : pieces()) {
    Side& side = sides_[next++ % kSides];
    const std::size_t bytes = static_cast<std::size_t>(piece.n) * sizeof(float);
    side.stream.copy(side.room, piece.mean, bytes);
    take_in(side.stream, side.room, piece);
    side.stream.copy(piece.mean, side.room, bytes);
  }
  for (Side& side : sides_) side.done = side.stream.mark();
}

void MovingAverage::join(Stream& stream) {
  for (Side& side : sides_)
    if (side.done) stream.wait_mark(std::exchange(side.done, nullptr));
}

}  // namespace moe
