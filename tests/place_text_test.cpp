// Plans as text: what is exported is imported equal, in every form; what a person can break with sed is one clear line; the
// shapes of EPLB, vLLM and SGLang as these programs spell them. Not here: the commands (place_edit_test.sh).
#include "lib/run/place_text.h"

#include <gmock/gmock.h>

#include "lib/base/error.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

// Layers 1 and 4, 3 experts on 3 ranks of two nodes: a copy of expert 2, a rank without any, pins.
PlanFile uneven_plan() {
  PlanFile plan;
  plan.placement = {3, {1, 4}, {{{{0, 2}, {}, {2, 1}}}, {{{2}, {1}, {0}}}}};
  plan.rank2node = {0, 0, 1};
  plan.pinned_LS = {{0, 1, 0, 1}, {0, 0, 0}};
  plan.predicted = {{"max_over_mean", 1.25}};
  plan.provenance = nlohmann::json::array({{{"tool", "moe-place"}}});
  return plan;
}

// 4 experts in 6 slots on 2 ranks: vLLM's own example, as layers 1 and 3.
PlanFile even_plan() {
  PlanFile plan;
  plan.placement = {4, {1, 3}, {{{{0, 1, 2}, {3, 0, 1}}}, {{{0, 2, 1}, {1, 0, 3}}}}};
  plan.rank2node = {0, 1};
  plan.pinned_LS.assign(2, std::vector<std::uint8_t>(6));
  plan.provenance = nlohmann::json::array();
  return plan;
}

std::string path_of(PlanFormat format) { return format == PlanFormat::kCsv ? "plan.csv" : "plan.json"; }

void expect_round_trip(const PlanFile& plan, PlanFormat format, const PlanFacts& facts = {}) {
  const std::string path = path_of(format), text = plan_text(plan, format, path);
  EXPECT_EQ(static_cast<int>(plan_format("", path, &text)), static_cast<int>(format)) << text;
  const PlanFile back = parse_plan_text(text, path, format, facts);
  EXPECT_EQ(back.placement, plan.placement) << text;
  EXPECT_EQ(back.rank2node, plan.rank2node);
  EXPECT_EQ(back.pinned_LS, plan.pinned_LS);
}

