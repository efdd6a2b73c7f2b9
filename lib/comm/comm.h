// A group of ranks and the messages between them. One primitive, a batch of point-to-point messages (what NCCL calls a
// group of sends and receives); everything else is built on it, with ordered sums (collectives.h), so that two runs on one
// mesh give the same bits. Ranks are threads (thread_comm.h) or MPI processes (mpi_comm.h).
// One thread per rank calls: the communication lane's (lane.h). Every rank of a group makes the same calls in the same
// order.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace moe {

struct SendPiece {
  int peer;
  const void* data;
  std::size_t bytes;
};
struct RecvPiece {
  int peer;
  void* data;
  std::size_t bytes;
};

// Messages on their way. Their memory must stay as it is until wait() returns. Destroyed without wait(): it waits.
class Transfer {
 public:
  virtual ~Transfer() = default;
  virtual void wait() = 0;
};

class Comm {
 public:
  virtual ~Comm() = default;
  Comm() = default;
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // "rank 3 (host h1)": number in the whole job, and host. For messages.
  virtual std::string name_of(int rank) const = 0;

  // Starts a batch of messages. The pieces sent to a peer match, in order, the pieces that it receives from here, across
  // batches too; sizes must agree on both sides (else Error(kInternal)); any size, above 2^31 too; pieces of zero bytes
  // are passed over. The own rank is a peer like any other. `what` names the collective for watchdog and messages; a
  // string literal.
  virtual std::unique_ptr<Transfer> start(const char* what, std::span<const SendPiece> sends,
                                          std::span<const RecvPiece> receives) = 0;
  void exchange(const char* what, std::span<const SendPiece> sends, std::span<const RecvPiece> receives) {
    start(what, sends, receives)->wait();
  }

  // The group of all ranks that give the same color, ordered by (key, rank here). A collective call.
  virtual std::unique_ptr<Comm> split(int color, int key) = 0;
};

}  // namespace moe
