// moe-reshard: checkpoints in any layout, what they hold and whether they are whole, and those of Hugging Face.
#include "lib/run/reshard.h"
#include "tools/tool_main.h"

int main(int argc, char** argv) {
  moe::ReshardOptions reshard;
  moe::Options options = moe::reshard_options(reshard);
  return moe::parallel_tool_main(
      argc, argv, options, reshard.common, [] { return 0; },
      [&](const moe::Invocation& invocation, moe::World& world) { return moe::run_reshard(reshard, invocation, world); });
}
