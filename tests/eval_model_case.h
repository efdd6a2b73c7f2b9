// A small model with random weights as a checkpoint on the disk, for tests of moe-eval's library calls on any mesh. Not
// here: judgements.
#pragma once

#include "lib/run/eval_model.h"
#include "lib/run/hf_stream.h"
#include "tests/kernel_device.h"
#include "tests/train_on_mesh.h"

namespace moe {

inline ModelConfig eval_case_config() {
  ModelConfig c;
  c.vocab_size = 61, c.num_layers = 2, c.d_model = 24, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 8;
  c.num_experts = 6, c.top_k = 2, c.expert_ffn = 12;
  c.init_std = 0.4f;  // logits that differ: the likeliest token is no accident of rounding
  return c;
}

// Returns the run directory.
inline std::string save_eval_case(const std::string& name, const ModelConfig& config, DType dtype, std::uint64_t seed,
                                  int seq) {
  const std::string dir = ::testing::TempDir() + "/" + name + "_" + std::to_string(getpid());
  std::filesystem::remove_all(dir);
  Model model(config, dtype, true);
  model.initialize(seed);
  nlohmann::json options = model_options_json(config, dtype);
  options["seq"] = std::to_string(seq);
  save_checkpoint(dir, 3, {{"options", options}}, nlohmann::json::array(), state_slices(model, true), {}, true);
  return dir;
}

// body(model) on every rank of a job of `n` ranks, threads of this process.
inline void on_eval_ranks(int n, const std::string& path, const EvalModelOptions& options,
                          const std::function<void(EvalModel&)>& body, int most_modules = 0) {
  const auto run = [&](World& world) {
    omp_set_num_threads(1);
    Stream stream(kernel_device(), 1);
    EvalModel model(path, options, world, {stream, device_kernels()}, most_modules);
    body(model);
  };
  if (n == 1) {
    World world;
    return run(world);
  }
  run_thread_ranks(n, [&](std::unique_ptr<Comm> comm) {
    World world(std::move(comm), std::vector<int>(static_cast<std::size_t>(n), 0));
    run(world);
  });
}

// log softmax in double of the logits that a forward pass of one window gives, at each of its tokens: [tokens, V].
inline std::vector<std::vector<double>> log_probabilities(EvalModel& model, const std::vector<std::int32_t>& tokens) {
  Pass pass(model.model(), {.shape = {1, static_cast<int>(tokens.size())}, .training = false}, model.env());
  const std::vector<std::int32_t> target(tokens.size(), -1);
  pass.forward({.shape = pass.shape(), .id_T = tokens, .target_T = target, .with_gradient = false, .tally = false});
  std::vector<std::vector<double>> all;
  const CMat logits = pass.logits_on_host();
  for (std::int64_t t = 0; t < static_cast<std::int64_t>(tokens.size()); ++t) {
    const auto* row = static_cast<const float*>(logits.row(t));
    std::vector<double> p(row, row + logits.cols);
    double sum = 0;
    for (const double x : p) sum += std::exp(x - p[0]);
    const double log_sum = p[0] + std::log(sum);
    for (double& x : p) x -= log_sum;
    all.push_back(std::move(p));
  }
  return all;
}

}  // namespace moe
