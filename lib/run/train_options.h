// Every option of moe-train: the model, the balance of its experts, data, schedule, optimizer, output.
#pragma once

#include <optional>

#include "lib/base/common_options.h"
#include "lib/io/checkpoint.h"
#include "lib/model/config.h"
#include "lib/model/slot.h"
#include "lib/place/solve.h"
#include "lib/run/batch_ramp.h"
#include "lib/run/lr_phases.h"
#include "lib/run/mesh_options.h"
#include "lib/run/step_range.h"

namespace moe {

enum class Schedule { kCosine, kWsd, kConstant, kPhases };  // wsd: warm-up, stable, linear decay
enum class NonFinite { kSkip, kRollback, kStop };
enum class SaveMode { kAsync, kSync };
enum class Optimizer { kAdamW, kMuon };  // muon: AdamW for all but the matrices of blocks

struct TrainOptions {
  CommonOptions common;
  std::string preset = "tiny";
  bool list_presets = false;
  ModelConfig model;
  BalanceOptions balance;
  RankOptions ranks;
  std::int64_t replan_every = 0;  // steps between looks whether experts should move; 0: never
  Objective objective = Objective::kBalance;
  int replicas = 0;  // copies of experts beyond one each, of a layer, that such a plan may make

  std::string data, eval_data;
  int epochs = 0;  // 0: as many as the steps need
  bool document_mask = false;
  bool allow_data_change = false;

  std::int64_t steps = 0;
  double time_limit = 0;            // seconds of wall time; the schedule runs over it
  int batch = 16, micro_batch = 0;  // sequences; of one rank at a time, 0: its whole share of the batch
  BatchRamp batch_ramp;
  int seq = 128;
  Schedule schedule = Schedule::kCosine;
  LrPhases lr_phases;               // of kPhases
  float lr = 3e-3f, min_lr = 0.1f;  // min_lr as a fraction of lr
  int warmup = 100;
  float decay_fraction = 0.2f;
  float weight_decay = 0.1f, beta1 = 0.9f, beta2 = 0.95f, adam_eps = 1e-8f;
  float grad_clip = 1;
  ValueSchedule mtp_weight = 0.3f;  // of the modules of multi-token prediction, all together
  DType dtype = DType::kF32;
  Optimizer optimizer = Optimizer::kAdamW;
  DType moments = DType::kF32;
  double ema = 0;  // decay of the moving average of parameters; 0: none
  Recompute recompute = Recompute::kNone;
  NonFinite nonfinite = NonFinite::kSkip;
  int nonfinite_limit = 3;  // so many in a row stop the run

  std::string output;
  std::string resume = "auto";
  std::optional<CheckpointInfo> resume_from;  // found by finish_train_options: manifest and sizes are right
  std::string resume_dir;                     // the run directory that it was chosen from; "" if it was named itself
  std::vector<std::string> allow_change;      // options that may differ from the checkpoint's
  SaveMode save = SaveMode::kAsync;
  std::string save_every = "0";  // steps (0: at the end only) or auto
  double mtbf = 24;              // hours between failures, for auto
  std::string save_fail = "warn:3";
  std::string init_from;                       // weights alone of a checkpoint, unless one is resumed
  std::optional<CheckpointInfo> weights_from;  // found by finish_train_options
  int keep_last = 2;
  std::int64_t keep_every = 0;
  std::int64_t eval_every = 0;       // 0: at the end only
  std::int64_t eval_tokens = 65536;  // of an evaluation during the run; the last one takes all
  std::int64_t log_every = 0;        // 0: about every two seconds
  std::string router_trace;
  std::int64_t router_trace_steps = 8;
  std::string trace;
  StepRange trace_steps = {3, 5};
  std::string sample;
  int sample_tokens = 400;
  float temperature = 0.8f;
};

Options train_options(TrainOptions& train);
TrainingState training_state(const TrainOptions& train);

// After all that the user said is read: finds the checkpoint to resume and applies its options and the preset's (both
// weaker than anything the user said), then checks ranges. Called by Options::parse. Throws Error(kUsage), and 66 or 65
// for a checkpoint that is missing or broken.
void finish_train_options(Options& options, TrainOptions& train);

}  // namespace moe
