// moe-bench: measures kernels and training steps.
#include "lib/run/bench.h"
#include "tools/tool_main.h"

int main(int argc, char** argv) {
  moe::BenchOptions bench;
  moe::Options options = moe::bench_options(bench);
  return moe::tool_main(argc, argv, options, bench.common,
                        [&](const moe::Invocation& invocation) { return moe::bench(bench, invocation); });
}
