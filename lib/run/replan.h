// moe-train --replan-every: where experts should live by the routing of the last steps, and the move of a running model
// there. Collective. Not here: the solver (lib/place/solve.h), the bytes on their way (lib/parallel/migrate.h).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "lib/place/loads.h"
#include "lib/run/train_options.h"
#include "lib/run/trainer.h"

namespace moe {

// A model and the mesh that it is spread over.
struct MeshModel {
  std::unique_ptr<MeshContext> mesh;
  std::unique_ptr<Model> model;

  MeshModel() = default;
  MeshModel(MeshModel&&) = default;
  MeshModel& operator=(MeshModel&& other) {
    model.reset();  // before the mesh that it is on
    mesh = std::move(other.mesh);
    model = std::move(other.model);
    return *this;
  }
};
MeshModel make_mesh_model(World& world, const MeshOptions& mesh, const TrainOptions& options, Env env);

// The same model under another plan: parameters, masters, moments and router biases, proved by a fingerprint of all of them.
// If anything fails on any rank it throws on all, and `from` is as it was. Takes the memory of a second model meanwhile.
MeshModel migrated(const MeshModel& from, const Placement& plan, const TrainOptions& options, Env env);

// Loads of the steps since the last look, and the plan that they ask for.
class Replanner {
 public:
  using Counts = std::vector<std::vector<std::int64_t>>;
  // counts_LE: kept in the run's counters, so that a resumed run decides as one that never stopped.
  Replanner(const TrainOptions& options, Counts& counts_LE) : o_(options), counts_LE_(counts_LE) {}

  bool enabled() const { return o_.replan_every > 0; }
  void add_step(const StepResult& step);
  bool due(std::int64_t step) const { return enabled() && step % o_.replan_every == 0; }

  struct Decision {
    Placement plan;
    double before = 1, after = 1;            // mean over layers of max / mean rows of a rank, by the loads of these steps
    double rows_before = 0, rows_after = 0;  // that cross nodes, per token; with --objective traffic
    int num_moves = 0;                       // copies of experts that a rank gets
  };
  // The same on every rank; nothing if the present placement is as good within kLeastGain. Begins a new count.
  // coactivation_LEE: of the same steps, all ranks.
  std::optional<Decision> decide(const MeshContext& mesh, const std::vector<int>& moe_layers,
                                 const std::vector<std::int64_t>& coactivation_LEE);

  static constexpr double kLeastGain = 0.01;

 private:
  Loads take_loads(const std::vector<int>& moe_layers, const std::vector<std::int64_t>& coactivation_LEE);

  const TrainOptions& o_;
  Counts& counts_LE_;
};
// "moved 12 copies of experts: max/mean rows of a rank 1.71 -> 1.04"
std::string decision_text(const Replanner::Decision& decision);

}  // namespace moe
