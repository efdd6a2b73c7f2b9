// moe-bench: measures kernels, training steps, the exchange of rows and collectives; on one process or the ranks of a job.
#include "lib/run/bench.h"
#include "tools/tool_main.h"

int main(int argc, char** argv) {
  moe::BenchOptions bench;
  moe::Options options = moe::bench_options(bench);
  return moe::parallel_tool_main(
      argc, argv, options, bench.common, [&] { return bench.ranks.ranks_per_node; },
      [&](const moe::Invocation& invocation, moe::World& world) { return moe::bench(bench, invocation, world); });
}
