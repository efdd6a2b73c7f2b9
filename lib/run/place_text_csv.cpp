// The CSV form of plans, made for people and sed: a line per slot, in any order. Comment lines say what the lines cannot:
// how many experts, which layers, the topology; without them it is taken from the lines. The slots of a rank are in the
// order of their numbers, which may have gaps: a line can be changed, deleted or added without touching another.
#include <algorithm>
#include <array>
#include <charconv>
#include <map>

#include "lib/base/error.h"
#include "lib/place/topology.h"
#include "lib/run/place_edit_parts.h"
#include "lib/run/place_text_parts.h"
#include "lib/run/text_table.h"

namespace moe::place_text {

namespace {

constexpr const char* kHeading = "layer,slot,rank,node,expert,pinned";
enum Column : std::size_t { kLayer, kSlot, kRank, kNode, kExpert, kPinned, kColumns };
constexpr std::array kNames = {"layer", "slot", "rank", "node", "expert", "pinned"};

struct Line {
  int number = 0;  // in the file, from 1
  std::array<int, kColumns> value{};
  int operator[](Column c) const { return value[c]; }
};

std::string trimmed(std::string_view s) {
  const std::size_t begin = s.find_first_not_of(" \t\r"), end = s.find_last_not_of(" \t\r");
  return begin == std::string_view::npos ? "" : std::string(s.substr(begin, end - begin + 1));
}

class Reader {
 public:
  Reader(std::string path, const PlanFacts& facts) : path_(std::move(path)), facts_(facts), rank2node_(facts.rank2node) {}

  PlanFile read(const std::string& text) {
    read_lines(text);
    if (lines_.empty()) refuse(path_, "a line per slot", "none");
    num_experts_ = facts_.num_experts != 0 ? facts_.num_experts : num_experts_;
    if (num_experts_ == 0) num_experts_ = std::min(largest(kExpert), kMost - 1) + 1;
    if (rank2node_.empty()) take_nodes();
    check_layers();
    check_lines();
    return plan();
  }

 private:
  std::string at(int number) const { return path_ + ": line " + std::to_string(number); }
  int largest(Column c) const {
    int most = 0;
    for (const Line& line : lines_) most = std::max(most, line[c]);
    return most;
  }

  void read_lines(const std::string& text) {
    int number = 0;
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = std::min(text.find('\n', begin), text.size());
      const std::string line = trimmed(std::string_view(text).substr(begin, end - begin));
      begin = end + 1;
      ++number;
      if (line.empty()) continue;
      if (line[0] == '#')
        read_comment(line, number);
      else if (!has_heading_)
        read_heading(line, number);
      else
        lines_.push_back(parse_line(line, number));
    }
    if (!has_heading_) refuse(path_, std::string("the line ") + kHeading, "none");
  }

  void read_heading(const std::string& line, int number) {
    std::string names = line;
    std::erase(names, ' ');
    if (names != kHeading)
      refuse(at(number), std::string("the line ") + kHeading, "'" + line.substr(0, 60) + "'",
             line.find(';') != std::string::npos ? "columns are divided by commas" : "");
    has_heading_ = true;
  }

  // "# experts 8", "# layers 0-3", "# topology node:2 rank:4"; others are remarks.
  void read_comment(const std::string& line, int number) {
    const std::string words = trimmed(std::string_view(line).substr(1));
    const std::size_t blank = std::min(words.find(' '), words.size());
    const std::string name = words.substr(0, blank), value = trimmed(std::string_view(words).substr(blank));
    try {
      if (name == "experts") num_experts_ = parse_count(value, "experts", kMost);
      if (name == "layers") layers_ = parse_indices(value, "layers", kMost - 1);
      if (name == "topology" && rank2node_.empty()) rank2node_ = parse_topology(value).rank2node;
    } catch (const Error& e) {
      throw Error(Exit::kBadInput, at(number) + ": " + e.what(), e.hint());
    }
  }

  Line parse_line(const std::string& text, int number) {
    const auto commas = static_cast<std::size_t>(std::count(text.begin(), text.end(), ','));
    if (commas + 1 != kColumns)
      refuse(at(number), std::to_string(+kColumns) + " columns (" + kHeading + ")", std::to_string(commas + 1),
             text.find(';') != std::string::npos ? "columns are divided by commas" : "");
    Line line{number, {}};
    std::size_t begin = 0;
    for (std::size_t c = 0; c < kColumns; ++c) {
      const std::size_t end = std::min(text.find(',', begin), text.size());
      line.value[c] = parse_cell(trimmed(std::string_view(text).substr(begin, end - begin)), static_cast<Column>(c), number);
      begin = end + 1;
    }
    return line;
  }

  // An empty node is not said: -1.
  int parse_cell(const std::string& cell, Column column, int number) const {
    if (column == kNode && cell.empty()) return -1;
    const bool any = column == kExpert && facts_.allow_faults;
    const int least = any ? INT32_MIN : 0, most = column == kPinned ? 1 : any ? INT32_MAX : kMost - 1;
    int value = 0;
    const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
    if (error != std::errc() || end != cell.data() + cell.size() || value < least || value > most)
      refuse(at(number) + ", " + kNames[column], "a number from 0 to " + std::to_string(column == kPinned ? 1 : kMost - 1),
             "'" + cell.substr(0, 40) + "'");
    return value;
  }

