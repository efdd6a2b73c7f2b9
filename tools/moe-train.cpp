// moe-train: trains a Mixture-of-Experts language model.
#include "lib/run/train.h"
#include "tools/tool_main.h"

int main(int argc, char** argv) {
  moe::TrainOptions train;
  moe::Options options = moe::train_options(train);
  return moe::tool_main(argc, argv, options, train.common, [&](const moe::Invocation& invocation) {
    moe::World world;
    return moe::train(train, invocation, world);
  });
}
