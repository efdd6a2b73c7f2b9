// What the ranks of a benchmark agree on: times after a common start, the largest and the sum over ranks. Every rank makes
// the same calls. Not here: what is measured.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "lib/comm/world.h"

namespace moe {

// Seconds of `body` on this rank: a task of the lane, after a barrier of all ranks, to the end of what it put into `stream`,
// which is empty before.
double timed_on_lane(World& world, Stream& stream, const std::function<void()>& body);

void max_over_ranks(World& world, std::span<double> seconds);  // to a nanosecond
void sum_over_ranks(World& world, std::span<double> values);
void sum_over_ranks(World& world, std::span<std::int64_t> values);

// Repetitions that fill `budget` seconds, if one takes `seconds`: at least three.
int num_repetitions(double budget, double seconds);

// Lines for `out` from the first rank, nothing from others.
void print_lines(const World& world, std::FILE* out, const std::vector<std::string>& lines);

// "4 ranks on 2 nodes"
std::string ranks_text(const World& world);
nlohmann::json ranks_json(const World& world);

// "########----" of so many letters for value / most.
std::string bar_text(double value, double most, int length);

template <class... Args>
std::string format_text(const char* format, Args... args) {
  char buffer[300];
  std::snprintf(buffer, sizeof buffer, format, args...);
  return buffer;
}

}  // namespace moe
