// Messages between GPUs, over NCCL and staged through the host, between ranks that are threads; and which of the two a run
// takes. What needs a device runs where MOE_TEST_KERNELS=cuda says so; NCCL of several ranks only in its stand-in, since
// the ranks share a device.
#include "lib/run/gpu_comm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <random>
#include <thread>

#include "kernels/cuda_plugin.h"
#include "lib/base/error.h"
#include "lib/comm/collectives.h"
#include "lib/comm/nccl_comm.h"
#include "lib/comm/staged_comm.h"
#include "lib/comm/thread_comm.h"
#include "tests/child.h"
#include "tests/kernel_device.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Bytes of the device.
class DeviceBytes {
 public:
  DeviceBytes(Stream& stream, std::vector<unsigned char> content)
      : stream_(stream), bytes_(content.size()), data_(stream.device().allocate(bytes_ + 1)) {
    stream.copy(data_, content.data(), bytes_);
  }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  ~DeviceBytes() { stream_.device().release(data_, bytes_ + 1); }
  unsigned char* at(std::size_t offset) const { return static_cast<unsigned char*>(data_) + offset; }
  std::vector<unsigned char> read() const {
    std::vector<unsigned char> content(bytes_);
    stream_.copy(content.data(), data_, bytes_);
    stream_.synchronize();
    return content;
  }

 private:
  Stream& stream_;
  std::size_t bytes_;
  void* data_;
};

enum class Way { kNccl, kStaged };

// A rank with both kinds of groups.
struct GpuRank {
  std::unique_ptr<Comm> host;
  Stream stream{kernel_device()};
  Watchdog watchdog;
  NcclWaits waits{watchdog, host->rank()};
  std::unique_ptr<Comm> gpu;

  GpuRank(std::unique_ptr<Comm> comm, Way way) : host(std::move(comm)) {
    gpu = way == Way::kNccl ? make_nccl_comm("test", *host, stream, waits) : make_staged_comm(*host, stream);
  }
};

void on_gpu_ranks(int n, Way way, const std::function<void(GpuRank&)>& body) {
  run_thread_ranks(n, [&](std::unique_ptr<Comm> comm) {
    GpuRank rank(std::move(comm), way);
    body(rank);
  });
}

// Sizes of the pieces that `from` sends to `to` in a round, the same on both sides.
std::vector<std::size_t> pieces_of(unsigned round, int from, int to) {
  constexpr std::size_t kBytes[] = {0, 1, 7, 64, 1000, 65537};
  std::mt19937 random(round * 10007u + static_cast<unsigned>(from) * 101u + static_cast<unsigned>(to));
  std::vector<std::size_t> pieces(random() % 4);
  for (std::size_t& bytes : pieces) bytes = kBytes[random() % 6];
  return pieces;
}

// One round's messages between memory that begins at `from` and at `to`.
struct Batch {
  std::vector<SendPiece> sends;
  std::vector<RecvPiece> receives;
  std::size_t bytes_sent = 0, bytes_received = 0;

  Batch(unsigned round, const Comm& comm, const unsigned char* from, unsigned char* to) {
    for (int p = 0; p < comm.size(); ++p) {
      for (const std::size_t bytes : pieces_of(round, comm.rank(), p))
        sends.push_back({p, from + bytes_sent, bytes}), bytes_sent += bytes;
      for (const std::size_t bytes : pieces_of(round, p, comm.rank()))
        receives.push_back({p, to + bytes_received, bytes}), bytes_received += bytes;
    }
  }
};

std::vector<unsigned char> random_bytes(std::size_t n, unsigned seed) {
  std::vector<unsigned char> bytes(n);
  std::mt19937 random(seed);
  for (unsigned char& b : bytes) b = static_cast<unsigned char>(random());
  return bytes;
}

class GpuComms : public ::testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    if (!tests_cuda()) GTEST_SKIP() << "no device to test";
    if (GetParam() == Way::kNccl && !on_host()) GTEST_SKIP() << "NCCL wants a GPU for each rank";
  }
};
INSTANTIATE_TEST_SUITE_P(, GpuComms, ::testing::Values(Way::kNccl, Way::kStaged),
                         [](const auto& info) { return info.param == Way::kNccl ? "Nccl" : "Staged"; });

// ---- Which way.

