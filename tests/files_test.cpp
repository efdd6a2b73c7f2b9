// The file layer: what a planned fault does, and what a system call that fails, is interrupted or does a part becomes.
// Not here: HDF5 (h5_test.cpp), checkpoints (checkpoint_test.cpp, fault_loop_test.cpp).
#include "lib/io/files.h"

#include <gmock/gmock.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>

#include "lib/io/fault.h"
#include "lib/run/metrics.h"
#include "tests/checkpoint_case.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

class FilesTest : public CheckpointTest {
 protected:
  ~FilesTest() override { ::unsetenv("MOE_FAULT"), set_fault_rank(0); }
  std::string at(const std::string& name) const { return dir_ + "/" + name; }
  // Code and message of writing a file of 1000 bytes under a plan.
  Exit write(const std::string& plan, const std::string& name, std::string& message) {
    ::setenv("MOE_FAULT", plan.c_str(), 1);
    const Exit code = code_of([&] { write_text_file(at(name), std::string(1000, 'x')); }, message);
    ::unsetenv("MOE_FAULT");
    return code;
  }
};

TEST_F(FilesTest, EveryErrorAtEveryKindOfOperation) {
  std::string m;
  for (const char* error : {"ENOSPC", "EIO", "EDQUOT", "EROFS", "ESTALE"})
    for (const char* op : {"open", "write", "sync", "close"}) {
      const std::string name = std::string(error) + op;
      EXPECT_EQ(write(std::string("n=1,err=") + error + ",op=" + op, name, m), Exit::kIo) << name;
      EXPECT_THAT(m, HasSubstr(at(name))) << "the file is named";
    }
  ::setenv("MOE_FAULT", "n=1,err=EIO,op=read", 1);
  write_text_file(at("whole"), "text");
  try {
    read_text_file(at("whole"), 100);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Exit::kIo);
    EXPECT_THAT(e.what(), HasSubstr("whole: cannot read at byte 0: Input/output error"));
    EXPECT_THAT(e.hint(), HasSubstr("moe-reshard verify"));
  }
}

TEST_F(FilesTest, WhatIsInterruptedIsTriedAgain) {
  std::string m;
  for (const char* op : {"open", "write", "sync", "close"})
    EXPECT_EQ(write(std::string("n=1,err=EINTR,op=") + op, op, m), Exit::kOk) << m;
  EXPECT_EQ(read_text_file(at("write"), 2000), std::string(1000, 'x'));
}

TEST_F(FilesTest, AShortWriteLeavesHalf) {
  std::string m;
  EXPECT_EQ(write("n=1,err=short,op=write", "a", m), Exit::kIo);
  EXPECT_THAT(m, HasSubstr("No space left"));
  EXPECT_EQ(fs::file_size(at("a")), 500u);
}

TEST_F(FilesTest, ThePlanChoosesRankPathAndHowLong) {
  std::string m;
  EXPECT_EQ(write("n=1,err=EIO,rank=1", "a", m), Exit::kOk);
  set_fault_rank(1);
  EXPECT_EQ(write("n=1,err=EIO,rank=1", "b", m), Exit::kIo);
  EXPECT_EQ(write("n=1,err=EIO,path=shard", "c", m), Exit::kOk);
  EXPECT_EQ(write("n=1,err=EIO,path=shard", "shard-1", m), Exit::kIo);
  ::setenv("MOE_FAULT", "n=2+,err=EIO,op=stat", 1);
  EXPECT_FALSE(path_exists(at("none")));
  for (int i = 0; i < 3; ++i) EXPECT_THROW(path_exists(at("none")), Error) << "not seen is not the same as not there";
}

TEST_F(FilesTest, DelayAndCount) {
  std::string m;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(write("n=1,err=delay:80", "a", m), Exit::kOk);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(80));
  EXPECT_EQ(write("err=count,log=" + at("log"), "b", m), Exit::kOk);
  EXPECT_EQ(read_text_file(at("log"), 1000), "0 1 open passes " + at("b") + "\n0 2 write passes " + at("b") +
                                                 "\n0 3 sync passes " + at("b") + "\n0 4 close passes " + at("b") + "\n");
}

TEST_F(FilesTest, AKillStrikesBeforeTheOperation) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::string m;
    write("n=1,err=kill,op=sync", "a", m);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_EQ(fs::file_size(at("a")), 1000u);
}

TEST_F(FilesTest, APlanThatIsNoneIsRefused) {
  std::string m;
  for (const char* plan : {"x", "err=EIO", "err=EIO,n=0", "err=EIO,n=x", "err=E,n=1", "err=short,n=1", "op=x,err=EIO,n=1",
                           "err=EIO,n=1,colour=red", "err=delay:x,n=1", "err=EIO,n=1,rank=-1"})
    EXPECT_EQ(write(plan, "a", m), Exit::kUsage) << plan;
}

TEST_F(FilesTest, ALinkIsRemovedAndWhatItLeadsToStays) {
  fs::create_directories(at("mine/deep"));
  write_text_file(at("mine/deep/file"), "x");
  fs::create_directories(at("tree"));
  fs::create_symlink(at("mine"), at("tree/link"));
  remove_tree(at("tree"));
  EXPECT_FALSE(path_exists(at("tree")));
  EXPECT_TRUE(path_exists(at("mine/deep/file")));
}

TEST_F(FilesTest, APendingFileDoesNotReplaceWhatCameMeanwhile) {
  PendingFile pending(at("a"), false);
  write_text_file(pending.temporary_path(), "mine");
  write_text_file(at("a"), "theirs");
  std::string m;
  EXPECT_EQ(code_of([&] { pending.commit(); }, m), Exit::kCannotCreate);
  EXPECT_EQ(read_text_file(at("a"), 100), "theirs");
  PendingFile forced(at("a"), true);
  write_text_file(forced.temporary_path(), "mine");
  forced.commit();
  EXPECT_EQ(read_text_file(at("a"), 100), "mine");
}

TEST_F(FilesTest, RowsWaitForAFullDisk) {
  const std::string path = at("metrics.jsonl");
  {
    MetricsFile metrics(path, -1, false);
    for (int step = 1; step <= 9; ++step) {
      if (step == 3) ::setenv("MOE_FAULT", "n=1,err=short,op=write", 1);
      if (step == 5) ::setenv("MOE_FAULT", "n=1+,err=ENOSPC,op=write", 1);
      if (step == 8) ::unsetenv("MOE_FAULT");
      metrics.write({{"step", step}});
    }
  }
  const auto rows = read_metrics(path);
  ASSERT_EQ(rows.size(), 9u);
  for (std::size_t i = 0; i < 9; ++i) EXPECT_EQ(rows[i].at("step"), i + 1);
  std::string m;
  EXPECT_EQ(code_of([] { require_free_space("/", std::int64_t{1} << 60); }, m), Exit::kIo);
  EXPECT_THAT(m, HasSubstr("MiB of free space, found"));
}

}  // namespace
}  // namespace moe
