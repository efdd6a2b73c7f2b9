// What all ranks of a job agree on: failures, and that they were started alike.
#include <nlohmann/json.hpp>

#include "lib/comm/collectives.h"
#include "lib/comm/world.h"

namespace moe {
namespace {

using nlohmann::json;
using Facts = std::vector<std::string>;
constexpr std::size_t kMostNamed = 4;

// "" if body() did not throw; a failure as text that other ranks can read.
std::string failure_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    const json failure{{"code", static_cast<int>(error.code())}, {"message", error.what()}, {"hint", error.hint()}};
    return failure.dump(-1, ' ', false, json::error_handler_t::replace);
  }
  return "";
}

std::string joined(const Facts& parts, const char* between) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) text += (i ? between : "") + parts[i];
  return text;
}

std::string key_of(const std::string& fact) { return fact.substr(0, fact.find('=')); }
std::string value_of(const std::string& fact) {
  const std::size_t at = fact.find('=');
  return at == std::string::npos ? "" : fact.substr(at + 1);
}

const std::string* fact_with(const std::string& key, const Facts& facts) {
  for (const std::string& fact : facts)
    if (key_of(fact) == key) return &fact;
  return nullptr;
}

// "--lr 1e-3 instead of 3e-3, no --seed"; "" if they are the same.
std::string differences(const Facts& expected, const Facts& found) {
  Facts texts;
  for (const std::string& fact : expected) {
    const std::string* other = fact_with(key_of(fact), found);
    if (!other) texts.push_back("no " + key_of(fact));
    if (other && *other != fact) texts.push_back(key_of(fact) + " " + value_of(*other) + " instead of " + value_of(fact));
  }
  for (const std::string& fact : found)
    if (!fact_with(key_of(fact), expected)) texts.push_back(key_of(fact) + " " + value_of(fact));
  return joined(texts, ", ");
}

// The ranks that differ from rank 0 and how, one after the other; "" if none does.
std::string odd_ranks(const Comm& comm, const std::vector<Facts>& rank2facts) {
  Facts odd;
  for (std::size_t r = 1; r < rank2facts.size(); ++r) {
    const std::string difference = differences(rank2facts[0], rank2facts[r]);
    if (!difference.empty())
      odd.push_back(comm.name_of(static_cast<int>(r)) + ": expected the options of rank 0, found " + difference);
  }
  const std::size_t num_odd = odd.size();
  if (num_odd > kMostNamed) {
    odd.resize(kMostNamed);
    odd.push_back("and " + std::to_string(num_odd - kMostNamed) + " ranks more");
  }
  return joined(odd, "; ");
}

}  // namespace

// One number in the usual case that nobody failed. What all ranks say alike is the job's failure, not one rank's.
void World::agree(const std::function<void()>& body) {
  const std::string mine = failure_of(body);
  std::vector<std::string> all;
  lane().call("agree", [&] {
    std::int64_t failed = mine.empty() ? 0 : 1;
    all_reduce_max(comm(), "agree", {&failed, 1});
    if (failed) all = all_gather(comm(), "agree", mine);
  });
  if (all.empty()) return;
  std::size_t reporter = 0, num_alike = 0;
  while (all[reporter].empty()) ++reporter;
  for (const std::string& other : all) num_alike += other == all[reporter];
  const json failure = json::parse(all[reporter]);
  const std::string who = num_alike == all.size() ? "" : comm().name_of(static_cast<int>(reporter)) + ": ";
  throw AgreedError(static_cast<Exit>(failure["code"].get<int>()), who + failure["message"].get<std::string>(),
                    failure["hint"].get<std::string>(), static_cast<int>(reporter));
}

void World::require_same(const std::vector<std::string>& facts) {
  std::vector<Facts> rank2facts;
  lane().call("handshake", [&] {
    for (const std::string& text :
         all_gather(comm(), "handshake", json(facts).dump(-1, ' ', false, json::error_handler_t::replace)))
      rank2facts.push_back(json::parse(text).get<Facts>());
  });
  const std::string odd = odd_ranks(comm(), rank2facts);
  if (!odd.empty()) throw AgreedError(Exit::kUsage, odd, "start every rank with the same version and options", 0);
}

}  // namespace moe