TEST(GpuComm, AutoTakesNcclWhereEveryRankHasAGpu) {
  EXPECT_EQ(gpu_comm_for(GpuComm::kAuto, {{"a 0", ""}, {"a 1", ""}, {"b 0", ""}}), GpuComm::kNccl);
  EXPECT_EQ(gpu_comm_for(GpuComm::kAuto, {{"a 0", ""}, {"a 1", ""}, {"a 0", ""}}), GpuComm::kStaged);
  EXPECT_EQ(gpu_comm_for(GpuComm::kAuto, {{"a 0", ""}, {"a 1", "no library"}}), GpuComm::kStaged);
  EXPECT_EQ(gpu_comm_for(GpuComm::kStaged, {{"a 0", ""}, {"a 1", ""}}), GpuComm::kStaged);
}

TEST(GpuComm, NcclThatCannotBeIsAnError) {
  const auto message = [](const std::vector<RankGpu>& ranks) -> std::string {
    try {
      gpu_comm_for(GpuComm::kNccl, ranks);
      return "nothing was thrown";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Exit::kUnavailable);
      return e.what() + std::string("|") + e.hint();
    }
  };
  EXPECT_THAT(message({{"a 0", ""}, {"a 1", ""}, {"a 0", ""}}), HasSubstr("found ranks 0 and 2 on one GPU|"));
  EXPECT_THAT(message({{"a 0", ""}, {"a 1", "no library"}}), HasSubstr("found on rank 1: no library|use --gpu-comm staged"));
  World alone;
  EXPECT_THROW(choose_gpu_comm(GpuComm::kNccl, alone, cpu_device()), Error);
  EXPECT_EQ(choose_gpu_comm(GpuComm::kStaged, alone, cpu_device()), GpuComm::kAuto);
}

// Before all that load NCCL: in a process it is loaded once.
TEST(GpuComm, WithoutALibraryThereIsAHint) {
  if (!tests_cuda()) GTEST_SKIP() << "no device to test";
  const Ran ran = run_child([] {
    setenv("MOE_NCCL_LIBRARY", "/nowhere/libnccl.so.2", 1);
    World alone;
    EXPECT_EQ(gpu_comm_for(GpuComm::kAuto, {{"a", why_no_nccl()}}), GpuComm::kStaged);
    try {
      choose_gpu_comm(GpuComm::kNccl, alone, kernel_device());
    } catch (const Error& e) {
      std::fprintf(stderr, "%s\n", e.what());
      return static_cast<int>(e.code());
    }
    return 0;
  });
  EXPECT_EQ(ran.code, 69);
  EXPECT_THAT(ran.err, HasSubstr("/nowhere/libnccl.so.2"));
}

// ---- Messages.

TEST_P(GpuComms, RandomBatchesAreThoseOfTheHost) {
  for (const int n : {1, 2, 3, 4, 7}) {
    SCOPED_TRACE(n);
    on_gpu_ranks(n, GetParam(), [](GpuRank& rank) {
      for (unsigned round = 0; round < 4; ++round) {
        const Batch sizes(round, *rank.host, nullptr, nullptr);
        const auto sent = random_bytes(sizes.bytes_sent, round * 7 + static_cast<unsigned>(rank.host->rank()));
        std::vector<unsigned char> expected(sizes.bytes_received, 0xee);
        const Batch on_host(round, *rank.host, sent.data(), expected.data());
        rank.host->exchange("host", on_host.sends, on_host.receives);
        const DeviceBytes from(rank.stream, sent), to(rank.stream, std::vector<unsigned char>(expected.size(), 0xee));
        const Batch batch(round, *rank.gpu, from.at(0), to.at(0));
        rank.gpu->exchange("rows", batch.sends, batch.receives);
        EXPECT_EQ(to.read(), expected) << "round " << round;
      }
    });
  }
}

TEST_P(GpuComms, LargeMessagesAndSeveralBatchesOnTheirWay) {
  on_gpu_ranks(3, GetParam(), [](GpuRank& rank) {
    const int next = (rank.gpu->rank() + 1) % 3, before = (rank.gpu->rank() + 2) % 3;
    const std::size_t large = (std::size_t{1} << 18) + 5;
    const auto content = [&](int of) { return random_bytes(2 * large, static_cast<unsigned>(of)); };
    const DeviceBytes from(rank.stream, content(rank.gpu->rank())), to(rank.stream, std::vector<unsigned char>(2 * large));
    const SendPiece one[] = {{next, from.at(0), large}}, two[] = {{next, from.at(large), large}};
    const RecvPiece first[] = {{before, to.at(0), large}}, second[] = {{before, to.at(large), large}};
    const auto a = rank.gpu->start("first", one, first), b = rank.gpu->start("second", two, second);
    b->wait();
    a->wait();
    EXPECT_EQ(to.read(), content(before));
  });
}

