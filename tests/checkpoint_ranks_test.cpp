// Checkpoints that several processes write together, one after the other in this one: a digest that ignores the cut, reports
// that are missing or wrong, damage to one file of several, faults at every operation, values that are not finite.
// Not here: one file (checkpoint_test.cpp), the cuts of a mesh (train_state_test.cpp).
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <cstdlib>

#include "lib/io/finite.h"
#include "lib/io/manifest.h"
#include "lib/io/verify.h"
#include "tests/checkpoint_case.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using Names = std::vector<std::string>;
using Parts = std::vector<std::vector<TensorSlice>>;

// A box of `values`, whose memory holds the whole tensor. The box must be contiguous there.
TensorSlice box_of(const std::string& name, Values& values, const std::vector<std::int64_t>& shape,
                   std::vector<std::int64_t> offset, std::vector<std::int64_t> extent) {
  std::int64_t first = 0;
  for (std::size_t d = 0; d < shape.size(); ++d) first = first * shape[d] + offset[d];
  void* const data = elements_of(extent) > 0 ? values.data() + first : nullptr;
  return {name, "weight", DType::kF32, shape, std::move(offset), std::move(extent), data};
}

// Three tensors: experts [6, 5, 3], rows [13, 2], a vector [7].
struct State {
  Values experts, rows, vector;
  explicit State(unsigned seed)
      : experts(random_bits(90, seed)), rows(random_bits(26, seed + 1)), vector(random_bits(7, seed + 2)) {}
  static State empty() {
    State s(0);
    s.experts.assign(90, 0), s.rows.assign(26, 0), s.vector.assign(7, 0);
    return s;
  }
  bool operator==(const State&) const = default;

  TensorSlice expert(std::vector<std::int64_t> offset, std::vector<std::int64_t> extent) {
    return box_of("experts", experts, {6, 5, 3}, std::move(offset), std::move(extent));
  }
  TensorSlice row(std::int64_t begin, std::int64_t count) { return box_of("rows", rows, {13, 2}, {begin, 0}, {count, 2}); }
  TensorSlice element(std::int64_t begin, std::int64_t count) { return box_of("vector", vector, {7}, {begin}, {count}); }

  std::vector<TensorSlice> whole() { return {expert({0, 0, 0}, {6, 5, 3}), row(0, 13), element(0, 7)}; }
  // Uneven, experts in any order and in pieces; the second part has nothing.
  Parts four() {
    return {{expert({4, 0, 0}, {1, 5, 3}), expert({0, 0, 0}, {1, 2, 3}), row(0, 1), element(0, 6)},
            {expert({0, 0, 0}, {0, 5, 3}), row(0, 0), element(0, 0)},
            {expert({0, 2, 0}, {1, 3, 3}), expert({1, 0, 0}, {3, 5, 3}), row(1, 9), element(0, 0)},
            {expert({5, 0, 0}, {1, 5, 3}), row(10, 3), element(6, 1)}};
  }
  Parts three() {
    return {{expert({5, 3, 0}, {1, 2, 3}), expert({0, 0, 0}, {2, 5, 3}), row(6, 7), element(0, 0)},
            {expert({2, 0, 0}, {1, 5, 3}), expert({5, 0, 0}, {1, 3, 3}), row(0, 0), element(0, 7)},
            {expert({3, 0, 0}, {2, 5, 3}), row(0, 6), element(0, 0)}};
  }
};

Names write_parts(const CheckpointDraft& draft, const Parts& parts) {
  Names reports;
  for (const auto& slices : parts) {
    // What another process knows of the save is its text.
    reports.push_back(write_part(CheckpointDraft::parse(draft.text()), static_cast<int>(reports.size()), slices));
  }
  return reports;
}

CheckpointDraft begin(const std::string& run, std::int64_t step, const Parts& parts) {
  return begin_checkpoint(run, step, static_cast<int>(parts.size()), total_bytes(parts[0]));
}

