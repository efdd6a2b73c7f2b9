// Traces of router decisions (kind moe-router-trace, man/moe-files.5): the experts of every token of some steps, in the
// order of the global batch, independent of the mesh. Written by moe-train --router-trace; read by moe-bench dispatch
// --replay and by moe-place for exact counts. Not here: counts over a whole run (routing_stats.h).
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "lib/io/routing_stats.h"

namespace moe {

// The decisions of a step are written to a temporary file beside `path` as they come, so memory holds one step; finish()
// makes the trace of them. `force` allows an existing file.
class RouterTraceWriter {
 public:
  // seq: tokens of a sequence, which stay together on one rank. Keeps the last most_steps steps (0: all), in no more room on
  // the disk than these need, twice while finish() runs.
  RouterTraceWriter(const std::string& path, const RoutingShape& shape, std::int64_t tokens_per_step,
                    std::int64_t most_steps, bool force, std::int64_t seq = 1);
  ~RouterTraceWriter();  // without finish(): nothing is left
  RouterTraceWriter(const RouterTraceWriter&) = delete;
  RouterTraceWriter& operator=(const RouterTraceWriter&) = delete;
  // idx_LTK: logical experts, -1: dropped. Steps ascend.
  void add_step(std::int64_t step, std::span<const std::int16_t> idx_LTK);
  std::int64_t num_steps() const;  // that are kept
  // Publishes; at least one step. Returns the digest.
  std::string finish(const nlohmann::json& provenance);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct RouterTrace {
  RoutingShape shape;
  std::int64_t tokens_per_step = 0, seq = 1;  // seq: tokens of a sequence
  std::vector<std::int64_t> step_S;           // at least one, ascending
  std::vector<std::int16_t> idx_SLTK;         // -1: dropped
  std::string digest;

  std::span<const std::int16_t> of(std::size_t step, std::size_t layer) const;  // [tokens, top_k]
};
RouterTrace read_router_trace(const std::string& path);  // Error 66, 65: every id in range, no expert twice for a token

}  // namespace moe
