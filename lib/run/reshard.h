// moe-reshard: one options list, and which command gets what. Not here: what the commands do.
#pragma once

#include "lib/run/hf_checkpoint.h"
#include "lib/run/inspect.h"
#include "lib/run/reshard_layout.h"

namespace moe {

struct ReshardOptions {
  CommonOptions common;
  std::vector<std::string> arguments;  // IN, or a command and its paths
  std::string memory = "1G";           // 512M, 2G
  LayoutOptions layout;
  HfOptions hf;
  VerifyOptions verify;
};

Options reshard_options(ReshardOptions& reshard);
Exit run_reshard(ReshardOptions& reshard, const Invocation& invocation, World& world);

}  // namespace moe
