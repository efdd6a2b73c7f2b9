// Topologies: what is read is written again, and what is wrong is named by its word.
#include "lib/place/topology.h"

#include <gmock/gmock.h>

#include "lib/base/error.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TopologyTest, TextForms) {
  EXPECT_THAT(parse_topology("node:2 rank:3").rank2node, ElementsAre(0, 0, 0, 1, 1, 1));
  EXPECT_THAT(parse_topology("  rank:1   node:3 ").rank2node, ElementsAre(0, 1, 2));
  EXPECT_THAT(parse_topology("rank:4").rank2node, ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(parse_topology("rank:2,1,3").rank2node, ElementsAre(0, 0, 1, 2, 2, 2));
  EXPECT_EQ(parse_topology("node:3 rank:2,1,3"), parse_topology("rank:2,1,3"));
  EXPECT_THAT(parse_topology("rank:2,1,3").num_ranks_of_node(), ElementsAre(2, 1, 3));
  EXPECT_EQ(parse_topology("rank:2,1,3").num_nodes(), 3);
  EXPECT_EQ(Topology{}.num_nodes(), 0);
  for (const char* text : {"node:4 rank:8", "node:1 rank:5", "rank:8,8,4", "node:7 rank:1"})
    EXPECT_EQ(topology_text(parse_topology(text)), text);
  EXPECT_EQ(topology_text(parse_topology("rank:2,2")), "node:2 rank:2");
}

TEST(TopologyTest, FaultsNameTheWord) {
  const std::vector<std::pair<std::string, std::string>> faults = {
      {"", "found none in ''"},
      {"node:2", "found none in 'node:2'"},
      {"node:2 ranks:4", "found 'ranks:4'"},
      {"8", "found '8'"},
      {"node:two rank:4", "found 'node:two'"},
      {"node:2 rank:4x", "found 'rank:4x'"},
      {"node:0 rank:4", "found 'node:0'"},
      {"rank:4,0", "found 'rank:4,0'"},
      {"rank:4,", "found 'rank:4,'"},
      {"rank:", "found 'rank:'"},
      {"rank:-3", "found 'rank:-3'"},
      {"rank:99999999999", "found 'rank:99999999999'"},
      {"rank:2 rank:3", "again in 'rank:3'"},
      {"node:2,2 rank:3", "one number of nodes"},
      {"node:2 rank:3,3,3", "ranks of 2 nodes, found 3"},
      {"node:1000000 rank:1000000", "found more"},
  };
  for (const auto& [text, what] : faults) {
    try {
      parse_topology(text);
      ADD_FAILURE() << text << " was read";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Exit::kUsage) << text;
      EXPECT_THAT(e.what(), HasSubstr(what)) << text;
    }
  }
}

}  // namespace
}  // namespace moe
