// The placement plan that a run follows: of a plan file (--plan), or of the checkpoint that it goes on from. Not here: the
// file (lib/io/plan_file.h), what a rank does with it (lib/model/mesh_context.h).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "lib/base/placement.h"
#include "lib/comm/mesh.h"
#include "lib/model/config.h"

namespace moe {

// Error(kBadInput) unless the plan is of this model: its MoE layers, its experts. `path` names it.
void need_plan_of_model(const Placement& plan, const std::string& path, const ModelConfig& model);
// The plan at `path`, which must be of this model: its MoE layers, its experts. Error 66; 65, also if it is another
// model's.
Placement plan_for_model(const std::string& path, const ModelConfig& model);
// Error(kBadInput) naming both numbers if the plan is not for as many ranks as the mesh has for experts.
void need_ranks_of_plan(const Placement& plan, const std::string& path, const MeshShape& mesh);

// "plan=DIGEST", for World::require_same(): ranks that follow different plans would mix experts up.
std::string plan_fact(const Placement& plan);

// For the `layout` of a checkpoint's state, and back. Nothing there: a placement without layers. Error(kBadInput) if it is
// none.
nlohmann::json plan_json(const Placement& plan);
Placement plan_of_layout(const nlohmann::json& layout);
Placement plan_of_state(const nlohmann::json& state);  // of its layout
// The plan of a model whose blocks from `num_blocks` on are dropped.
Placement plan_of_blocks(Placement plan, int num_blocks);
// "plan of 61 layers, 128 copies": how messages tell of it.
std::string plan_text(const Placement& plan);

}  // namespace moe
