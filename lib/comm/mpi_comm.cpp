// Comm over MPI's point-to-point messages. Communicators are not freed one by one: MPI_Comm_free is an MPI call, destructors
// run on any thread, and MPI_Finalize takes them all.
#include "lib/comm/mpi_comm.h"

#define OMPI_SKIP_MPICXX  // the C interface is all we use
#define MPICH_SKIP_MPICXX
#include <mpi.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "lib/base/error.h"
#include "lib/base/launcher.h"
#include "lib/comm/collectives.h"
#include "lib/comm/patience.h"
#include "lib/comm/self_comm.h"

namespace moe {
namespace {

constexpr int kTag = 1;
constexpr std::size_t kMaxChunkBytes = std::size_t{1} << 30;

std::string error_text(int status) {
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  return MPI_Error_string(status, text, &length) == MPI_SUCCESS ? std::string(text, static_cast<std::size_t>(length))
                                                                : "error " + std::to_string(status);
}

void check(int status, const std::string& what) {
  if (status != MPI_SUCCESS) throw Error(Exit::kUnavailable, what + ": MPI: " + error_text(status));
}

// What all groups of a process share.
struct Job {
  MpiWaits& waits;
  std::size_t max_chunk_bytes;
  std::vector<std::string> hosts;  // of all ranks
};

// Who is in a group; its transfers keep it, for names.
struct Group {
  std::shared_ptr<const Job> job;
  MPI_Comm comm;
  int rank;
  std::vector<int> members;  // ranks of the whole job

  int member(int r) const { return members.at(static_cast<std::size_t>(r)); }
  std::string name_of(int r) const {
    return "rank " + std::to_string(member(r)) + " (host " + job->hosts.at(static_cast<std::size_t>(member(r))) + ")";
  }
};

// At most a chunk of a piece.
struct Message {
  int peer;
  char* data;
  int bytes;
  bool sends;
};

void cut(const Group& group, std::vector<Message>& messages, int peer, const void* data, std::size_t bytes, bool sends) {
  char* begin = static_cast<char*>(const_cast<void*>(data));
  for (std::size_t done = 0; done < bytes; done += group.job->max_chunk_bytes)
    messages.push_back({peer, begin + done, static_cast<int>(std::min(group.job->max_chunk_bytes, bytes - done)), sends});
}

// THE PLACE for a schedule: the order in which messages are started; those of one peer and direction must keep theirs. Now:
// all receives first, so that nothing arrives unexpected, then sends to the next rank, the one after it and so on, so that
// the ranks do not all send to the same one.
void schedule(const Group& group, std::vector<Message>& messages) {
  const int n = static_cast<int>(group.members.size());
  const auto distance = [&](const Message& m) {
    return m.sends ? n + (m.peer - group.rank + n) % n : (group.rank - m.peer + n) % n;
  };
  std::stable_sort(messages.begin(), messages.end(),
                   [&](const Message& a, const Message& b) { return distance(a) < distance(b); });
}

// The messages of one batch. The watchdog's thread reads `done` and `messages` while wait() lasts.
class MpiTransfer : public Transfer {
 public:
  MpiTransfer(const char* what, std::shared_ptr<const Group> group, std::vector<Message> messages)
      : what_(what),
        group_(std::move(group)),
        messages_(std::move(messages)),
        requests_(messages_.size(), MPI_REQUEST_NULL),
        done_(messages_.size()),
        own_left_(std::make_shared<int>(0)) {
    for (std::size_t i = 0; i < messages_.size(); ++i) start(i);
  }

  // Without a word: who throws away a transfer has another error to tell.
  ~MpiTransfer() override {
    try {
      wait();
    } catch (...) {
    }
  }

  const std::shared_ptr<int>& own_left() const { return own_left_; }

  void wait() override {
    if (num_done_ < messages_.size()) wait_for_messages();
    require_matched(what_, own_left_);
  }

 private:
  void start(std::size_t i) {
    const Message& m = messages_[i];
    const int status = m.sends ? MPI_Isend(m.data, m.bytes, MPI_BYTE, m.peer, kTag, group_->comm, &requests_[i])
                               : MPI_Irecv(m.data, m.bytes, MPI_BYTE, m.peer, kTag, group_->comm, &requests_[i]);
    require(m, status);
  }

  void require(const Message& m, int status) const {
    if (status == MPI_SUCCESS) return;
    const char* direction = m.sends ? ": message to " : ": message from ";
    int kind = 0;
    MPI_Error_class(status, &kind);
    throw Error(kind == MPI_ERR_TRUNCATE ? Exit::kInternal : Exit::kUnavailable,
                what_ + (direction + group_->name_of(m.peer)) + ": MPI: " + error_text(status));
  }