  // Without a topology, every rank must stand in some line, with its node.
  void take_nodes() {
    rank2node_.assign(static_cast<std::size_t>(largest(kRank)) + 1, -1);
    for (const Line& line : lines_)
      if (int& node = rank2node_[static_cast<std::size_t>(line[kRank])]; node == -1) node = line[kNode];
    for (std::size_t r = 0; r < rank2node_.size(); ++r)
      if (rank2node_[r] == -1)
        refuse(path_, "a topology, or a line with the node of rank " + std::to_string(r), "neither",
               "a line '# topology node:N rank:R', or --topology");
    need_nodes(rank2node_, path_ + ": column node");
  }

  void check_layers() {
    std::vector<int> found;
    for (const Line& line : lines_) found.push_back(line[kLayer]);
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    const auto text = [](const std::vector<int>& n) { return ranges_text({n.begin(), n.end()}); };
    const std::vector<int>& want = facts_.layers.empty() ? layers_ : facts_.layers;
    if (!want.empty() && want != found) refuse(path_, "lines of layers " + text(want), "those of " + text(found));
    layers_ = found;
  }

  void check_lines() {
    std::map<std::pair<int, int>, int> slots;  // (layer, slot) -> line
    std::map<std::array<int, 3>, int> copies;  // (layer, rank, expert) -> line
    const auto num_ranks = static_cast<int>(rank2node_.size());
    const auto upto = [](const char* what, int count) { return std::string(what) + " 0 to " + std::to_string(count - 1); };
    for (const Line& line : lines_) {
      const std::string here = at(line.number);
      if (line[kRank] >= num_ranks) refuse(here, upto("ranks", num_ranks), "rank " + std::to_string(line[kRank]));
      const int node = rank2node_[static_cast<std::size_t>(line[kRank])];
      if (facts_.rank2node.empty() && line[kNode] != -1 && line[kNode] != node)
        refuse(here, "node " + std::to_string(node) + ", where rank " + std::to_string(line[kRank]) + " is",
               "node " + std::to_string(line[kNode]), "the column node may be left empty");
      const auto [slot, is_new] = slots.insert({{line[kLayer], line[kSlot]}, line.number});
      if (!is_new)
        refuse(here, "each slot of layer " + std::to_string(line[kLayer]) + " once",
               "slot " + std::to_string(line[kSlot]) + " as in line " + std::to_string(slot->second),
               "a copy gets a number that is not there yet");
      if (facts_.allow_faults) continue;
      if (line[kExpert] >= num_experts_) refuse(here, upto("experts", num_experts_), std::to_string(line[kExpert]));
      const auto [copy, is_first] = copies.insert({{line[kLayer], line[kRank], line[kExpert]}, line.number});
      if (!is_first)
        refuse(here,
               "expert " + std::to_string(line[kExpert]) + " once on rank " + std::to_string(line[kRank]) + " in layer " +
                   std::to_string(line[kLayer]),
               "it in line " + std::to_string(copy->second) + " too");
    }
  }

  PlanFile plan() {
    std::sort(lines_.begin(), lines_.end(), [](const Line& a, const Line& b) {
      return std::array{a[kLayer], a[kRank], a[kSlot]} < std::array{b[kLayer], b[kRank], b[kSlot]};
    });
    PlanFile plan;
    plan.placement = {num_experts_, layers_, {layers_.size(), {std::vector<std::vector<int>>(rank2node_.size())}}};
    plan.rank2node = rank2node_;
    plan.pinned_LS.resize(layers_.size());
    plan.provenance = nlohmann::json::array();
    std::size_t l = 0;
    for (const Line& line : lines_) {
      while (layers_[l] != line[kLayer]) ++l;
      plan.placement.placed[l].rank2experts[static_cast<std::size_t>(line[kRank])].push_back(line[kExpert]);
      plan.pinned_LS[l].push_back(static_cast<std::uint8_t>(line[kPinned]));
    }
    return plan;
  }

  std::string path_;
  const PlanFacts& facts_;
  std::vector<int> rank2node_;
  bool has_heading_ = false;
  int num_experts_ = 0;
  std::vector<int> layers_;
  std::vector<Line> lines_;
};

}  // namespace

std::string csv_of(const PlanFile& plan) {
  const Placement& p = plan.placement;
  std::string text = "# experts " + std::to_string(p.num_experts) + "\n# layers " +
                     ranges_text({p.layers.begin(), p.layers.end()}) + "\n# topology " + topology_text({plan.rank2node}) +
                     "\n" + kHeading + "\n";
  for (std::size_t l = 0; l < p.layers.size(); ++l) {
    const std::vector<int> slot2expert = p.placed[l].slot2expert(), slot2rank = p.placed[l].slot2rank();
    for (std::size_t s = 0; s < slot2expert.size(); ++s) {
      const int rank = slot2rank[s], node = plan.rank2node[static_cast<std::size_t>(rank)];
      for (const int v : {p.layers[l], static_cast<int>(s), rank, node, slot2expert[s]}) text += std::to_string(v) + ",";
      text += plan.pinned_LS[l][s] != 0 ? "1\n" : "0\n";
    }
  }
  return text;
}

PlanFile parse_csv(const std::string& text, const std::string& path, const PlanFacts& facts) {
  return Reader(path, facts).read(text);
}

}  // namespace moe::place_text
