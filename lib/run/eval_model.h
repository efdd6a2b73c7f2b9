// A checkpoint as moe-eval uses it: weights alone, on any mesh of the job, whatever mesh wrote it. Every rank makes the same
// calls. Not here: what is computed with it.
#pragma once

#include <memory>
#include <string>

#include "lib/base/common_options.h"
#include "lib/model/model.h"
#include "lib/run/generate.h"
#include "lib/run/mesh_options.h"
#include "lib/run/train_state.h"

namespace moe {

enum class EvalDType { kKeep, kF32, kBF16 };
enum class MaskChoice { kAuto, kOff, kOn };

struct EvalModelOptions {
  RankOptions ranks;
  int seq = 0;    // tokens of a window; 0: of the model's training sequences, 1024 where the checkpoint does not say
  int batch = 0;  // windows of a rank at a time; 0: chosen
  EvalDType dtype = EvalDType::kKeep;
  WeightsFrom weights = WeightsFrom::kWeights;
  MaskChoice document_mask = MaskChoice::kAuto;  // auto: as the model was trained
};
void add_eval_model_options(Options& options, EvalModelOptions& model);
void check_eval_model_options(const Options& options, const EvalModelOptions& model);  // Error(kUsage)

class EvalModel {
 public:
  // path: a checkpoint, or a run directory, whose latest is taken. Error 66, 65; 2 for a mesh or plan that does not fit. Of
  // the modules of multi-token prediction the first most_modules are loaded; the others take no memory.
  EvalModel(const std::string& path, const EvalModelOptions& options, World& world, Env env, int most_modules = 0);
  // Model, mesh and memory as they would be; nothing is loaded. For --dry-run.
  static std::string describe(const std::string& path, const EvalModelOptions& options, World& world, int most_modules);

  Model& model() { return *model_; }
  World& world() const { return world_; }
  const Env& env() const { return env_; }
  const CheckpointInfo& info() const { return info_; }
  const ModelConfig& config() const { return config_; }
  int seq() const { return seq_; }
  int batch() const { return batch_; }  // 0: not chosen
  bool document_mask() const { return document_mask_; }
  // For forward passes over so many windows of all ranks.
  PassOptions pass_options(std::int64_t num_windows, int seq_len) const;
  TextModel for_texts() { return {*model_, world_, env_, seq_, batch_}; }
  // The checkpoint's own. Error(kBadInput) if it does not say which (as one that was imported).
  std::unique_ptr<Tokenizer> tokenizer() const;
  // Error(kBadInput) if data of this vocabulary and tokenizer is not for this model, or holds less than two tokens.
  void check_data(const TokenFileInfo& data) const;
  nlohmann::json json() const;  // path, step, digest, mesh, dtype, seq, document_mask
  std::string text() const;     // path and step

 private:
  World& world_;
  Env env_;
  CheckpointInfo info_;
  ModelConfig config_;
  WeightsFrom weights_;
  int seq_, batch_;
  bool document_mask_;
  std::unique_ptr<MeshContext> mesh_;
  std::unique_ptr<Model> model_;
};

}  // namespace moe