TEST_P(GpuComms, OwnMessagesMatchAcrossBatches) {
  on_gpu_ranks(2, GetParam(), [](GpuRank& rank) {
    const int me = rank.gpu->rank();
    const DeviceBytes from(rank.stream, {1, 2, 3, 4}), to(rank.stream, {0, 0, 0, 0});
    const SendPiece sends[] = {{me, from.at(0), 3}};
    const RecvPiece receives[] = {{me, to.at(1), 3}};
    const auto a = rank.gpu->start("send", sends, {}), b = rank.gpu->start("receive", {}, receives);
    b->wait();
    a->wait();
    EXPECT_EQ(to.read(), (std::vector<unsigned char>{0, 1, 2, 3}));
  });
}

TEST_P(GpuComms, KernelsBehindABatchSeeIt) {
  on_gpu_ranks(2, GetParam(), [](GpuRank& rank) {
    const int other = 1 - rank.gpu->rank();
    const DeviceBytes from(rank.stream, {static_cast<unsigned char>(rank.gpu->rank() + 5)}), to(rank.stream, {0}),
        copy(rank.stream, {0});
    const SendPiece sends[] = {{other, from.at(0), 1}};
    const RecvPiece receives[] = {{other, to.at(0), 1}};
    rank.gpu->exchange("rows", sends, receives);
    rank.stream.copy(copy.at(0), to.at(0), 1);
    EXPECT_EQ(copy.read().at(0), other + 5);
  });
}

TEST_P(GpuComms, SplitOrdersByKeyAndGroupsDoNotMix) {
  for (const int n : {1, 2, 4, 7}) {
    SCOPED_TRACE(n);
    on_gpu_ranks(n, GetParam(), [&](GpuRank& rank) {
      const int color = rank.gpu->rank() % 2;
      const auto part = rank.gpu->split(color, -rank.gpu->rank());  // backwards
      const int size = (n - color + 1) / 2, next = (part->rank() + 1) % size, before = (part->rank() + size - 1) % size;
      EXPECT_EQ(part->size(), size);
      EXPECT_EQ(part->rank(), size - 1 - rank.gpu->rank() / 2);
      EXPECT_EQ(part->name_of(part->rank()), rank.gpu->name_of(rank.gpu->rank()));
      const DeviceBytes from(rank.stream, {static_cast<unsigned char>(rank.gpu->rank())}), to(rank.stream, {99});
      const SendPiece sends[] = {{next, from.at(0), 1}};
      const RecvPiece receives[] = {{before, to.at(0), 1}};
      part->exchange("part", sends, receives);
      EXPECT_EQ(to.read().at(0), color + 2 * (size - 1 - before));
    });
  }
}

TEST_P(GpuComms, OwnMessageWithoutTheOtherSideIsAnError) {
  if (GetParam() == Way::kStaged) GTEST_SKIP() << "the business of the host's Comm";
  const auto body = [](GpuRank& rank) {
    const DeviceBytes from(rank.stream, {1});
    rank.gpu->exchange("alone", std::vector<SendPiece>{{0, from.at(0), 1}}, {});
  };
  EXPECT_THROW(on_gpu_ranks(1, Way::kNccl, body), Error);
}

// The library itself, which this test sees on a real GPU too.
TEST(Nccl, GroupOfOneSendsToItself) {
  if (!tests_cuda() || !why_no_nccl().empty()) GTEST_SKIP() << why_no_nccl();
  Stream stream(kernel_device());
  const CudaComms& nccl = cuda_status().plugin->comms;
  char id[CudaComms::kIdBytes];
  nccl.make_id(id);
  void* const comm = nccl.open(id, 0, 1, stream.queue());
  while (!nccl.ready(comm)) std::this_thread::yield();
  const DeviceBytes from(stream, random_bytes(1000, 1)), to(stream, std::vector<unsigned char>(1000));
  const CudaMessage messages[] = {{true, 0, from.at(0), 1000}, {false, 0, to.at(0), 1000}};
  nccl.start(comm, messages, 2);
  while (!nccl.ready(comm)) std::this_thread::yield();
  void* const mark = stream.mark();
  while (!nccl.passed(mark)) std::this_thread::yield();
  EXPECT_EQ(to.read(), from.read());
  nccl.close(comm);
}

