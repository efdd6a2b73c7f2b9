// EPLB: the example of its README, and an independent plain transcription on random instances of many shapes.
#include "lib/place/eplb.h"

#include <gmock/gmock.h>

#include <map>
#include <random>

#include "lib/base/error.h"

namespace moe {
namespace {

using testing::ElementsAreArray;

TEST(Eplb, ReadmeExample) {
  const std::vector<double> w0 = {90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86};
  const std::vector<double> w1 = {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27};
  EXPECT_THAT(eplb_layer(w0, 16, 4, 2, 8).slot2expert(),
              ElementsAreArray({5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1}));
  EXPECT_THAT(eplb_layer(w1, 16, 4, 2, 8).slot2expert(),
              ElementsAreArray({7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}));
}

// The published program once more, by other means: maps instead of arrays, selection instead of sorting.
std::vector<std::vector<int>> plain_pack(std::map<int, float> weight, int num_packs) {
  const int capacity = static_cast<int>(weight.size()) / num_packs;
  std::vector<std::vector<int>> packs(static_cast<std::size_t>(num_packs));
  if (capacity == 1) {
    for (const auto& [i, w] : weight) packs[static_cast<std::size_t>(i)] = {i};
    return packs;
  }
  std::vector<float> sum(packs.size());
  while (!weight.empty()) {
    auto heaviest = weight.begin();
    for (auto i = weight.begin(); i != weight.end(); ++i)
      if (i->second > heaviest->second) heaviest = i;
    int to = -1;
    for (int p = num_packs - 1; p >= 0; --p) {
      const auto i = static_cast<std::size_t>(p);
      if (static_cast<int>(packs[i].size()) < capacity && (to < 0 || sum[i] <= sum[static_cast<std::size_t>(to)])) to = p;
    }
    packs[static_cast<std::size_t>(to)].push_back(heaviest->first);
    sum[static_cast<std::size_t>(to)] += heaviest->second;
    weight.erase(heaviest);
  }
  return packs;
}

std::vector<int> plain_eplb(const std::vector<double>& load, int num_slots, int groups, int nodes, int ranks) {
  if (groups % nodes != 0) groups = nodes = 1;
  const int size = static_cast<int>(load.size()) / groups;
  std::map<int, float> group_load;
  for (int e = 0; e < static_cast<int>(load.size()); ++e)
    group_load[e / size] += static_cast<float>(load[static_cast<std::size_t>(e)]);
  std::vector<int> phy2log;
  for (const auto& node_groups : plain_pack(group_load, nodes)) {
    std::vector<int> experts;
    for (const int g : node_groups)
      for (int i = 0; i < size; ++i) experts.push_back(g * size + i);
    std::vector<int> slots(experts.size()), count(experts.size(), 1);
    for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int>(i);
    const auto part = [&](int i) {
      const auto at = static_cast<std::size_t>(i);
      return static_cast<float>(load[static_cast<std::size_t>(experts[at])]) / static_cast<float>(count[at]);
    };
    while (static_cast<int>(slots.size()) < num_slots / nodes) {
      int most = 0;
      for (int i = 1; i < static_cast<int>(experts.size()); ++i)
        if (part(i) > part(most)) most = i;
      slots.push_back(most);
      ++count[static_cast<std::size_t>(most)];
    }
    std::map<int, float> slot_load;
    for (std::size_t s = 0; s < slots.size(); ++s) slot_load[static_cast<int>(s)] = part(slots[s]);
    for (const auto& pack : plain_pack(slot_load, ranks / nodes))
      for (const int s : pack) phy2log.push_back(experts[static_cast<std::size_t>(slots[static_cast<std::size_t>(s)])]);
  }
  return phy2log;
}

// Loads are small whole numbers, so that many tie.
TEST(Eplb, EqualsPlainTranscription) {
  struct Shape {
    int experts, slots, groups, nodes, ranks;
  };
  const std::vector<Shape> shapes = {{12, 16, 4, 2, 8},    {16, 16, 4, 2, 8},     {16, 16, 1, 1, 16},   {7, 7, 1, 1, 1},
                                     {7, 14, 7, 1, 2},     {8, 24, 2, 2, 4},      {9, 12, 3, 2, 4},     {64, 72, 8, 4, 8},
                                     {64, 64, 8, 8, 64},   {60, 80, 10, 5, 20},   {128, 160, 8, 2, 16}, {1, 4, 1, 1, 4},
                                     {256, 288, 8, 4, 32}, {256, 288, 8, 18, 144}};
  std::mt19937 random(3);
  for (const int range : {1, 4, 50, 100000})
    for (const Shape& s : shapes)
      for (int repeat = 0; repeat < 3; ++repeat) {
        std::vector<double> load(static_cast<std::size_t>(s.experts));
        for (double& w : load) w = static_cast<double>(random() % static_cast<unsigned>(range));
        ASSERT_THAT(eplb_layer(load, s.slots, s.groups, s.nodes, s.ranks).slot2expert(),
                    ElementsAreArray(plain_eplb(load, s.slots, s.groups, s.nodes, s.ranks)))
            << s.experts << " experts, " << s.slots << " slots, " << s.ranks << " ranks, loads below " << range;
      }
}

TEST(Eplb, NamesWhatDoesNotDivide) {
  const std::vector<double> load(12, 1.0);
  const auto message = [&](int slots, int groups, int nodes, int ranks) {
    try {
      eplb_layer(load, slots, groups, nodes, ranks);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Exit::kUsage);
      return std::string(e.what());
    }
    return std::string("nothing");
  };
  EXPECT_EQ(message(17, 4, 2, 8), "EPLB: expected slots in a multiple of the 8 ranks, found 17");
  EXPECT_EQ(message(16, 4, 3, 8), "EPLB: expected ranks in a multiple of the 3 nodes, found 8");
  EXPECT_EQ(message(16, 5, 2, 8), "EPLB: expected experts in a multiple of the 5 groups, found 12");
  EXPECT_EQ(message(8, 4, 2, 8), "EPLB: expected at least 12 slots, one per expert, found 8");
}

}  // namespace
}  // namespace moe
