// Damaged and hostile files for every reader of the file layer. Each mutant is refused with 65 or 66, or read as what was
// written wherever a digest protects it; within seconds, within memory, and without opening a file outside of its directory.
// MOE_FUZZ_COUNT: mutants of each reader (default 300). MOE_FUZZ_FIRST: number of the first. A mutant is a function of its
// number, so a failure names all that is needed to see it again. Mutants run in forked batches: a crash ends a batch only.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <functional>

#include "lib/io/files.h"
#include "lib/io/import_tokens.h"
#include "lib/io/manifest.h"
#include "lib/io/plan_file.h"
#include "lib/io/router_trace.h"
#include "lib/io/routing_stats.h"
#include "lib/io/survey.h"
#include "lib/io/token_writer.h"
#include "tests/checkpoint_case.h"
#include "tests/fuzz_mutate.h"
#include "tests/opened_files.h"

namespace moe {
namespace {

std::string bytes_at(const std::string& path) { return read_text_file(path, std::int64_t{1} << 30); }
void put(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// What the batches tell the supervisor; in shared memory.
struct Shared {
  std::uint64_t current;
  std::int64_t accepted, refused, missing;
  double slowest_s;
  char failure[400];
};

// Reads the mutant of a number; returns "" or what is wrong about its having been accepted. Throws what the reader throws.
using Attempt = std::function<std::string(std::uint64_t)>;

class FuzzReaders : public CheckpointTest {
 protected:
  void SetUp() override {
    CheckpointTest::SetUp();
    shared_ =
        static_cast<Shared*>(::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    if (const char* n = std::getenv("MOE_FUZZ_COUNT")) count_ = std::strtoull(n, nullptr, 10);
    if (const char* n = std::getenv("MOE_FUZZ_FIRST")) first_ = std::strtoull(n, nullptr, 10);
  }
  void TearDown() override {
    ::munmap(shared_, sizeof(Shared));
    CheckpointTest::TearDown();
  }

  void one(std::uint64_t number, const Attempt& attempt) {
    const auto fail = [&](const std::string& what) {
      std::snprintf(shared_->failure, sizeof shared_->failure, "mutant %llu: %s", static_cast<unsigned long long>(number),
                    what.c_str());
    };
    opened_files().clear();
    const auto start = std::chrono::steady_clock::now();
    try {
      const std::string wrong = attempt(number);
      ++shared_->accepted;
      if (!wrong.empty()) fail("accepted, but " + wrong);
    } catch (const Error& e) {
      if (e.code() != Exit::kBadInput && e.code() != Exit::kNoInput)
        fail("code " + std::to_string(static_cast<int>(e.code())) + ": " + e.what());
      ++(e.code() == Exit::kNoInput ? shared_->missing : shared_->refused);
    } catch (const std::exception& e) {
      fail(std::string("not an Error: ") + e.what());
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    shared_->slowest_s = std::max(shared_->slowest_s, took.count());
    for (const std::string& path : opened_files())
      if (!path.starts_with(dir_)) fail("opened " + path);
  }

  // Numbers [shared.current, end) until the first failure. Half a gigabyte beyond what there is, ten seconds a mutant.
  [[noreturn]] void batch(std::uint64_t end, const Attempt& attempt) {
    long pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
#ifndef __SANITIZE_ADDRESS__
    const rlim_t most = static_cast<rlim_t>(pages) * static_cast<rlim_t>(::getpagesize()) + (rlim_t{512} << 20);
    const rlimit memory{most, most};
    ::setrlimit(RLIMIT_AS, &memory);
#endif
    for (; shared_->current < end && shared_->failure[0] == '\0'; ++shared_->current) {
      ::alarm(10);
      one(shared_->current, attempt);
    }
    ::_exit(0);
  }

  void fuzz(const char* name, const Attempt& attempt) {
    *shared_ = {.current = first_};
    int failures = 0;
    const auto start = std::chrono::steady_clock::now();
    while (shared_->current < first_ + count_ && failures < 10) {
      std::fflush(nullptr);
      const pid_t child = ::fork();
      if (child == 0) batch(std::min(first_ + count_, shared_->current + 5000), attempt);
      int status = 0;
      ::waitpid(child, &status, 0);
      const bool crashed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
      if (crashed) {
        ADD_FAILURE() << name << ": mutant " << shared_->current << ": "
                      << (WIFSIGNALED(status) ? ::strsignal(WTERMSIG(status)) : "exit of the reader");
        ++shared_->current;
      } else if (shared_->failure[0] != '\0') {
        ADD_FAILURE() << name << ": " << shared_->failure;
      }
      failures += crashed || shared_->failure[0] != '\0';
      shared_->failure[0] = '\0';
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::printf(
        "%-20s %9llu mutants: %lld refused, %lld missing, %lld read as written; %.0f s, slowest %.3f s, %d failures\n", name,
        static_cast<unsigned long long>(shared_->current - first_), static_cast<long long>(shared_->refused),
        static_cast<long long>(shared_->missing), static_cast<long long>(shared_->accepted), took.count(),
        shared_->slowest_s, failures);
    EXPECT_GT(shared_->refused, 0);
  }

  Shared* shared_ = nullptr;
  std::uint64_t count_ = 300, first_ = 0;
};

// ---- token files

struct Tokens {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets;
  bool operator==(const Tokens&) const = default;
};

Tokens tokens_in(const std::string& path) {
  const TokenSource source = TokenSource::open(path);
  Tokens t{std::vector<std::int32_t>(static_cast<std::size_t>(source.info().num_tokens)), {}};
  source.read(0, t.ids);
  t.offsets.assign(source.document_offsets().begin(), source.document_offsets().end());
  return t;
}

std::string make_tokens(const std::string& dir, int vocab, int num) {
  TokenWriter w(dir, vocab, "unknown", "");
  for (int d = 0; d < num; ++d) {
    w.begin_document();
    const std::vector<std::int32_t> ids(static_cast<std::size_t>(5 + d), (d * 7919) % vocab);
    w.add(ids, 0);
  }
  PendingFile out(dir + "/tokens.h5", true);
  w.write(out, 0, w.num_tokens(), nlohmann::json::array());
  out.commit();
  return bytes_at(dir + "/tokens.h5");
}

// A file that has lost half of its signature or more is a text: another thing, and said to be one.
std::string read_tokens(const std::string& path, const std::string& bytes, const Tokens& want) {
  put(path, bytes);
  const Tokens found = tokens_in(path);
  return found == want || bytes.compare(0, 4, "\x89HDF") != 0 ? "" : "the tokens differ";
}

TEST_F(FuzzReaders, TokenFiles) {
  const std::string good = make_tokens(dir_, 70000, 12), other = make_tokens(dir_, 300, 30);
  const std::string path = dir_ + "/mutant.h5";
  put(path, good);
  const Tokens want = tokens_in(path);
  fuzz("token files", [&](std::uint64_t number) {
    Dice dice(number);
    return read_tokens(path, mutated(good, dice, other), want);
  });
  fuzz("token files, mended", [&](std::uint64_t number) {
    Dice dice(number);
    return read_tokens(path, mended_h5(mutated_metadata(good, dice), dice), want);
  });
}

TEST_F(FuzzReaders, ForeignTokenFiles) {
  std::string llmc(1024, '\0'), idx("MMIDIDX\0\0", 9), bin(64, '\1');
  const std::int32_t head[3] = {20240520, 1, 32};
  std::memcpy(llmc.data(), head, sizeof head);
  const auto append = [](std::string& s, auto value) { s.append(reinterpret_cast<const char*>(&value), sizeof value); };
  llmc += bin;
  append(idx, std::uint64_t{1});
  append(idx, std::uint8_t{8});
  append(idx, std::uint64_t{2});
  append(idx, std::uint64_t{3});
  for (const int n : {20, 12}) append(idx, std::int32_t{n});
  for (const int n : {0, 40}) append(idx, std::int64_t{n});
  for (const int n : {0, 1, 2}) append(idx, std::int64_t{n});
  put(dir_ + "/m.bin", bin);
  put(dir_ + "/m.idx", idx);
  ASSERT_EQ(plan_megatron(dir_ + "/m").num_tokens, 32);
  put(dir_ + "/l.bin", llmc);
  ASSERT_EQ(plan_llmc(dir_ + "/l.bin").num_tokens, 32);
  fuzz("foreign tokens", [&](std::uint64_t number) {
    Dice dice(number);
    const bool megatron = dice.below(2) == 0;
    put(dir_ + (megatron ? "/m.idx" : "/l.bin"), mutated(megatron ? idx : llmc, dice, bin));
    const ImportPlan plan = megatron ? plan_megatron(dir_ + "/m") : plan_llmc(dir_ + "/l.bin");
    return plan.num_tokens <= 2048 ? "" : "more tokens than bytes";
  });
}

// ---- routing statistics

TEST_F(FuzzReaders, RoutingStatistics) {
  const std::string path = dir_ + "/routing.h5";
  RoutingRecorder recorder(path, {{0, 2}, 4, 2}, nlohmann::json::array());
  for (int step = 1; step < 6; ++step) recorder.add_step(step, std::vector<std::int64_t>{4, 4, 0, 2, 1, 2, 3, 4});
  recorder.save();
  const std::string good = bytes_at(path);
  const RoutingStats want = read_routing_stats(path);
  const auto attempt = [&](const std::string& bytes) {
    put(path, bytes);
    const RoutingStats s = read_routing_stats(path);
    const bool same = s.step_S == want.step_S && s.counts_SLE == want.counts_SLE &&
                      s.coactivation_LEE == want.coactivation_LEE && s.shape.layers == want.shape.layers;
    return same ? "" : "the counts differ";
  };
  fuzz("routing", [&](std::uint64_t number) {
    Dice dice(number);
    return attempt(mutated(good, dice, ""));
  });
  fuzz("routing, mended", [&](std::uint64_t number) {
    Dice dice(number);
    return attempt(mended_h5(mutated_metadata(good, dice), dice));
  });
}

TEST_F(FuzzReaders, RouterTraces) {
  const std::string path = dir_ + "/trace.h5";
  RouterTraceWriter writer(path, {{0, 2}, 4, 2}, 3, 0, false);
  for (int step = 1; step < 6; ++step) writer.add_step(step, std::vector<std::int16_t>{0, 1, 2, 3, 1, 0, 3, 2, 1, -1, 2, 0});
  writer.finish(nlohmann::json::array());
  const std::string good = bytes_at(path);
  const RouterTrace want = read_router_trace(path);
  const auto attempt = [&](const std::string& bytes) {
    put(path, bytes);
    const RouterTrace t = read_router_trace(path);
    const bool same = t.step_S == want.step_S && t.idx_SLTK == want.idx_SLTK && t.shape.layers == want.shape.layers;
    return same ? "" : "the decisions differ";
  };
  fuzz("traces", [&](std::uint64_t number) {
    Dice dice(number);
    return attempt(mutated(good, dice, ""));
  });
  fuzz("traces, mended", [&](std::uint64_t number) {
    Dice dice(number);
    return attempt(mended_h5(mutated_metadata(good, dice), dice));
  });
}

// ---- placement plans

TEST_F(FuzzReaders, Plans) {
  const std::string path = dir_ + "/plan.h5";
  const nlohmann::json provenance = nlohmann::json::array({{{"tool", "moe-place"}}});
  const PlanFile want = {{3, {1, 4}, {{{{0, 2}, {}, {2, 1}}}, {{{2}, {1}, {0}}}}},
                         {0, 0, 1},
                         {{0, 1, 0, 1}, {0, 0, 0}},
                         {{"max_over_mean", 1.25}},
                         provenance};
  write_plan_file(path, want, false);
  const std::string good = bytes_at(path);
  const auto attempt = [&](const std::string& bytes) {
    put(path, bytes);
    const PlanFile plan = read_plan_file(path, false);
    const bool same = plan.placement == want.placement && plan.rank2node == want.rank2node &&
                      plan.pinned_LS == want.pinned_LS && plan.predicted == want.predicted &&
                      plan.provenance == want.provenance;
    return same ? "" : "the plan differs";
  };
  fuzz("plans", [&](std::uint64_t number) {
    Dice dice(number);
    return attempt(mutated(good, dice, ""));
  });
  fuzz("plans, mended", [&](std::uint64_t number) {
    Dice dice(number);
    return attempt(mended_h5(mutated_metadata(good, dice), dice));
  });
}

// ---- checkpoints

// A checkpoint of three tensors in two files, what it holds, and the bytes of its files.
struct Case {
  std::string path;
  std::vector<Values> values;
  std::string manifest;
  std::vector<std::string> shards;
};

std::vector<TensorSlice> slices_of(std::vector<Values>& v) {
  std::vector<TensorSlice> slices = {whole("a.weight", v[0], {6, 4}), whole("layers.0.experts.b", v[1], {4, 3, 2}),
                                     whole("c", v[2], {1}, "bias")};
  return slices;
}

Case make_checkpoint(const std::string& run, unsigned seed) {
  Case c{run + "/step-00000007", {random_bits(24, seed), random_bits(24, seed + 1), random_bits(1, seed + 2)}, "", {}};
  const std::vector<TensorSlice> all = slices_of(c.values);
  const CheckpointDraft draft = begin_checkpoint(run, 7, 2, total_bytes(all));
  TensorSlice low = all[0], high = all[0];
  low.extent[0] = 2, high.offset[0] = 2, high.extent[0] = 4, high.data = c.values[0].data() + 8;
  const nlohmann::json state = {{"step", 7}, {"options", {{"lr", "0.1"}}}};
  publish_checkpoint(draft, {write_part(draft, 0, {low, all[1]}), write_part(draft, 1, {high, all[2]})}, state,
                     nlohmann::json::array(), {}, false);
  c.manifest = bytes_at(c.path + "/manifest.json");
  for (const char* name : {"/shard-00000.h5", "/shard-00001.h5"}) c.shards.push_back(bytes_at(c.path + name));
  return c;
}

// Loads all of it; and what changed a byte of a file must be a fault of the survey.
std::string load(const Case& c, bool is_changed) {
  const Survey survey = survey_checkpoint(c.path, 1, true);
  std::vector<Values> found = {Values(24), Values(24), Values(1)};
  load_checkpoint(open_checkpoint(c.path), slices_of(found));
  if (found != c.values) return "the tensors differ";
  return is_changed && survey.faults.empty() ? "the survey finds no fault" : "";
}

TEST_F(FuzzReaders, Shards) {
  const Case c = make_checkpoint(run_, 1), other = make_checkpoint(dir_ + "/other", 9);
  const auto attempt = [&](std::uint64_t number, bool mended) {
    Dice dice(number);
    const std::size_t file = dice.below(2);
    const std::string &good = c.shards[file], path = c.path + "/shard-0000" + std::to_string(file) + ".h5";
    const std::string bytes =
        mended ? mended_h5(mutated_metadata(good, dice), dice) : mutated(good, dice, other.shards[file]);
    put(c.path + "/shard-0000" + std::to_string(1 - file) + ".h5", c.shards[1 - file]);
    put(path, bytes);
    return load(c, bytes != good);
  };
  fuzz("shards", [&](std::uint64_t number) { return attempt(number, false); });
  fuzz("shards, mended", [&](std::uint64_t number) { return attempt(number, true); });
}

TEST_F(FuzzReaders, Manifests) {
  const Case c = make_checkpoint(run_, 1), other = make_checkpoint(dir_ + "/other", 9);
  const auto attempt = [&](std::uint64_t number, bool mended) -> std::string {
    Dice dice(number);
    std::string text = mutated(c.manifest, dice, other.manifest);
    const bool changed = text != c.manifest;
    if (mended) text = mended_manifest(text);
    put(c.path + "/manifest.json", text);
    const std::string wrong = load(c, false);
    return wrong.empty() && changed && !mended ? "its digest is wrong" : wrong;
  };
  fuzz("manifests", [&](std::uint64_t number) { return attempt(number, false); });
  fuzz("manifests, mended", [&](std::uint64_t number) { return attempt(number, true); });
}

// Files that are missing, swapped, of another save, links, directories, empty.
TEST_F(FuzzReaders, Directories) {
  const Case c = make_checkpoint(run_, 1), other = make_checkpoint(dir_ + "/other", 9);
  const std::vector<std::string> names = {"/manifest.json", "/shard-00000.h5", "/shard-00001.h5"};
  const auto good = [&](std::size_t i) { return i == 0 ? c.manifest : c.shards[i - 1]; };
  fuzz("directories", [&](std::uint64_t number) {
    Dice dice(number);
    for (std::size_t i = 0; i < names.size(); ++i) {
      fs::remove_all(c.path + names[i]);
      put(c.path + names[i], good(i));
    }
    const std::size_t i = dice.below(3), j = dice.below(3);
    const std::string path = c.path + names[i];
    fs::remove(path);
    switch (dice.below(7)) {
      case 0:
        break;
      case 1:
        put(path, "");
        break;
      case 2:
        put(path, good(j));
        break;
      case 3:
        fs::copy_file(other.path + names[j], path);
        break;
      case 4:
        fs::create_symlink(other.path + names[i], path);
        break;
      case 5:
        fs::create_directory(path);
        break;
      default:
        put(path, good(i) + std::string(1 + dice.below(100), '\0'));
    }
    return load(c, bytes_at(path) != good(i));
  });
}

TEST_F(FuzzReaders, Json) {
  const Case c = make_checkpoint(run_, 1);
  fuzz("json", [&](std::uint64_t number) {
    Dice dice(number);
    std::string text = mutated(c.manifest, dice, "[[[[{\"a\":1,\"a\":2}]]]]\xff\\u0000");
    if (dice.below(8) == 0) text.insert(dice.below(text.size()), std::string(1 + dice.below(100), '['));
    parse_strict_json(text, "x");
    return "";
  });
}

}  // namespace
}  // namespace moe