SavedCheckpoint publish(const CheckpointDraft& draft, const Names& reports, bool force = false) {
  return publish_checkpoint(draft, reports, {{"step", draft.step}}, nlohmann::json::array(), {2, 0}, force);
}

SavedCheckpoint save_parts(const std::string& run, std::int64_t step, const Parts& parts, bool force = false) {
  const CheckpointDraft draft = begin(run, step, parts);
  try {
    return publish(draft, write_parts(draft, parts), force);
  } catch (...) {
    abandon_checkpoint(draft);
    throw;
  }
}

SavedCheckpoint save_whole(const std::string& run, std::int64_t step, State& state) {
  return save_checkpoint(run, step, {{"step", step}}, nlohmann::json::array(), state.whole(), {2, 0}, false);
}

State load_whole(const std::string& path) {
  State got = State::empty();
  load_checkpoint(open_checkpoint(path), got.whole());
  return got;
}

TEST_F(CheckpointTest, TheDigestIgnoresTheNumberOfFiles) {
  State state(1);
  const SavedCheckpoint one = save_whole(run_ + "1", 5, state), four = save_parts(run_ + "4", 5, state.four()),
                        three = save_parts(run_ + "3", 5, state.three());
  EXPECT_EQ(four.digest, one.digest);
  EXPECT_EQ(three.digest, one.digest);
  EXPECT_EQ(four.bytes, one.bytes);
  EXPECT_EQ(one.bytes, 4 * (90 + 26 + 7));
  EXPECT_EQ(total_bytes(state.four()[1]), one.bytes);
  EXPECT_EQ(names_in(four.path), (Names{"manifest.json", "shard-00000.h5", "shard-00002.h5", "shard-00003.h5"}))
      << "a part of nothing has no file";
  EXPECT_EQ(names_in(run_ + "4"), (Names{"latest", "step-00000005"}));
  State changed = state;
  changed.rows[25] ^= 1;
  EXPECT_NE(save_parts(run_ + "5", 5, changed.four()).digest, one.digest);
}

TEST_F(CheckpointTest, AnyCutLoadsAnyOther) {
  State state(1);
  const std::string one = save_whole(run_ + "1", 5, state).path, four = save_parts(run_ + "4", 5, state.four()).path,
                    three = save_parts(run_ + "3", 5, state.three()).path;
  for (const std::string& path : {one, four, three}) {
    EXPECT_EQ(load_whole(path), state) << path;
    State as4 = State::empty(), as3 = State::empty();
    const CheckpointInfo info = open_checkpoint(path);
    for (const auto& slices : as4.four()) load_checkpoint(info, slices);
    for (const auto& slices : as3.three()) load_checkpoint(info, slices);
    EXPECT_EQ(as4, state) << path;
    EXPECT_EQ(as3, state) << path;
  }
}

TEST_F(CheckpointTest, APartIsLoadedAloneAndNothingElseIsTouched) {
  State state(1), got = State::empty(), want = State::empty();
  const CheckpointInfo info = open_checkpoint(save_parts(run_, 5, state.four()).path);
  load_checkpoint(info, {got.expert({0, 1, 0}, {1, 3, 3}), got.row(9, 2), got.element(0, 0)});
  std::copy_n(state.experts.begin() + 3, 9, want.experts.begin() + 3);
  std::copy_n(state.rows.begin() + 18, 4, want.rows.begin() + 18);
  EXPECT_EQ(got, want);
  std::string m;
  EXPECT_EQ(code_of([&] { load_checkpoint(info, {got.row(9, 2), got.element(0, 0)}); }, m), Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("unexpected: experts (weight)")) << "every tensor is named by every process";
  TensorSlice outside = got.element(0, 2);
  outside.offset = {6};
  EXPECT_EQ(code_of(
                [&] {
                  load_checkpoint(info, {got.expert({0, 0, 0}, {0, 5, 3}), got.row(0, 0), outside});
                },
                m),
            Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("tensor vector (weight), box at [6]: expected 2 elements, found 1"));
}

