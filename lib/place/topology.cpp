#include "lib/place/topology.h"

#include <algorithm>
#include <charconv>
#include <sstream>

#include "lib/base/error.h"

namespace moe {
namespace {

constexpr int kMostRanks = 1 << 20;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Exit::kUsage, "topology: " + what, "as \"node:4 rank:8\", or \"rank:8,8,4\" where nodes differ");
}

int parse_count(const std::string& word, const std::string& digits) {
  int n = 0;
  const auto [end, fault] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
  if (fault != std::errc() || end != digits.data() + digits.size() || n < 1 || n > kMostRanks)
    refuse("expected whole numbers from 1 to " + std::to_string(kMostRanks) + " behind the colon, found '" + word + "'");
  return n;
}

// The numbers behind the colon of `word`.
std::vector<int> parse_counts(const std::string& word) {
  std::vector<int> counts;
  for (std::size_t at = word.find(':'); at != std::string::npos;) {
    const std::size_t comma = word.find(',', at + 1);
    counts.push_back(parse_count(word, word.substr(at + 1, comma - at - 1)));
    at = comma;
  }
  return counts;
}

// The numbers of the word `name`:N,N,...; empty if it is not there.
std::vector<int> counts_of(const std::vector<std::string>& words, const std::string& name) {
  std::vector<int> counts;
  for (const std::string& word : words) {
    if (!word.starts_with(name + ":")) continue;
    if (!counts.empty()) refuse("expected '" + name + ":' once, found it again in '" + word + "'");
    counts = parse_counts(word);
  }
  return counts;
}

}  // namespace

std::vector<int> Topology::num_ranks_of_node() const {
  std::vector<int> counts(static_cast<std::size_t>(num_nodes()));
  for (const int node : rank2node) ++counts[static_cast<std::size_t>(node)];
  return counts;
}

Topology parse_topology(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  for (const std::string& word : words)
    if (!word.starts_with("node:") && !word.starts_with("rank:"))
      refuse("expected 'node:N' or 'rank:R', found '" + word + "'");
  const std::vector<int> nodes = counts_of(words, "node");
  std::vector<int> ranks_N = counts_of(words, "rank");
  if (ranks_N.empty()) refuse("expected 'rank:R', found none in '" + text + "'");
  if (nodes.size() > 1) refuse("expected one number of nodes, found " + std::to_string(nodes.size()) + " in '" + text + "'");
  if (!nodes.empty() && ranks_N.size() == 1) ranks_N.resize(static_cast<std::size_t>(nodes[0]), ranks_N[0]);
  if (!nodes.empty() && static_cast<std::size_t>(nodes[0]) != ranks_N.size())
    refuse("expected the ranks of " + std::to_string(nodes[0]) + " nodes, found " + std::to_string(ranks_N.size()) +
           " numbers in '" + text + "'");
  Topology topology;
  for (std::size_t node = 0; node < ranks_N.size(); ++node) {
    if (ranks_N[node] > kMostRanks - topology.num_ranks())
      refuse("expected at most " + std::to_string(kMostRanks) + " ranks, found more in '" + text + "'");
    topology.rank2node.insert(topology.rank2node.end(), static_cast<std::size_t>(ranks_N[node]), static_cast<int>(node));
  }
  return topology;
}

std::string topology_text(const Topology& topology) {
  const std::vector<int> ranks_N = topology.num_ranks_of_node();
  if (ranks_N.empty()) return "";
  if (std::all_of(ranks_N.begin(), ranks_N.end(), [&](int n) { return n == ranks_N[0]; }))
    return "node:" + std::to_string(ranks_N.size()) + " rank:" + std::to_string(ranks_N[0]);
  std::string text = "rank:";
  for (std::size_t node = 0; node < ranks_N.size(); ++node) text += (node > 0 ? "," : "") + std::to_string(ranks_N[node]);
  return text;
}

}  // namespace moe
