// moe-train: trains a Mixture-of-Experts language model, on one process or the ranks of a job.
#include "lib/run/train.h"
#include "tools/tool_main.h"

int main(int argc, char** argv) {
  moe::TrainOptions train;
  moe::Options options = moe::train_options(train);
  return moe::parallel_tool_main(
      argc, argv, options, train.common, [&] { return train.ranks.ranks_per_node; },
      [&](const moe::Invocation& invocation, moe::World& world) { return moe::train(train, invocation, world); });
}
