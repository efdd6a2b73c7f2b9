// Plans of a change of layout: each element is copied once from where it lies to where it is wanted, for random cuts of
// every kind there and back; a million slices and 16,384 ranks take seconds; what does not cover is refused. Not here: files
// (reshard_test.sh).
#include "lib/io/reshard_plan.h"

#include <gmock/gmock.h>

#include <numeric>
#include <random>

#include "lib/io/box_pairs.h"
#include "tests/checkpoint_case.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using Shape = std::vector<std::int64_t>;
using Elements = std::vector<std::int64_t>;

Box whole_box(const Shape& shape) { return {Shape(shape.size(), 0), shape}; }

// Cuts a box at random planes; dimension 0 only, or any.
void cut_randomly(const Box& box, std::mt19937& random, int depth, bool any_dimension, std::vector<Box>& parts) {
  const std::size_t d = any_dimension && !box.extent.empty() ? random() % box.extent.size() : 0;
  if (depth == 0 || box.extent.empty() || box.extent[d] < 2) return parts.push_back(box);
  const auto n = 1 + static_cast<std::int64_t>(random() % static_cast<unsigned>(box.extent[d] - 1));
  Box a = box, b = box;
  a.extent[d] = n;
  b.offset[d] += n, b.extent[d] -= n;
  cut_randomly(a, random, depth - 1, any_dimension, parts);
  cut_randomly(b, random, depth - 1, any_dimension, parts);
}

// Four bars around a middle: no plane parts it without cutting a box.
std::vector<Box> pinwheel() {
  return {{{0, 0}, {1, 2}}, {{0, 2}, {2, 1}}, {{2, 1}, {1, 2}}, {{1, 0}, {2, 1}}, {{1, 1}, {1, 1}}};
}

struct Layout {
  std::vector<FileBox> boxes;
  std::size_t num_files = 1;
};

Layout random_layout(const Shape& shape, std::mt19937& random) {
  Layout layout{{}, 1 + random() % 5};
  std::vector<Box> parts;
  cut_randomly(whole_box(shape), random, 1 + static_cast<int>(random() % 5), random() % 2 == 0, parts);
  std::shuffle(parts.begin(), parts.end(), random);
  for (Box& b : parts) layout.boxes.push_back({random() % layout.num_files, std::move(b)});
  return layout;
}

// Global indices of the elements of a box in its own order, by a plain loop over all: the specification.
Elements elements_in(const Shape& shape, const Box& box) {
  Elements list;
  for (std::int64_t n = 0; n < elements_of(shape); ++n) {
    std::int64_t rest = n;
    bool inside = true;
    for (std::size_t d = shape.size(); d-- > 0; rest /= shape[d]) {
      const std::int64_t x = rest % shape[d];
      inside = inside && x >= box.offset[d] && x < box.offset[d] + box.extent[d];
    }
    if (inside) list.push_back(n);
  }
  return list;
}

// What the plan puts into each target, in pieces of `step` elements; -1 where nothing came, each element once.
std::vector<Elements> carried_out(const ReshardTensor& t, const ReshardPlan& plan, const std::vector<Elements>& sources,
                                  std::int64_t step) {
  std::vector<Elements> targets;
  for (const FileBox& f : t.targets) targets.emplace_back(static_cast<std::size_t>(elements_of(f.box.extent)), -1);
  for (std::size_t file = 0; file < plan.files.size(); ++file)
    for (const ReshardCopy& c : plan.files[file]) {
      EXPECT_EQ(t.targets[c.target].file, file);
      Elements& to = targets[c.target];
      const Elements& from = sources[c.source];
      const auto size = static_cast<std::int64_t>(to.size());
      for (std::int64_t begin = 0; begin < size; begin += step)
        for_each_common_run(c.box, t.sources[c.source].box, t.targets[c.target].box, begin, std::min(begin + step, size),
                            [&](std::int64_t from_at, std::int64_t to_at, std::int64_t count) {
                              EXPECT_TRUE(to_at >= begin && to_at + count <= begin + step && count > 0);
                              for (std::int64_t i = 0; i < count; ++i) {
                                std::int64_t& element = to.at(static_cast<std::size_t>(to_at + i));
                                EXPECT_EQ(element, -1) << "given twice";
                                element = from.at(static_cast<std::size_t>(from_at + i));
                              }
                            });
    }
  return targets;
}