  void wait_for_messages() {
    struct Watched {  // tells the watchdog, also when something is thrown
      Watchdog& watchdog;
      ~Watched() { watchdog.leave(); }
    };
    Watchdog& watchdog = group_->job->waits.watchdog;
    watchdog.enter(what_, [this] { return missing(); });
    const Watched watched{watchdog};
    for (int looks = 0;; ++looks) {
      look();
      if (num_done_ == messages_.size()) return;
      rest(looks);
    }
  }

  // After a failure nothing of this batch is waited for any more.
  void look() {
    int num = 0;
    std::vector<int>& which = finished_;
    which.resize(messages_.size());
    statuses_.resize(messages_.size());
    const int result =
        MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &num, which.data(), statuses_.data());
    if (result != MPI_SUCCESS && result != MPI_ERR_IN_STATUS) check(result, what_);
    for (int k = 0; num != MPI_UNDEFINED && k < num; ++k) {
      const auto i = static_cast<std::size_t>(which[static_cast<std::size_t>(k)]);
      finish(i, statuses_[static_cast<std::size_t>(k)], result == MPI_ERR_IN_STATUS);
    }
  }

  void finish(std::size_t i, MPI_Status& status, bool may_have_failed) {
    const Message& m = messages_[i];
    if (may_have_failed && status.MPI_ERROR != MPI_SUCCESS) fail(m, status.MPI_ERROR);
    int bytes = m.bytes;
    if (!m.sends) MPI_Get_count(&status, MPI_BYTE, &bytes);
    if (bytes != m.bytes) {
      num_done_ = messages_.size();
      throw Error(Exit::kInternal, what_ + (": message from " + group_->name_of(m.peer)) + ": expected " +
                                       std::to_string(m.bytes) + " bytes, found " + std::to_string(bytes));
    }
    done_[i] = true;
    ++num_done_;
  }

  void fail(const Message& m, int status) {
    num_done_ = messages_.size();
    require(m, status);
  }

  void rest(int looks) const {
    const MpiWaits& waits = group_->job->waits;
    if (waits.abort_code >= 0) mpi_abort(waits.abort_code);
    rest_between_looks(looks, waits.num_waiting > 0);
  }

  std::vector<Watchdog::Missing> missing() const {
    std::vector<Watchdog::Missing> missing;
    for (std::size_t i = 0; i < messages_.size(); ++i) {
      const int rank = group_->member(messages_[i].peer);
      const auto same = [rank](const Watchdog::Missing& m) { return m.rank == rank; };
      if (!done_[i] && std::none_of(missing.begin(), missing.end(), same))
        missing.push_back({rank, group_->name_of(messages_[i].peer)});
    }
    std::sort(missing.begin(), missing.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
    return missing;
  }

  const char* what_;
  std::shared_ptr<const Group> group_;
  const std::vector<Message> messages_;
  std::vector<MPI_Request> requests_;
  std::vector<std::atomic<bool>> done_;
  std::size_t num_done_ = 0;
  std::vector<int> finished_;
  std::vector<MPI_Status> statuses_;
  std::shared_ptr<int> own_left_;
};

class MpiComm : public Comm {
 public:
  explicit MpiComm(Group group) : group_(std::make_shared<const Group>(std::move(group))) {
    MPI_Comm_set_errhandler(group_->comm, MPI_ERRORS_RETURN);
  }

  int rank() const override { return group_->rank; }
  int size() const override { return static_cast<int>(group_->members.size()); }
  std::string name_of(int rank) const override { return group_->name_of(rank); }

  std::unique_ptr<Transfer> start(const char* what, std::span<const SendPiece> sends,
                                  std::span<const RecvPiece> receives) override {
    std::vector<Message> messages;
    messages.reserve(sends.size() + receives.size());
    for (const RecvPiece& r : receives)
      if (r.peer != rank()) cut(*group_, messages, r.peer, r.data, r.bytes, false);
    for (const SendPiece& s : sends)
      if (s.peer != rank()) cut(*group_, messages, s.peer, s.data, s.bytes, true);
    schedule(*group_, messages);
    auto transfer = std::make_unique<MpiTransfer>(what, group_, std::move(messages));
    for (const SendPiece& s : sends)
      if (s.peer == rank()) own_.send(s, transfer->own_left(), what);
    for (const RecvPiece& r : receives)
      if (r.peer == rank()) own_.receive(r, transfer->own_left(), what);
    return transfer;
  }

  std::unique_ptr<Comm> split(int color, int key) override;