TEST_F(CheckpointTest, ReportsThatDoNotMakeAWholeAreOurBug) {
  State state(1), other(9);
  save_whole(run_, 1, state);
  std::string m;
  const auto refused = [&](const Parts& parts, auto change) {
    const CheckpointDraft draft = begin(run_, 2, parts);
    Names reports = write_parts(draft, parts);
    change(reports);
    EXPECT_EQ(code_of([&] { publish(draft, reports); }, m), Exit::kInternal) << m;
    EXPECT_EQ(names_in(run_), (Names{"latest", "step-00000001"}));
    return m;
  };
  const auto as_it_is = [](Names&) {};
  EXPECT_THAT(refused(state.four(), [](Names& r) { r.erase(r.begin() + 2); }), HasSubstr("part 2 is missing"));
  EXPECT_THAT(refused(state.four(), [](Names& r) { r[3] = r[2]; }), HasSubstr("part 2 is there twice"));
  EXPECT_THAT(refused(state.four(), [](Names& r) { r[0] = "nonsense"; }), HasSubstr("report of a checkpoint"));
  const CheckpointDraft foreign = begin(run_ + "x", 2, state.four());
  const std::string report = write_part(foreign, 1, other.four()[1]);
  EXPECT_THAT(refused(state.four(), [&](Names& r) { r[1] = report; }), HasSubstr("expected one of save"));

  Parts gap = state.four(), overlap = state.four(), doubled = state.four(), shape = state.four();
  gap[2][1].extent[0] = 2;
  EXPECT_THAT(refused(gap, as_it_is), HasSubstr("tensor experts (weight): expected slices of 90 elements, found 75"));
  overlap[3][1] = state.row(9, 3);
  EXPECT_THAT(refused(overlap, as_it_is), HasSubstr("tensor rows (weight): its slices overlap"));
  doubled[1][2] = state.element(0, 7);
  EXPECT_THAT(refused(doubled, as_it_is), HasSubstr("tensor vector (weight): its slices hold more"));
  shape[1][1].shape = {2, 13};
  shape[1][1].extent = {2, 0};
  EXPECT_THAT(refused(shape, as_it_is),
              HasSubstr("tensor rows (weight): expected in all parts fp32 [13,2], found fp32 [2,13]"));
}

TEST_F(CheckpointTest, ADamagedFileOfSeveralIsNamed) {
  State state(1);
  const std::string path = save_parts(run_, 1, state.four()).path, file = path + "/shard-00002.h5";
  const auto size = static_cast<std::int64_t>(fs::file_size(file));
  std::string m;
  for (std::int64_t at = size - 90 * 4 / 2; at < size; at += 37) {
    flip_bit(file, at);
    EXPECT_EQ(code_of([&] { open_checkpoint(run_); }, m), Exit::kBadInput) << at;
    EXPECT_THAT(m, HasSubstr("shard-00002.h5"));
    if (code_of([&] { load_whole(path); }, m) != Exit::kOk) {
      EXPECT_THAT(m, HasSubstr("shard-00002.h5"));
    }
    // Who wants nothing of that file is not held up by it.
    State got = State::empty();
    EXPECT_NO_THROW(
        load_checkpoint(open_checkpoint(path), {got.expert({4, 0, 0}, {1, 5, 3}), got.row(10, 3), got.element(6, 1)}));
    flip_bit(file, at);
  }
  EXPECT_EQ(load_whole(path), state);
  fs::remove(file);
  EXPECT_EQ(code_of([&] { open_checkpoint(path); }, m), Exit::kNoInput);
  EXPECT_THAT(m, HasSubstr("missing: shard-00002.h5"));
}