void expect_right(const Shape& shape, const Layout& from, const Layout& to, std::int64_t step) {
  const ReshardTensor t{"w", shape, from.boxes, to.boxes};
  std::vector<Elements> sources, want;
  for (const FileBox& f : from.boxes) sources.push_back(elements_in(shape, f.box));
  for (const FileBox& f : to.boxes) want.push_back(elements_in(shape, f.box));
  EXPECT_EQ(carried_out(t, plan_reshard({t}, to.num_files), sources, step), want);
}

TEST(ReshardPlan, TwoHundredRandomLayoutsThereAndBack) {
  std::mt19937 random(11);
  const std::vector<Shape> shapes = {{}, {1}, {13}, {7, 5}, {5, 4, 3}, {3, 1, 7}, {2, 3, 2, 3}, {31, 2}};
  for (int i = 0; i < 200; ++i) {
    const Shape& shape = shapes[static_cast<std::size_t>(i) % shapes.size()];
    const Layout a = random_layout(shape, random), b = random_layout(shape, random);
    const std::int64_t step = 1 + static_cast<std::int64_t>(random() % 40);
    expect_right(shape, a, b, step);
    expect_right(shape, b, a, step);
  }
}

TEST(ReshardPlan, CopiesStandInTheOrderOfWriting) {
  std::mt19937 random(3);
  const Shape shape = {8, 5, 3};
  const Layout a = random_layout(shape, random), b = random_layout(shape, random);
  const ReshardTensor t{"w", shape, a.boxes, b.boxes};
  for (const auto& copies : plan_reshard({t, t}, b.num_files).files)
    for (std::size_t i = 1; i < copies.size(); ++i)
      EXPECT_LE(std::make_pair(copies[i - 1].tensor, copies[i - 1].target),
                std::make_pair(copies[i].tensor, copies[i].target));
}

TEST(ReshardPlan, SomeOfATensorAndOverlappingTargets) {
  const Shape shape = {6, 4};
  const Layout from{{{0, {{0, 0}, {6, 3}}}, {0, {{0, 3}, {6, 1}}}}, 1};
  const Layout to{{{0, {{1, 0}, {2, 4}}}, {0, {{1, 0}, {2, 4}}}, {1, {{2, 2}, {3, 2}}}}, 2};
  expect_right(shape, from, to, 3);
}

TEST(ReshardPlan, WhatDoesNotCoverIsRefused) {
  std::string m;
  const Shape shape = {3, 3};
  Layout from;
  for (const Box& b : pinwheel()) from.boxes.push_back({0, b});
  const Layout to{{{0, whole_box(shape)}}, 1};
  expect_right(shape, from, to, 2);
  ReshardTensor t{"layers.0.w (m)", shape, from.boxes, to.boxes};
  t.sources.pop_back();
  EXPECT_EQ(code_of([&] { plan_reshard({t}, 1); }, m), Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("layers.0.w (m): box at [0,0]: expected 9 elements, found 8"));
  t.sources.push_back({0, {{0, 1}, {2, 2}}});
  EXPECT_EQ(code_of([&] { plan_reshard({t}, 1); }, m), Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("overlap"));
  t.sources = {{0, {{0, 0}, {4, 3}}}};
  EXPECT_EQ(code_of([&] { plan_reshard({t}, 1); }, m), Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("outside"));
}

