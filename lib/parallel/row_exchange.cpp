#include "lib/parallel/row_exchange.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "lib/tensor/param.h"

namespace moe {
namespace {

constexpr std::int64_t kMaxChunk = std::int64_t{1} << 20;  // floats from one peer at a time
constexpr std::int64_t kMinChunk = std::int64_t{1} << 14;
constexpr std::int64_t kStaging = std::int64_t{1} << 23;  // floats; with many peers chunks shrink to stay below it

std::int64_t chunk_floats(int group_size, std::int64_t shard_floats) {
  const std::int64_t share = kStaging / 2 / std::max(1, group_size - 1);
  return std::min(shard_floats, std::clamp(share, kMinChunk, kMaxChunk));
}

// Part of a tensor's shard: `count` elements from the `at`-th of the tensor, the `flat`-th of the range they were asked for.
struct Piece {
  std::int64_t at, flat, count;
};

// Calls body(tensor, piece) for the elements [begin, end) of the shards of one rank, all tensors one after the other.
template <class Body>
void for_pieces(std::span<const ReduceRows> tensors, const Cut& cut, std::int64_t begin, std::int64_t end, Body body) {
  std::int64_t psum = 0;  // elements of the shards before
  for (const ReduceRows& t : tensors) {
    const std::int64_t first = cut.begin(t.rows) * t.cols, count = cut.end(t.rows) * t.cols - first;
    const std::int64_t from = std::max(begin, psum), to = std::min(end, psum + count);
    if (from < to) body(t, Piece{first + from - psum, from - begin, to - from});
    psum += count;
  }
}

std::int64_t shard_floats_of(std::span<const ReduceRows> tensors, const Cut& cut) {
  std::int64_t n = 0;
  for (const ReduceRows& t : tensors) n += (cut.end(t.rows) - cut.begin(t.rows)) * t.cols;
  return n;
}

// One reduction: posts chunk after chunk and sums what has come. A half of the staging holds one chunk of every peer.
class Reduction {
 public:
  Reduction(Comm& comm, const char* what, std::span<const ReduceRows> tensors, Store store, std::span<float> staging,
            Env env)
      : comm_(comm), what_(what), tensors_(tensors), store_(store), staging_(staging), env_(env) {
    for (int r = 0; r < comm.size(); ++r) longest_ = std::max(longest_, shard_floats_of(tensors, cut_of(r)));
    chunk_ = chunk_floats(comm.size(), longest_);
    if (static_cast<std::int64_t>(staging.size()) < 2 * chunk_ * (comm.size() - 1))
      throw std::logic_error(std::string(what) + ": expected more staging than " + std::to_string(staging.size()) +
                             " floats");
  }

  void run() {
    if (longest_ == 0) return;
    const std::int64_t num_chunks = (longest_ + chunk_ - 1) / chunk_;
    std::unique_ptr<Transfer> coming = post(0);
    for (std::int64_t c = 0; c < num_chunks; ++c) {
      std::unique_ptr<Transfer> next = c + 1 < num_chunks ? post(c + 1) : nullptr;
      coming->wait();
      add_up(c);
      coming = std::move(next);
    }
  }

 private:
  Cut cut_of(int rank) const { return {rank, comm_.size()}; }

  // Place of what `rank` contributes to a chunk.
  float* slot(std::int64_t chunk, int rank) const {
    const int place = rank < comm_.rank() ? rank : rank - 1;
    return staging_.data() + (chunk % 2 * (comm_.size() - 1) + place) * chunk_;
  }

  // The pieces of one rank's shard have the same sizes for those who send them and for it.
  std::unique_ptr<Transfer> post(std::int64_t chunk) {
    std::vector<SendPiece> sends;
    std::vector<RecvPiece> receives;
    const std::int64_t begin = chunk * chunk_, end = begin + chunk_;
    for (int r = 0; r < comm_.size(); ++r) {
      if (r == comm_.rank()) continue;
      for_pieces(tensors_, cut_of(r), begin, end, [&](const ReduceRows& t, const Piece& p) {
        sends.push_back({r, t.whole + p.at, static_cast<std::size_t>(p.count) * sizeof(float)});
      });
      for_pieces(tensors_, cut_of(comm_.rank()), begin, end, [&](const ReduceRows&, const Piece& p) {
        receives.push_back({r, slot(chunk, r) + p.flat, static_cast<std::size_t>(p.count) * sizeof(float)});
      });
    }
    return comm_.start(what_, sends, receives);
  }

  void add_up(std::int64_t chunk) {
    const Cut own = cut_of(comm_.rank());
    const std::int64_t begin = chunk * chunk_;
    std::vector<const float*> from(static_cast<std::size_t>(comm_.size()));
    for_pieces(tensors_, own, begin, begin + chunk_, [&](const ReduceRows& t, const Piece& p) {
      for (int r = 0; r < comm_.size(); ++r)
        from[static_cast<std::size_t>(r)] = r == comm_.rank() ? t.whole + p.at : slot(chunk, r) + p.flat;
      env_.kernels.elements.sum(env_.stream, from, p.count, t.sum + p.at - own.begin(t.rows) * t.cols, store_);
    });
  }

  Comm& comm_;
  const char* what_;
  std::span<const ReduceRows> tensors_;
  Store store_;
  std::span<float> staging_;
  Env env_;
  std::int64_t longest_ = 0, chunk_ = 0;  // floats
};

}  // namespace

void gather_rows(Comm& comm, const char* what, std::span<const GatherRows> tensors, Stream& stream) {
  std::vector<SendPiece> sends;
  std::vector<RecvPiece> receives;
  const auto bytes_of = [](const GatherRows& t, std::int64_t rows) { return static_cast<std::size_t>(rows) * t.row_bytes; };
  const Cut own{comm.rank(), comm.size()};
  for (const GatherRows& t : tensors)
    for (int r = 0; r < comm.size(); ++r) {
      if (r == comm.rank()) continue;
      const Cut cut{r, comm.size()};
      const std::int64_t begin = cut.begin(t.rows);
      sends.push_back({r, t.own, bytes_of(t, own.end(t.rows) - own.begin(t.rows))});
      receives.push_back({r, t.whole + bytes_of(t, begin), bytes_of(t, cut.end(t.rows) - begin)});
    }
  const std::unique_ptr<Transfer> transfer = comm.start(what, sends, receives);
  for (const GatherRows& t : tensors) {
    std::byte* place = t.whole + bytes_of(t, own.begin(t.rows));
    const std::size_t bytes = bytes_of(t, own.end(t.rows) - own.begin(t.rows));
    if (place != t.own && bytes > 0) stream.copy(place, t.own, bytes);
  }
  transfer->wait();
}

void reduce_rows(Comm& comm, const char* what, std::span<const ReduceRows> tensors, Store store, std::span<float> staging,
                 Env env) {
  Reduction(comm, what, tensors, store, staging, env).run();
}

std::int64_t staging_floats(int group_size, std::int64_t shard_floats) {
  return 2 * (group_size - 1) * chunk_floats(group_size, shard_floats);
}

}  // namespace moe