 private:
  std::shared_ptr<const Group> group_;
  SelfChannel own_;
};

std::vector<int> ranks_of_job(MPI_Comm comm) {
  MPI_Group here = MPI_GROUP_NULL, job = MPI_GROUP_NULL;
  int n = 0;
  MPI_Comm_size(comm, &n);
  std::vector<int> places(static_cast<std::size_t>(n)), ranks(places.size());
  for (int r = 0; r < n; ++r) places[static_cast<std::size_t>(r)] = r;
  check(MPI_Comm_group(comm, &here), "split");
  check(MPI_Comm_group(MPI_COMM_WORLD, &job), "split");
  check(MPI_Group_translate_ranks(here, n, places.data(), job, ranks.data()), "split");
  MPI_Group_free(&here);
  MPI_Group_free(&job);
  return ranks;
}

Group group_of(MPI_Comm comm, std::shared_ptr<const Job> job) {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  return {std::move(job), comm, rank, ranks_of_job(comm)};
}

// MPI's own split waits without a look at the watchdog: first a barrier that is watched.
std::unique_ptr<Comm> MpiComm::split(int color, int key) {
  barrier(*this, "split");
  MPI_Comm part = MPI_COMM_NULL;
  check(MPI_Comm_split(group_->comm, color, key, &part), "split");
  return std::make_unique<MpiComm>(group_of(part, group_->job));
}

std::size_t chosen_chunk_bytes(std::size_t wanted) {
  const char* const text = std::getenv("MOE_MPI_CHUNK");
  const int in_environment = text ? std::atoi(text) : 0;
  if (wanted == 0) wanted = in_environment > 0 ? static_cast<std::size_t>(in_environment) : kMaxChunkBytes;
  return std::min(wanted, kMaxChunkBytes);
}

std::vector<std::string> gather_hosts(int num_ranks) {
  constexpr std::size_t kLength = 256;
  char mine[kLength] = {};
  gethostname(mine, kLength - 1);
  std::vector<char> all(kLength * static_cast<std::size_t>(num_ranks));
  check(MPI_Allgather(mine, kLength, MPI_CHAR, all.data(), kLength, MPI_CHAR, MPI_COMM_WORLD), "start");
  std::vector<std::string> hosts;
  for (std::size_t r = 0; r < static_cast<std::size_t>(num_ranks); ++r) hosts.emplace_back(&all[r * kLength]);
  return hosts;
}

// A machine's number is the lowest rank on it.
std::vector<int> gather_machines(int num_ranks, int rank) {
  MPI_Comm machine = MPI_COMM_NULL;
  check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &machine), "start");
  const int lowest = ranks_of_job(machine).front();
  MPI_Comm_free(&machine);
  std::vector<int> all(static_cast<std::size_t>(num_ranks));
  check(MPI_Allgather(&lowest, 1, MPI_INT, all.data(), 1, MPI_INT, MPI_COMM_WORLD), "start");
  return all;
}

// A setting of OpenMPI, unless the user chose it. Its TCP transport writes a large message in one piece, and the answer that
// the peer's own message needs waits behind it: two ranks that send to each other take turns. In fragments both directions
// flow.
void prepare_mpi() { setenv("OMPI_MCA_btl_tcp_flags", "send", 0); }

void start_mpi() {
  prepare_mpi();
  int level = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level), "start");
  if (level < MPI_THREAD_FUNNELED) throw Error(Exit::kUnavailable, "MPI: expected MPI_THREAD_FUNNELED, found less");
}

// Each process alone in a job of its own: the launcher of one MPI started a program linked with another.
void require_size(int num_ranks) {
  if (launched_size() <= 0 || launched_size() == num_ranks) return;
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(version, &length);
  throw Error(Exit::kUnavailable,
              "MPI: expected the " + std::to_string(launched_size()) + " ranks that the launcher says, found " +
                  std::to_string(num_ranks),
              "use the mpirun of the MPI that this program was built with: " + std::string(version).substr(0, 60));
}

// This thread sleeps and looks, sleeps and looks, beside a thread that computes: from Linux 6.12 on a thread that asks for
// short slices of the processor gets them soon. Refusal costs only time.
void ask_for_short_slices() {
  struct {  // struct sched_attr of the kernel, version 0
    std::uint32_t size = 48, policy = 0;
    std::uint64_t flags = 0;
    std::int32_t nice = 0;
    std::uint32_t priority = 0;
    std::uint64_t runtime_ns = 100'000, deadline_ns = 0, period_ns = 0;
  } attributes;
  attributes.nice = getpriority(PRIO_PROCESS, 0);
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace

MpiWorld mpi_start(MpiWaits& waits, std::size_t max_chunk_bytes) {
  prctl(PR_SET_TIMERSLACK, 1UL);  // of this thread: its short sleeps are short
  ask_for_short_slices();
  start_mpi();
  int num_ranks = 0, rank = 0;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_size(MPI_COMM_WORLD, &num_ranks);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  require_size(num_ranks);
  const auto hosts = gather_hosts(num_ranks);
  const auto machines = gather_machines(num_ranks, rank);
  const auto job = std::make_shared<const Job>(Job{waits, chosen_chunk_bytes(max_chunk_bytes), hosts});
  return {std::make_unique<MpiComm>(group_of(MPI_COMM_WORLD, job)), hosts, machines};
}

void mpi_end() { MPI_Finalize(); }

void mpi_abort(int code) {
  MPI_Abort(MPI_COMM_WORLD, code);
  _exit(code);
}

}  // namespace moe
