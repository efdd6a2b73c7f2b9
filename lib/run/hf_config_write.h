// What writing config.json shares between its parts. Not here: reading it (hf_config_reader.h).
#pragma once

#include "lib/run/hf_config.h"

namespace moe {

// The double that prints as the float does: 1e-6, not 9.999999974752427e-07.
double hf_number(float value);
// rope_theta, and rope_scaling where the embedding is stretched.
void write_hf_rope(const ModelConfig& m, nlohmann::json& config);
// False where implementations differ in what mscale and mscale_all_dim mean: those of latent attention multiply the scores
// of attention by them, others only cosines and sines.
bool hf_mscale_is_clear(const YarnOptions& y, bool is_mla);

}  // namespace moe