TEST_F(CheckpointTest, WhatIsThereWithTheSameDigestIsKept) {
  State a(1), b(7);
  save_parts(run_, 1, a.four());
  const std::string manifest = run_ + "/step-00000001/manifest.json";
  const auto written = fs::last_write_time(manifest);
  EXPECT_NO_THROW(save_parts(run_, 1, a.three()));
  EXPECT_EQ(fs::last_write_time(manifest), written);
  std::string m;
  EXPECT_EQ(code_of([&] { save_parts(run_, 1, b.three()); }, m), Exit::kCannotCreate);
  EXPECT_EQ(load_whole(run_), a);
  save_parts(run_, 1, b.three(), true);
  EXPECT_EQ(load_whole(run_), b);
  EXPECT_EQ(names_in(run_), (Names{"latest", "step-00000001"}));
}

TEST_F(CheckpointTest, WritersWithoutACommonFileSystemAreTold) {
  State state(1);
  const CheckpointDraft draft = begin(run_, 1, state.four());
  const Names reports = write_parts(draft, state.four());
  fs::remove(draft.directory + "/shard-00003.h5");
  std::string m;
  EXPECT_EQ(code_of([&] { publish(draft, reports); }, m), Exit::kIo);
  EXPECT_THAT(m, HasSubstr("missing: shard-00003.h5"));
  EXPECT_EQ(code_of([&] { write_part(draft, 0, state.four()[0]); }, m), Exit::kCannotCreate);
  EXPECT_FALSE(has_checkpoint(run_));
}

TEST(FirstNotFinite, FindsItAnywhere) {
  for (const std::size_t n : {1, 7, 4095, 4096, 4097, 9001}) {
    std::vector<std::uint32_t> wide(n, 0xff7fffff);  // the largest finite number, negative
    std::vector<std::uint16_t> half(n, 0x7f7f);
    EXPECT_EQ(first_not_finite(wide), -1);
    EXPECT_EQ(first_not_finite(half), -1);
    for (std::size_t at = 0; at < n; at += 1 + n / 13) {
      wide[n - 1] = half[n - 1] = 0x7f80, wide[n - 1] <<= 16;
      wide[at] = at % 2 ? 0xff800000 : 0x7f800001;
      half[at] = at % 2 ? 0xff80 : 0x7fc0;
      EXPECT_EQ(first_not_finite(wide), static_cast<std::int64_t>(at));
      EXPECT_EQ(first_not_finite(half), static_cast<std::int64_t>(at));
      wide[at] = 0, half[at] = 0;
    }
  }
}

TEST_F(CheckpointTest, WhatIsNotFiniteIsNotSaved) {
  State state(1);
  save_whole(run_, 1, state);
  const Values good = state.experts;
  std::string m;
  for (const std::uint32_t bad : {0x7f800000u, 0xff800000u, 0x7fc00000u, 0xff800001u}) {
    state.experts = good;
    state.experts[5 * 3 + 2 * 3 + 1] = state.experts.back() = bad;
    EXPECT_EQ(code_of([&] { save_whole(run_, 2, state); }, m), Exit::kNumeric);
    EXPECT_THAT(m, HasSubstr("tensor experts (weight), element [1,2,1]: parameters are not finite"));
    EXPECT_EQ(code_of([&] { save_parts(run_, 2, state.four()); }, m), Exit::kNumeric);
    EXPECT_THAT(m, HasSubstr("tensor experts (weight), element [1,2,1]"));
    EXPECT_EQ(names_in(run_), (Names{"latest", "step-00000001"}));
  }
  std::vector<std::uint16_t> half = {0, 1, 0x7f80, 0};
  const std::vector<TensorSlice> moments = {{"h", "m", DType::kBF16, {2, 2}, {0, 0}, {2, 2}, half.data()}};
  EXPECT_EQ(code_of([&] { save_checkpoint(run_, 2, {}, {}, moments, {}, false); }, m), Exit::kNumeric);
  EXPECT_THAT(m, HasSubstr("tensor h (m), element [1,0]"));
  EXPECT_EQ(open_checkpoint(run_).step, 1);
}