// Overlap by pairs, for as many boxes as that can take: the specification of the fast one.
bool overlap_by_pairs(const std::vector<Box>& boxes) {
  for (std::size_t i = 0; i < boxes.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (boxes_meet(boxes[i], boxes[j])) return true;
  return false;
}

TEST(BoxPairs, OverlapIsFoundAndNotInvented) {
  std::mt19937 random(7);
  int overlaps = 0;
  for (int round = 0; round < 200; ++round) {
    const Shape shape = {16, 16, 16};
    std::vector<Box> boxes;
    cut_randomly(whole_box(shape), random, 8, true, boxes);
    EXPECT_FALSE(any_overlap(shape, boxes));
    EXPECT_EQ(coverage_fault(shape, boxes), "");
    Box& moved = boxes[random() % boxes.size()];
    const std::size_t d = random() % 3;
    if (moved.offset[d] + moved.extent[d] < 16) ++moved.offset[d];
    EXPECT_EQ(any_overlap(shape, boxes), overlap_by_pairs(boxes));
    EXPECT_EQ(coverage_fault(shape, boxes).empty(), !overlap_by_pairs(boxes));
    overlaps += any_overlap(shape, boxes);
  }
  EXPECT_GT(overlaps, 50);
  EXPECT_FALSE(any_overlap({3, 3}, pinwheel()));
}

// Columns of a matrix, no run of which is in one piece, cut from both sides: the general way stays near-linear.
TEST(BoxPairs, HundredThousandColumns) {
  const std::int64_t n = 100000;
  std::vector<Box> a, b;
  for (std::int64_t c = 0; c < n; ++c) a.push_back({{0, 2 * c}, {4, 2}});
  for (std::int64_t c = 0; c < n; ++c) b.push_back({{c % 2, c == 0 ? 0 : 2 * c - 1}, {3, c == 0 ? 1 : 2}});
  EXPECT_EQ(coverage_fault({4, 2 * n}, a), "");
  std::int64_t pairs = 0;
  for_each_meeting({4, 2 * n}, a, b, [&](std::size_t, std::size_t) { return ++pairs, true; });
  EXPECT_EQ(pairs, 2 * n - 1);
}

// Rows of `rows` x 4 elements over `ranks` ranks and back to others: what a mesh of that size writes.
TEST(ReshardPlan, AMillionSlicesOfSixteenThousandRanks) {
  const std::size_t num_tensors = 61, ranks = 16384, before = 3000;
  std::vector<ReshardTensor> tensors;
  for (std::size_t i = 0; i < num_tensors; ++i) {
    const bool experts = i % 2 == 0;  // [expert, row, column], else [row, column]
    const std::int64_t rows = 64 * 1024;
    ReshardTensor t{"t" + std::to_string(i), experts ? Shape{64, 1024, 4} : Shape{rows, 4}, {}, {}};
    const auto cut = [&](std::size_t parts, std::vector<FileBox>& list) {
      for (std::size_t p = 0; p < parts; ++p) {
        const auto n = static_cast<std::int64_t>(parts), k = static_cast<std::int64_t>(p);
        for (std::int64_t row = rows * k / n, end = rows * (k + 1) / n, next = 0; row < end; row = next) {
          next = experts ? std::min(end, (row / 1024 + 1) * 1024) : end;
          if (experts)
            list.push_back({p, {{row / 1024, row % 1024, 0}, {1, next - row, 4}}});
          else
            list.push_back({p, {{row, 0}, {next - row, 4}}});
        }
      }
    };
    cut(before, t.sources);
    cut(ranks, t.targets);
    tensors.push_back(std::move(t));
  }
  std::size_t slices = 0, copies = 0;
  std::int64_t elements = 0;
  for (const ReshardTensor& t : tensors) slices += t.sources.size() + t.targets.size();
  EXPECT_GT(slices, 1'000'000u);
  for (const auto& file : plan_reshard(tensors, ranks).files) {
    copies += file.size();
    for (const ReshardCopy& c : file) elements += elements_of(c.box.extent);
  }
  EXPECT_EQ(elements, static_cast<std::int64_t>(num_tensors) * 64 * 1024 * 4);
  EXPECT_LT(copies, 2 * slices);
}

}  // namespace
}  // namespace moe
