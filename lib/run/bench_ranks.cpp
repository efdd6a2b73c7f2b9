#include "lib/run/bench_ranks.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"

namespace moe {

double timed_on_lane(World& world, Stream& stream, const std::function<void()>& body) {
  double seconds = 0;
  world.lane().call("bench", [&] {
    stream.synchronize();
    barrier(world.comm(), "bench start");
    const Stopwatch clock;
    body();
    stream.synchronize();
    seconds = clock.seconds();
  });
  return seconds;
}

void max_over_ranks(World& world, std::span<double> seconds) {
  std::vector<std::int64_t> ns;
  for (const double s : seconds) ns.push_back(std::llround(1e9 * s));
  world.lane().call("bench", [&] { all_reduce_max(world.comm(), "bench times", ns); });
  std::transform(ns.begin(), ns.end(), seconds.begin(), [](std::int64_t n) { return 1e-9 * static_cast<double>(n); });
}

void sum_over_ranks(World& world, std::span<double> values) {
  world.lane().call("bench", [&] { all_reduce_sum(world.comm(), "bench sums", values); });
}
void sum_over_ranks(World& world, std::span<std::int64_t> values) {
  world.lane().call("bench", [&] { all_reduce_sum(world.comm(), "bench sums", values); });
}

int num_repetitions(double budget, double seconds) {
  constexpr double kFewest = 3, kMost = 10000;
  return static_cast<int>(std::clamp(budget / std::max(seconds, 1e-9), kFewest, kMost));
}

void print_lines(const World& world, std::FILE* out, const std::vector<std::string>& lines) {
  if (world.rank() != 0) return;
  for (const std::string& line : lines) std::fprintf(out, "%s\n", line.c_str());
  std::fflush(out);
}

std::string ranks_text(const World& world) {
  const auto count = [](int n, const char* noun) { return std::to_string(n) + " " + noun + (n == 1 ? "" : "s"); };
  return count(world.size(), "rank") + " on " + count(world.num_nodes(), "node");
}

nlohmann::json ranks_json(const World& world) {
  return {{"ranks", world.size()}, {"nodes", world.num_nodes()}, {"rank2node", world.rank2node()}, {"hosts", world.hosts()}};
}

std::string bar_text(double value, double most, int length) {
  const int filled = most > 0 ? static_cast<int>(std::lround(length * value / most)) : 0;
  return std::string(static_cast<std::size_t>(filled), '#');
}

}  // namespace moe
