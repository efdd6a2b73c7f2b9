// moe-eval: how good a model is, what it writes and how it routes; on one process or the ranks of a job.
#include "lib/run/eval.h"
#include "tools/tool_main.h"

int main(int argc, char** argv) {
  moe::EvalOptions eval;
  moe::Options options = moe::eval_options(eval);
  return moe::parallel_tool_main(
      argc, argv, options, eval.common, [&] { return eval.model.ranks.ranks_per_node; },
      [&](const moe::Invocation& invocation, moe::World& world) { return moe::run_eval(eval, invocation, world); });
}
