// The stand-in for NCCL: see nccl.h. A group of messages is one piece of work in its stream that puts its messages on the
// board of the communicator when its turn comes, moves whatever has both sides there, and is done when all its own moved.
#include "tests/cuda_on_host/nccl.h"

#include <chrono>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace {

struct Side {  // of a message
  void* data;
  std::size_t bytes;
  std::shared_ptr<int> left;  // of its group: messages not yet moved
};

// What the ranks of a communicator share. Under device_lock().
struct Board {
  int size = 0, num_opened = 0, num_finalized = 0;
  std::map<std::pair<int, int>, std::deque<Side>> sends, receives;  // (from, to)
  ncclResult_t error = ncclSuccess;                                 // seen by all ranks

  void move() {
    for (auto& [way, from] : sends)
      for (std::deque<Side>& to = receives[way]; !from.empty() && !to.empty(); from.pop_front(), to.pop_front()) {
        if (from.front().bytes != to.front().bytes) {
          error = ncclInvalidUsage;
          return;
        }
        std::memcpy(to.front().data, from.front().data, from.front().bytes);
        --*from.front().left;
        --*to.front().left;
      }
  }
};

struct Message {
  bool sends;
  int peer;
  void* data;
  std::size_t bytes;
};

std::map<int, std::shared_ptr<Board>>& boards() {
  static std::map<int, std::shared_ptr<Board>> all;
  return all;
}

int number_in_environment(const char* name) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : 0;
}

}  // namespace

struct nccl_on_host {
  std::shared_ptr<Board> board;
  int rank = 0, num_groups = 0;
  bool finalized = false;
  ncclResult_t error = ncclSuccess;  // of this rank alone, which came to a group that fails
  std::shared_ptr<bool> aborted = std::make_shared<bool>(false);
  // A group that was ended and is not in its stream yet.
  std::vector<Message> pending;
  cudaStream_t stream = nullptr;

  void enter_stream() {
    if (++num_groups == number_in_environment("MOE_NCCL_ON_HOST_FAIL_AT")) error = ncclRemoteError;
    if (error != ncclSuccess) {
      cuda_on_host::enqueue_until(stream, [gone = aborted] { return *gone; });
      pending.clear();
      return;
    }
    auto left = std::make_shared<int>(static_cast<int>(pending.size()));
    cuda_on_host::enqueue_until(
        stream, [b = board, r = rank, gone = aborted, left, posted = false, all = std::exchange(pending, {})]() mutable {
          if (*gone) return true;
          if (!std::exchange(posted, true))
            for (const Message& m : all)
              (m.sends ? b->sends[{r, m.peer}] : b->receives[{m.peer, r}]).push_back({m.data, m.bytes, left});
          if (b->error == ncclSuccess) b->move();
          return *left == 0;
        });
  }
};

namespace {

// The group that this thread collects.
struct Group {
  int depth = 0;
  ncclComm_t comm = nullptr;
};
thread_local Group group;

ncclResult_t collect(ncclComm_t comm, cudaStream_t stream, const Message& message) {
  const std::lock_guard guard(cuda_on_host::device_lock());
  if (group.depth == 0 || (group.comm && group.comm != comm) || message.peer < 0 || message.peer >= comm->board->size)
    return ncclInvalidUsage;
  group.comm = comm;
  comm->stream = stream;
  comm->pending.push_back(message);
  return ncclSuccess;
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) { return *version = 22800, ncclSuccess; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int num_ids = 0;
  const std::lock_guard guard(cuda_on_host::device_lock());
  *id = {};
  const int number = ++num_ids;
  std::memcpy(id->internal, &number, sizeof number);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidUsage;
  const std::lock_guard guard(cuda_on_host::device_lock());
  int number = 0;
  std::memcpy(&number, id.internal, sizeof number);
  std::shared_ptr<Board>& board = boards()[number];
  if (!board) board = std::make_shared<Board>();
  board->size = size;
  ++board->num_opened;
  *comm = new nccl_on_host{.board = board, .rank = rank};
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  const std::lock_guard guard(cuda_on_host::device_lock());
  const Board& b = *comm->board;
  if (!comm->pending.empty()) {
    comm->enter_stream();
    *state = ncclInProgress;
  } else if (b.num_opened < b.size || (comm->finalized && b.num_finalized < b.size)) {
    *state = ncclInProgress;
  } else {
    *state = comm->error != ncclSuccess ? comm->error : b.error;
  }
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const std::lock_guard guard(cuda_on_host::device_lock());
  comm->finalized = true;
  ++comm->board->num_finalized;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) { return delete comm, ncclSuccess; }

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  while (number_in_environment("MOE_NCCL_ON_HOST_ABORT_HANGS") != 0) std::this_thread::sleep_for(std::chrono::seconds(1));
  const std::lock_guard guard(cuda_on_host::device_lock());
  *comm->aborted = true;
  // Memory of what it put on the board may be gone; a group that fails puts nothing there.
  if (comm->error == ncclSuccess && comm->board->error == ncclSuccess) comm->board->error = ncclRemoteError;
  delete comm;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote error" : result == ncclInvalidUsage ? "invalid usage" : "internal error";
}
const char* ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclGroupStart() { return ++group.depth, ncclSuccess; }
ncclResult_t ncclGroupEnd() {
  --group.depth;
  return std::exchange(group.comm, nullptr) ? ncclInProgress : ncclSuccess;
}

ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  return collect(comm, stream, {true, peer, const_cast<void*>(data), count});
}
ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  return collect(comm, stream, {false, peer, data, count});
}