// ---- Failures, each in a process of its own.

// Two ranks send to each other twice; rank 1 leaves out the second time if it is to be late.
int two_batches(bool is_late, double watchdog_seconds, double abort_seconds) {
  try {
    on_gpu_ranks(2, Way::kNccl, [&](GpuRank& rank) {
      rank.waits.abort_seconds = abort_seconds;
      const int me = rank.gpu->rank();
      if (me == 0) rank.watchdog.start(watchdog_seconds, "rank 0 (thread)", 0);
      const DeviceBytes from(rank.stream, random_bytes(3000, 1)), to(rank.stream, random_bytes(3000, 2));
      const SendPiece sends[] = {{1 - me, from.at(0), 3000}};
      const RecvPiece receives[] = {{1 - me, to.at(0), 3000}};
      rank.gpu->exchange("first", sends, receives);
      if (is_late && me == 1) std::this_thread::sleep_for(std::chrono::seconds(60));
      rank.gpu->exchange("second", sends, receives);
    });
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return static_cast<int>(e.code());
  }
  return 0;
}

Ran run_two_batches(const char* variable, bool is_late, double watchdog_seconds, bool abort_hangs = false) {
  return run_child([&] {
    if (variable) setenv("MOE_NCCL_ON_HOST_FAIL_AT", variable, 1);
    if (abort_hangs) setenv("MOE_NCCL_ON_HOST_ABORT_HANGS", "1", 1);
    return two_batches(is_late, watchdog_seconds, abort_hangs ? 0.2 : 10);
  });
}

TEST(Nccl, AsynchronousErrorEndsWithTheLog) {
  if (!on_host()) GTEST_SKIP() << "of the stand-in";
  const Ran well = run_two_batches(nullptr, false, 30);
  EXPECT_EQ(well.code, 0) << well.err;
  const Ran ran = run_two_batches("2", false, 30);
  EXPECT_EQ(ran.code, 69) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("second, group test: NCCL: remote error"));
  EXPECT_THAT(ran.err, HasSubstr("#1 first (test): sent 2.93 KiB to 1 rank (most: 2.93 KiB, "));
  EXPECT_THAT(ran.err, HasSubstr("NOT DONE after"));
}

TEST(Nccl, AbortThatHangsEndsTheProcess) {
  if (!on_host()) GTEST_SKIP() << "of the stand-in";
  const Ran ran = run_two_batches("2", false, 30, true);
  EXPECT_EQ(ran.code, 124) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("did not give up either"));
}

TEST(Nccl, TimeOutEndsWithTheLog) {
  if (!on_host()) GTEST_SKIP() << "of the stand-in";
  const Ran ran = run_two_batches(nullptr, true, 0.3);
  EXPECT_EQ(ran.code, 124) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("rank 0 (thread), in second: waited 0.3 s for rank 1 (thread)"));
  EXPECT_THAT(ran.err, HasSubstr("#2 second (test): sent 2.93 KiB to 1 rank (most: 2.93 KiB, 1), received 2.93 KiB from"));
}

TEST(BatchLog, KeepsTheLast) {
  BatchLog log;
  const char bytes[8] = {};
  const std::vector<SendPiece> sends = {{2, bytes, 5}, {1, bytes, 3}, {2, bytes, 0}, {1, bytes, 4}};
  for (std::size_t i = 0; i < BatchLog::kKept + 3; ++i) log.finished(log.started("rows", "ep", sends, {}));
  log.started("last", "dense", {}, {});
  const std::string text = log.text();
  EXPECT_EQ(static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')), BatchLog::kKept);
  EXPECT_THAT(text, HasSubstr("of 36 (ranks"));
  EXPECT_THAT(text, Not(HasSubstr("#4 ")));
  EXPECT_THAT(text, HasSubstr("#5 rows (ep): sent 12 B to 2 ranks (most: 7 B, 1), received nothing, done after "));
  EXPECT_THAT(text, HasSubstr("#36 last (dense): sent nothing, received nothing, NOT DONE after "));
}

}  // namespace
}  // namespace moe