TEST_F(CheckpointTest, ASliceReadInBlocksIsTheSlice) {
  State state(1);
  const std::string path = save_whole(run_, 1, state).path;
  const Manifest m = read_manifest(path);
  const ManifestTensor& t = m.tensors[1];  // rows [13, 2]
  const std::string file = path + "/shard-00000.h5";
  for (const std::int64_t block_bytes : {1, 8, 40, 96, 104, 1000}) {
    Values got;
    const auto take = [&](const Box& box, const std::byte* elements) {
      EXPECT_EQ(box.offset, (std::vector<std::int64_t>{static_cast<std::int64_t>(got.size()) / 2, 0}));
      EXPECT_LE(elements_of(box.extent) * 4, std::max<std::int64_t>(block_bytes, 8));
      const auto* values = reinterpret_cast<const std::uint32_t*>(elements);
      got.insert(got.end(), values, values + elements_of(box.extent));
    };
    read_slice_in_blocks(open_shard(m, 0, path), t, t.slices[0], file, block_bytes, take);
    EXPECT_EQ(got, state.rows) << block_bytes;
    ManifestSlice wrong = t.slices[0];
    wrong.digest[0] = wrong.digest[0] == '0' ? '1' : '0';
    got.clear();
    std::string message;
    EXPECT_EQ(code_of([&] { read_slice_in_blocks(open_shard(m, 0, path), t, wrong, file, block_bytes, take); }, message),
              Exit::kBadInput);
  }
}

// One save of several parts in a child with a fault planned for operation n; its wait status. 0: the save succeeded.
int save_in_child(const std::string& run, State& state, int n, const char* error) {
  const pid_t child = ::fork();
  if (child != 0) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return status;
  }
  ::setenv("MOE_FAULT", ("op=any,n=" + std::to_string(n) + ",err=" + error).c_str(), 1);
  try {
    save_parts(run, 2, state.three());
    ::_exit(0);
  } catch (const Error& e) {
    ::_exit(static_cast<int>(e.code()));
  }
}

// Whatever the operation at which it strikes, between the calls or within: the old checkpoint or the new one, whole.
void strike_everywhere(const std::string& base, const char* error) {
  State old(1), next(2);
  int successes = 0, n = 1;
  for (; successes < 8; ++n) {
    SCOPED_TRACE("operation " + std::to_string(n));
    const std::string run = base + std::to_string(n);
    save_whole(run, 1, old);
    const int status = save_in_child(run, next, n, error);
    ASSERT_TRUE(WIFEXITED(status) || WTERMSIG(status) == SIGKILL);
    const bool succeeded = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    successes += succeeded;
    if (WIFEXITED(status) && !succeeded) {
      EXPECT_EQ(WEXITSTATUS(status), 74);
      for (const std::string& name : names_in(run)) EXPECT_FALSE(name.starts_with(".tmp-step")) << name;
    }
    const std::int64_t step = open_checkpoint(run).step;
    EXPECT_TRUE(step == 2 || !succeeded);
    EXPECT_EQ(load_whole(run), step == 2 ? next : old);
    save_whole(run, 3, next);
    EXPECT_EQ(load_whole(run), next);
    for (const std::string& name : names_in(run)) EXPECT_FALSE(name.starts_with(".")) << name;
    fs::remove_all(run);
    ASSERT_LT(n, 1000);
  }
  EXPECT_GT(n - successes, 60) << "the faults did not strike";
}

TEST_F(CheckpointTest, PartsKilledAtAnyOperation) { strike_everywhere(run_, "kill"); }
TEST_F(CheckpointTest, PartsDiskFullAtAnyOperation) { strike_everywhere(run_, "ENOSPC"); }

}  // namespace
}  // namespace moe