std::string refused(const std::string& text, PlanFormat format, const PlanFacts& facts = {}) {
  try {
    parse_plan_text(text, path_of(format), format, facts);
  } catch (const Error& e) {
    EXPECT_EQ(static_cast<int>(e.code()), static_cast<int>(Exit::kBadInput)) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
    return e.what() + (e.hint().empty() ? "" : " (" + e.hint() + ")");
  }
  return "accepted";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(PlaceText, RoundTripOfAnyPlan) {
  expect_round_trip(uneven_plan(), PlanFormat::kCsv);
  expect_round_trip(uneven_plan(), PlanFormat::kJson);
  const std::string text = plan_text(uneven_plan(), PlanFormat::kJson, "x.json");
  const PlanFile back = parse_plan_text(text, "x.json", PlanFormat::kJson, {});
  EXPECT_EQ(back.predicted, uneven_plan().predicted);
  EXPECT_EQ(back.provenance, uneven_plan().provenance);
}

TEST(PlaceText, RoundTripOfMaps) {
  expect_round_trip(even_plan(), PlanFormat::kEplb);
  PlanFacts facts;
  facts.rank2node = {0, 1};
  facts.layers = {1, 3};
  expect_round_trip(even_plan(), PlanFormat::kVllm, facts);
  expect_round_trip(even_plan(), PlanFormat::kSglang, facts);
  const std::string rows = plan_text(even_plan(), PlanFormat::kEplb, "map.csv");
  EXPECT_EQ(rows, "0,1,2,3,0,1\n0,2,1,1,0,3\n");
  EXPECT_EQ(parse_plan_text(rows, "map.csv", PlanFormat::kEplb, facts).placement, even_plan().placement);
}

// A plan with faults (EPLB may put two copies of an expert on one rank) survives too, where that is asked for.
TEST(PlaceText, RoundTripOfFaults) {
  PlanFile plan = even_plan();
  plan.placement.placed[0] = {{{0, 0, 9}, {3, 3, 1}}};
  plan.pinned_LS[0] = {1, 0, 0, 1, 1, 0};
  PlanFacts facts;
  facts.allow_faults = true;
  expect_round_trip(plan, PlanFormat::kCsv, facts);
  expect_round_trip(plan, PlanFormat::kJson, facts);
  EXPECT_THAT(refused(plan_text(plan, PlanFormat::kCsv, ""), PlanFormat::kCsv),
              HasSubstr("line 6: expected expert 0 once on rank 0 in layer 1, found it in line 5 too"));
}

TEST(PlaceText, ShapesOfOtherPrograms) {
  EXPECT_EQ(plan_text(even_plan(), PlanFormat::kVllm, "-"), "[\n[0,1,2,3,0,1],\n[0,2,1,1,0,3]\n]\n");
  EXPECT_EQ(plan_text(even_plan(), PlanFormat::kSglang, "-"),
            "{\"physical_to_logical_map\": [\n[0,1,2,3,0,1],\n[0,1,2,3,0,1],\n[0,1,2,3,0,1],\n[0,2,1,1,0,3]\n]}\n");
  PlanFacts facts;
  facts.rank2node = {0, 0, 0};
  facts.layers = {2, 3};
  const PlanFile shared = parse_plan_text("[0, 1, 2, 3, 0, 1]", "x.json", PlanFormat::kVllm, facts);
  EXPECT_EQ(shared.placement.placed[1].rank2experts, (std::vector<std::vector<int>>{{0, 1}, {2, 3}, {0, 1}}));
  EXPECT_EQ(shared.placement.num_experts, 4);
}

TEST(PlaceText, MapsNeedEvenPlans) {
  for (const PlanFormat format : {PlanFormat::kEplb, PlanFormat::kVllm, PlanFormat::kSglang}) try {
      plan_text(uneven_plan(), format, "x.json");
      ADD_FAILURE() << "nothing was refused";
    } catch (const Error& e) {
      EXPECT_EQ(static_cast<int>(e.code()), static_cast<int>(Exit::kUsage));
      EXPECT_THAT(e.what(), HasSubstr("expected 2 slots on every rank of every layer, found 0 on rank 1 of layer 1"));
    }
}

TEST(PlaceText, CsvAsPeopleEditIt) {
  const std::string csv = plan_text(uneven_plan(), PlanFormat::kCsv, "");
  ASSERT_EQ(csv,
            "# experts 3\n# layers 1,4\n# topology rank:2,1\nlayer,slot,rank,node,expert,pinned\n1,0,0,0,0,0\n1,1,0,0,2,1\n"
            "1,2,2,1,2,0\n1,3,2,1,1,1\n4,0,0,0,2,0\n4,1,1,0,1,0\n4,2,2,1,0,0\n");
  const auto placed = [](const std::string& text, std::size_t l) {
    return parse_plan_text(text, "plan.csv", PlanFormat::kCsv, {}).placement.placed[l].rank2experts;
  };
  using Ranks = std::vector<std::vector<int>>;
  EXPECT_EQ(placed(replaced(csv, "4,0,0,0,2,0", "4,0,1,0,2,0"), 1), (Ranks{{}, {2, 1}, {0}}));  // another rank
  EXPECT_EQ(placed(replaced(csv, "4,0,0,0,2,0", "4,0,2,,2,0"), 1), (Ranks{{}, {1}, {2, 0}}));   // node left out
  EXPECT_EQ(placed(replaced(csv, "1,1,0,0,2,1\n", ""), 0), (Ranks{{0}, {}, {2, 1}}));           // a copy less
  EXPECT_EQ(placed(csv + "4,9,1,0,0,0\n", 1), (Ranks{{2}, {1, 0}, {0}}));                       // a copy more
  EXPECT_EQ(placed(replaced(csv, "1,0,0,0,0,0\n", "\n# a remark\r\n 1 , 0,0 ,0,0,0\r\n"), 0), (Ranks{{0, 2}, {}, {2, 1}}));
}

// Without the comment lines everything comes from the lines.
TEST(PlaceText, CsvWithoutComments) {
  const PlanFile plan =
      parse_plan_text("layer,slot,rank,node,expert,pinned\n0,0,0,0,1,0\n0,1,1,1,0,1\n", "plan.csv", PlanFormat::kCsv, {});
  EXPECT_EQ(plan.placement, (Placement{2, {0}, {{{{1}, {0}}}}}));
  EXPECT_EQ(plan.rank2node, (std::vector<int>{0, 1}));
}

TEST(PlaceText, CsvErrorsAreOneClearLine) {
  const std::string csv = plan_text(uneven_plan(), PlanFormat::kCsv, "");
  const auto said = [&](const std::string& from, const std::string& to) {
    return refused(replaced(csv, from, to), PlanFormat::kCsv);
  };
  EXPECT_THAT(said("4,1,1,0,1,0", "4,1,1,0,7,0"), HasSubstr("plan.csv: line 10: expected experts 0 to 2, found 7"));
  EXPECT_THAT(said("4,1,1,0,1,0", "4,1,3,0,1,0"), HasSubstr("line 10: expected ranks 0 to 2, found rank 3"));
  EXPECT_THAT(said("4,1,1,0,1,0", "4,1,2,0,1,0"),
              HasSubstr("line 10: expected node 1, where rank 2 is, found node 0 (the column node may be left empty)"));
  EXPECT_THAT(said("4,1,1,0,1,0", "4,0,1,0,1,0"), HasSubstr("line 10: expected each slot of layer 4 once, found slot 0"));
  EXPECT_THAT(said("4,1,1,0,1,0", "4,1,1,0,1"), HasSubstr("line 10: expected 6 columns"));
  EXPECT_THAT(said("4,1,1,0,1,0", "4,1,1,0,1,2"), HasSubstr("line 10, pinned: expected a number from 0 to 1, found '2'"));
  EXPECT_THAT(said("4,1,1,0,1,0", "4,1,1,0,x,0"), HasSubstr("line 10, expert: expected a number"));
  EXPECT_THAT(said("4,1,1,0,1,0", "4,1,1,0,-1,0"), HasSubstr("found '-1'"));
  EXPECT_THAT(said("4,1,1,0,1,0", "4,1,,0,1,0"), HasSubstr("line 10, rank: expected a number"));
  EXPECT_THAT(said("4,1,1,0,1,0", "4;1;1;0;1;0"), HasSubstr("columns are divided by commas"));
  EXPECT_THAT(said("4,1,1,0,1,0", "99999999999,1,1,0,1,0"), HasSubstr("line 10, layer"));
  EXPECT_THAT(said("layer,slot", "slot,layer"), HasSubstr("line 4: expected the line layer,slot,rank"));
  EXPECT_THAT(said("# experts 3", "# experts many"), HasSubstr("plan.csv: line 1: experts: expected a number"));
  EXPECT_THAT(said("rank:2,1", "rank:2,x"), HasSubstr("plan.csv: line 3: topology"));
  EXPECT_THAT(said("# layers 1,4", "# layers 1-4"), HasSubstr("expected lines of layers 1-4, found those of 1,4"));
  EXPECT_THAT(said("# topology rank:2,1\n", ""), "accepted");
  EXPECT_THAT(refused("", PlanFormat::kCsv), HasSubstr("expected the line layer,slot"));
  EXPECT_THAT(refused("layer,slot,rank,node,expert,pinned\n", PlanFormat::kCsv), HasSubstr("expected a line per slot"));
  EXPECT_THAT(refused("layer,slot,rank,node,expert,pinned\n0,0,1,0,0,0\n", PlanFormat::kCsv),
              HasSubstr("a line with the node of rank 0, found neither"));
  EXPECT_THAT(refused("layer,slot,rank,node,expert,pinned\n0,0,0,0,0,0\n0,1,1,5,1,0\n", PlanFormat::kCsv),
              HasSubstr("expected rank 1 on node 0 or 1, found node 5"));
}

TEST(PlaceText, JsonErrorsAreOneClearLine) {
  const std::string text = plan_text(uneven_plan(), PlanFormat::kJson, "");
  const auto said = [&](const std::string& from, const std::string& to) {
    return refused(replaced(text, from, to), PlanFormat::kJson);
  };
  EXPECT_THAT(said("[[2],[1],[0]]", "[[2],[1],[7]]"),
              HasSubstr("plan.json: layers[1].ranks[2][0]: expected a number from 0 to 2, found 7"));
  EXPECT_THAT(said("[[2],[1],[0]]", "[[2],[1]]"), HasSubstr("layers[1].ranks: expected 3 ranks, as rank2node has, found 2"));
  EXPECT_THAT(said("[[2],[1],[0]]", "[[2],[1],0]"), HasSubstr("layers[1].ranks[2]: expected a list, found 0"));
  EXPECT_THAT(said("[[2],[1],[0]]", "[[2],[1],[0.5]]"), HasSubstr("found 0.5"));
  EXPECT_THAT(said("\"ranks\"", "\"rank\""), HasSubstr("did you mean ranks?"));
  EXPECT_THAT(said("\"layer\":4", "\"layer\":1"), HasSubstr("layers[1].layer: expected layers that rise, found 1 after 1"));
  EXPECT_THAT(said("[[2,0],[1,2]]", "[[2,1],[1,2]]"),
              HasSubstr("pinned[0]: expected expert 2 on rank 1, found no such copy"));
  EXPECT_THAT(said("\"num_experts\": 3", "\"num_experts\": 0"), HasSubstr("num_experts: expected a number from 1"));
  EXPECT_THAT(said("[0,0,1]", "[0,0,2]"), HasSubstr("rank2node: expected rank 2 on node 0 or 1, found node 2"));
  EXPECT_THAT(said("\"moe-plan\"", "\"moe-map\""), HasSubstr("kind: expected moe-plan, found \"moe-map\""));
  EXPECT_THAT(said("[[2],[1],[0]]", "[[2],[1],[0]"), HasSubstr("expected JSON"));
  EXPECT_THAT(refused("[]", PlanFormat::kJson), HasSubstr("plan.json: expected an object, found a list of 0"));
}

TEST(PlaceText, MapErrorsAreOneClearLine) {
  PlanFacts facts;
  facts.rank2node = {0, 1};
  const auto said = [&](const std::string& text, PlanFormat format = PlanFormat::kVllm) {
    return refused(text, format, facts);
  };
  EXPECT_THAT(refused("[[0,1]]", PlanFormat::kVllm),
              HasSubstr("expected the number of ranks, found none in this form (--topo"));
  EXPECT_THAT(said("[[0,1,2]]"), HasSubstr("row 0: expected a multiple of 2 slots, one for each rank, found 3"));
  EXPECT_THAT(said("[[0,1],[0,-1]]"), HasSubstr("row 1[1]: expected a number from 0"));
  EXPECT_THAT(said("[[0,1],7]"), HasSubstr("row 1: expected a list, found 7"));
  EXPECT_THAT(said("[]"), HasSubstr("expected a row for each layer, found none"));
  EXPECT_THAT(said("{\"map\": 1}"), HasSubstr("expected a member phy2log or physical_to_logical_map"));
  EXPECT_THAT(said("{\"num_gpus\": 4, \"phy2log\": [[0,1,2,3]]}", PlanFormat::kEplb),
              HasSubstr("num_gpus: expected 2 as --topology has, found 4"));
  facts.layers = {0, 5};
  EXPECT_THAT(said("{\"physical_to_logical_map\": [[0,1]]}", PlanFormat::kSglang),
              HasSubstr("expected a row for each layer up to 5, found 1 rows"));
  EXPECT_THAT(said("[[0,1]]"), HasSubstr("expected a row for each of 2 layers, found 1 rows"));
  facts = {};
  facts.rank2node = {0, 1};
  facts.num_experts = 2;
  EXPECT_THAT(said("[[0,2]]"), HasSubstr("row 0[1]: expected a number from 0 to 1, found 2"));
}

TEST(PlaceText, FormatByNameOrContent) {
  EXPECT_EQ(plan_format("sglang", "x.json"), PlanFormat::kSglang);
  EXPECT_EQ(plan_format("", "x.csv"), PlanFormat::kCsv);
  EXPECT_EQ(plan_format("", "x.json"), PlanFormat::kJson);
  EXPECT_EQ(plan_format("", "-"), PlanFormat::kCsv);
  EXPECT_THROW(plan_format("xml", "x.csv"), Error);
  EXPECT_THROW(plan_format("", "x.txt"), Error);
}

TEST(PlaceText, LoadsAsJson) {
  const Loads flat = parse_loads_json("[[1, 2.5, 0], [0, 0, 7]]", "x");
  EXPECT_EQ(flat.num_experts, 3);
  EXPECT_EQ(flat.layers, (std::vector<int>{0, 1}));
  EXPECT_EQ(flat.of_layer[0].load_E, (std::vector<double>{1, 2.5, 0}));
  for (const char* name : {"logical_count", "expert_load", "weight"}) {
    const Loads steps = parse_loads_json(std::string("{\"") + name + "\": [[[1, 2]], [[3, 4]]], \"rank\": 0}", "x");
    ASSERT_EQ(steps.layers.size(), 1u);
    EXPECT_EQ(steps.of_layer[0].load_E, (std::vector<double>{4, 6}));
  }
}

TEST(PlaceText, LoadsAsJsonErrors) {
  const auto said = [](const char* text) -> std::string {
    try {
      parse_loads_json(text, "loads.json");
    } catch (const Error& e) {
      EXPECT_EQ(static_cast<int>(e.code()), static_cast<int>(Exit::kBadInput));
      return e.what();
    }
    return "accepted";
  };
  EXPECT_THAT(said("[[1, 2], [3]]"), HasSubstr("loads.json, layer 1: expected 2 experts, found 1"));
  EXPECT_THAT(said("[[1, -2]]"), HasSubstr("layer 0, expert 1: expected a load from 0, found -2"));
  EXPECT_THAT(said("[[1, null]]"), HasSubstr("found null"));
  EXPECT_THAT(said("[[[1]], [[1], [2]]]"), HasSubstr("step 1: expected 1 layers, found 2"));
  for (const char* text : {"{}", "[]", "[1, 2]", "[[]]", "[[[]]]", "7", "x"}) EXPECT_NE(said(text), "accepted") << text;
}

}  // namespace
}  // namespace moe
