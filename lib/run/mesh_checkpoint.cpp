#include "lib/run/mesh_checkpoint.h"

#include "lib/comm/collectives.h"

namespace moe {
namespace {

std::vector<std::string> gather_texts(World& world, const std::string& mine) {
  std::vector<std::string> all;
  world.lane().call("checkpoint", [&] { all = all_gather(world.comm(), "checkpoint", mine); });
  return all;
}

}  // namespace

SavedCheckpoint save_on_mesh(Model& model, const std::string& run_dir, std::int64_t step, const nlohmann::json& state,
                             const nlohmann::json& provenance, const KeepPolicy& keep, bool force) {
  MeshContext& mesh = model.mesh();
  World& world = mesh.world();
  const bool is_first = world.rank() == 0, writes = mesh.place().replicate == 0;
  const int num_parts = mesh.layout().dense.count, part = mesh.layout().dense.index;
  const std::vector<TensorSlice> slices = state_slices(model, true, part == 0);
  if (world.alone()) return save_checkpoint(run_dir, step, state, provenance, slices, keep, force);

  std::string text;
  world.agree([&] {
    if (is_first) text = begin_checkpoint(run_dir, step, num_parts, total_bytes(slices)).text();
  });
  const CheckpointDraft draft = CheckpointDraft::parse(gather_texts(world, text)[0]);
  std::string report;
  try {
    world.agree([&] {
      if (writes) report = write_part(draft, part, slices);
    });
  } catch (...) {
    if (is_first) abandon_checkpoint(draft);
    throw;
  }
  std::vector<std::string> reports = gather_texts(world, report);
  reports.resize(static_cast<std::size_t>(num_parts));  // the first replica is the first ranks
  SavedCheckpoint saved;
  world.agree([&] {
    if (is_first) saved = publish_checkpoint(draft, reports, state, provenance, keep, force);
  });
  saved.path = gather_texts(world, saved.path)[0];
  return saved;
}

void load_on_mesh(Model& model, const CheckpointInfo& info) {
  model.mesh().world().agree([&] { load_checkpoint(info, state_slices(model, true)); });
  model.units().weights_changed();
}

void load_weights_on_mesh(Model& model, const CheckpointInfo& info) {
  model.mesh().world().agree([&] { load_weights(model, info); });
  model.units().weights_changed();
}

}  // namespace moe
