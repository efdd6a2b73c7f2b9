// Routing statistics (run/routing.h5, man/moe-files.5): tokens per layer, expert and recorded step, and how often two
// experts were chosen together by one token. Input of moe-place.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

namespace moe {

struct RoutingShape {
  std::vector<int> layers;  // indices of the MoE layers, ascending
  int num_experts = 0;
  int top_k = 0;
};

// Appends rows and writes the file anew (temporary file, fsync, rename) at each save(); a resumed run first takes over the
// rows up to its step.
class RoutingRecorder {
 public:
  RoutingRecorder(std::string path, RoutingShape shape, nlohmann::json provenance);
  // Takes over rows with step <= last_step of an existing file, if there is one of the same shape (else 65).
  void resume(std::int64_t last_step);
  // counts_LE: routed slots per MoE layer and expert in this step (global batch). sum over e = tokens * top_k.
  void add_step(std::int64_t step, std::span<const std::int64_t> counts_LE);
  // coactivation_LEE += : how many tokens chose both experts a and b (symmetric, diagonal = count).
  void add_coactivation(std::span<const std::int64_t> coactivation_LEE);
  void save() const;

 private:
  std::string path_;
  RoutingShape shape_;
  nlohmann::json provenance_;
  std::vector<std::int64_t> steps_, counts_SLE_, coactivation_LEE_;
};

struct RoutingStats {
  RoutingShape shape;
  std::vector<std::int64_t> step_S, counts_SLE, coactivation_LEE;
};
RoutingStats read_routing_stats(const std::string& path);  // Error 66, 65

}  // namespace moe
