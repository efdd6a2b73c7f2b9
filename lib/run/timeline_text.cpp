#include "lib/run/timeline_text.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace moe {
namespace {

// With its quotation marks; what is not UTF-8 is replaced.
std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

// "pid":1,"tid":10
std::string ids(int rank, TraceRow row) {
  return "\"pid\":" + std::to_string(timeline_pid(rank)) + ",\"tid\":" + std::to_string(timeline_tid(rank, row));
}

std::string metadata(int rank, TraceRow row, const char* what, const std::string& argument) {
  return std::string("{\"ph\":\"M\",\"name\":\"") + what + "\"," + ids(rank, row) + ",\"args\":{" + argument + "}}";
}

// Microseconds with all digits of the nanoseconds.
std::string micros(std::int64_t ns) {
  char text[32];
  std::snprintf(text, sizeof text, "%lld.%03lld", static_cast<long long>(ns / 1000), static_cast<long long>(ns % 1000));
  return text;
}

std::string arguments(const TraceEvent& e) {
  std::string all;
  const auto add = [&all](const char* key, const std::string& value) {
    all += (all.empty() ? "\"" : ",\"") + std::string(key) + "\":" + value;
  };
  if (e.step >= 0) add("step", std::to_string(e.step));
  if (e.layer >= 0) add("layer", std::to_string(e.layer));
  if (e.of[0]) add("of", quoted(e.of));
  return all;
}

}  // namespace

std::string timeline_head(const nlohmann::json& about) {
  return "{\"displayTimeUnit\":\"ms\",\"otherData\":" + about.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) +
         ",\"traceEvents\":[\n";
}

std::string timeline_of_rank(int rank, const std::string& rank_name, const std::vector<TraceEvent>& events,
                             const std::function<std::int64_t(std::int64_t)>& to_ns) {
  std::string text = metadata(rank, TraceRow::kCompute, "process_name", "\"name\":" + quoted(rank_name)) + ",\n" +
                     metadata(rank, TraceRow::kCompute, "process_sort_index", "\"sort_index\":" + std::to_string(rank));
  for (std::size_t i = 0; i < kNumTraceRows; ++i) {
    const auto row = static_cast<TraceRow>(i);
    const bool is_there = std::any_of(events.begin(), events.end(), [row](const TraceEvent& e) { return e.row == row; });
    if (i >= kNumHostRows && !is_there) continue;
    text += ",\n" + metadata(rank, row, "thread_name", "\"name\":" + quoted(kTraceRowNames[i])) + ",\n" +
            metadata(rank, row, "thread_sort_index", "\"sort_index\":" + std::to_string(i));
  }
  for (const TraceEvent& e : events) {
    const std::int64_t begin = std::max<std::int64_t>(0, to_ns(e.begin_ns)), end = std::max(begin, to_ns(e.end_ns));
    text += ",\n{\"ph\":\"X\",\"name\":" + quoted(e.name) + ",\"cat\":\"" + kTraceRowNames[static_cast<int>(e.row)] + "\"," +
            ids(rank, e.row) + ",\"ts\":" + micros(begin) + ",\"dur\":" + micros(end - begin) + ",\"args\":{" +
            arguments(e) + "}}";
  }
  return text;
}

}  // namespace moe
