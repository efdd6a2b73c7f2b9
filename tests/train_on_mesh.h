// Training on a mesh of thread ranks as the tool does it (MeshContext, Model, Trainer, evaluate), and everything it tells:
// steps, parameters put together from the shards of each replica, router bias, evaluation. Not here: judgements.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "lib/comm/thread_comm.h"
#include "lib/io/files.h"
#include "lib/io/token_writer.h"
#include "lib/run/evaluate.h"
#include "lib/run/trainer.h"

namespace moe {

struct MeshSetting {
  MeshOptions mesh;
  std::vector<int> rank2node{};  // empty: one node
};

inline std::string setting_text(const MeshSetting& s) {
  const char* const kNames[] = {"auto", "flat", "two-level"};
  std::string text = mesh_text(s.mesh.shape) + ", zero " + std::to_string(s.mesh.zero) + ", dispatch " +
                     kNames[static_cast<int>(s.mesh.dispatch)] + ", overlap " + (s.mesh.overlap ? "on" : "off");
  if (!s.rank2node.empty()) text += ", nodes";
  for (const int node : s.rank2node) text += " " + std::to_string(node);
  return text;
}

struct TrainedModel {
  using Tensors = std::map<std::string, std::vector<float>>;
  std::vector<StepResult> steps;                 // of rank 0
  std::vector<std::vector<double>> rank2losses;  // and gradient norms: what every rank says
  std::vector<Tensors> replica2params;           // masters at the end
  std::vector<std::vector<float>> rank2bias;     // of all layers, side by side
  std::vector<std::int64_t> coactivation;        // as rank 0 takes it
  Evaluation evaluation;                         // after the last step, over all of the data
};

// One rank of a run: what a test may do to it between steps.
struct MeshRank {
  World& world;
  const TrainOptions& options;
  const TokenSource& data;
  Stream stream{1};
  Env env{stream, cpu_kernels()};
  MeshContext mesh;
  Model model;
  Trainer trainer;

  MeshRank(World& w, const TrainOptions& o, const TokenSource& d, const MeshOptions& m)
      : world(w),
        options(o),
        data(d),
        mesh(w, m, o.model.num_experts, cpu_kernels()),
        model(o.model, o.dtype, true, mesh, training_state(o)),
        trainer(o, model, data, env) {
    mesh.check_node_limit(o.model);
    model.initialize(o.common.seed);
    model.params().start_ema(stream);
  }
  Evaluation evaluate_all(int num_seqs) {
    Pass pass(model, {.shape = {num_seqs, options.seq}, .training = false, .num_modules = 1}, env);
    return evaluate(pass, world, data, options.document_mask, 0);
  }
  std::vector<float> bias() {
    std::vector<float> all;
    for (const int i : model.moe_layers()) all.insert(all.end(), model.router_bias(i).begin(), model.router_bias(i).end());
    return all;
  }
  // Writes the masters of this rank's shards into whole tensors.
  void put_params(TrainedModel::Tensors& whole) {
    for (const Param& p : model.params().all()) {
      std::vector<float>& to = whole[p.spec.name];
      to.resize(static_cast<std::size_t>(p.spec.num_elements()), std::nanf(""));
      for (const ShardRun& run : model.params().runs(p)) std::copy_n(p.master + run.at, run.count, to.begin() + run.global);
    }
  }
};

// Runs body on every rank, each on its own thread with its own world; one rank alone is one process.
inline void on_mesh(const std::string& data_path, const TrainOptions& options, const MeshSetting& setting,
                    const std::function<void(MeshRank&)>& body) {
  const auto run = [&](World& world) {
    omp_set_num_threads(1);
    const TokenSource data = TokenSource::open(data_path);
    MeshRank rank(world, options, data, setting.mesh);
    body(rank);
  };
  const int n = setting.mesh.shape.size();
  if (n == 1) {
    World world;
    return run(world);
  }
  const std::vector<int> one_node(static_cast<std::size_t>(n), 0);
  run_thread_ranks(n, [&](std::unique_ptr<Comm> comm) {
    World world(std::move(comm), setting.rank2node.empty() ? one_node : setting.rank2node);
    run(world);
  });
}

inline TrainedModel train_on_mesh(const std::string& data_path, const TrainOptions& options, const MeshSetting& setting) {
  TrainedModel out;
  out.rank2losses.resize(static_cast<std::size_t>(setting.mesh.shape.size()));
  out.rank2bias.resize(out.rank2losses.size());
  out.replica2params.resize(static_cast<std::size_t>(setting.mesh.shape.replicate));
  std::mutex mutex;
  on_mesh(data_path, options, setting, [&](MeshRank& rank) {
    const auto r = static_cast<std::size_t>(rank.world.rank());
    for (int s = 0; s < options.steps; ++s) {
      const StepResult step = rank.trainer.step(static_cast<double>(options.lr));
      out.rank2losses[r].insert(out.rank2losses[r].end(), {step.loss, step.grad_norm});
      if (r == 0) out.steps.push_back(step);
    }
    const std::vector<std::int64_t> pairs = rank.trainer.take_coactivation();
    const Evaluation evaluation = rank.evaluate_all(2);
    const std::scoped_lock lock(mutex);
    if (r == 0) out.coactivation = pairs, out.evaluation = evaluation;
    rank.put_params(out.replica2params[static_cast<std::size_t>(rank.mesh.place().replicate)]);
    out.rank2bias[r] = rank.bias();
  });
  return out;
}

// Documents of many lengths, shorter and longer than a sequence, in which the next token depends on the one before.
inline std::string make_training_data(const std::string& name, int vocab_size, int num_tokens) {
  const std::string path = ::testing::TempDir() + "/" + name + "_" + std::to_string(getpid()) + ".h5";
  TokenWriter writer(::testing::TempDir(), vocab_size, "unknown", "");
  std::uint64_t state = 88172645463325252u;
  const auto draw = [&](std::uint64_t n) {  // xorshift
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return static_cast<int>(state % n);
  };
  for (int left = num_tokens; left > 0;) {
    std::vector<std::int32_t> document(static_cast<std::size_t>(std::min(left, 1 + draw(23))));
    for (std::size_t i = 0; i < document.size(); ++i)
      document[i] =
          i > 0 && draw(3) > 0 ? (document[i - 1] * 5 + 3) % vocab_size : draw(static_cast<std::uint64_t>(vocab_size));
    writer.begin_document();
    writer.add(document, 0);
    left -= static_cast<int>(document.size());
  }
  PendingFile out(path, true);
  writer.write(out, 0, writer.num_tokens(), nlohmann::json::array());
  out.commit();
  return path;
}

}  // namespace moe
