// What a checkpoint of a run holds: tensors (weights, masters, moments, router biases) and counters. Save and load visit
// the same list, so that nothing is saved and not loaded.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

#include "lib/io/checkpoint.h"
#include "lib/io/manifest.h"
#include "lib/io/tokens.h"
#include "lib/run/trainer.h"

namespace moe {

// Slices of everything that this rank holds of `model`: its shards, cut into boxes of the logical tensors; a tensor of which
// it holds nothing is a slice of extent 0. Without training state only weights and router biases. Router biases are on every
// rank: all load them, one rank saves them (owns_replicated); so are copies of experts (ParamLayout), which are saved by the
// rank that speaks for them. What a load fills are the shards; weights that are also held
// whole (zero 1 and 2) are gathered by the caller.
std::vector<TensorSlice> state_slices(Model& model, bool with_optimizer, bool owns_replicated = true);

// Weights and router biases alone, whatever their dtype in the checkpoint: masters where it has them, else weights; masters
// and weights of the model are set from them (a model that is not trained has weights alone). Router biases that the
// checkpoint does not have stay as they are.
// kEma: the moving average instead; Error(kBadInput) if there is none. `drops_modules`: the checkpoint may have modules of
// multi-token prediction that the model does not.
enum class WeightsFrom { kWeights, kEma };
void load_weights(Model& model, const CheckpointInfo& info, WeightsFrom from_role = WeightsFrom::kWeights,
                  bool drops_modules = false);

// state_slices() as a checkpoint of these tensors can fill them: it may keep the moments in another dtype, and may lack the
// moving average or have one that is not kept here. finish(), after the slices are filled: moments in the model's dtype
// (rounded once, or exact); an average that was not there begins at the masters.
class LoadedState {
 public:
  LoadedState(Model& model, const std::vector<ManifestTensor>& tensors);
  const std::vector<TensorSlice>& slices() const { return slices_; }
  const std::vector<std::string>& ignored() const { return ignored_; }  // roles
  const std::vector<std::string>& notes() const { return notes_; }      // what differs, in words
  void finish();

 private:
  struct Converted {
    std::vector<std::byte> read;
    std::int64_t count;
    void* target;
  };
  void read_moments_as(DType saved);

  Model& model_;
  std::vector<TensorSlice> slices_;
  std::vector<Converted> converted_;
  std::vector<std::string> ignored_, notes_;
  bool starts_ema_ = false;
};

struct RunCounters {
  std::int64_t step = 0, updates = 0, consumed_samples = 0;
  std::int64_t skipped = 0;  // updates skipped because something was not finite
  double seconds = 0;        // wall time of training so far
  double first_loss = 0, last_loss = 0;
  // --replan-every: slots routed to each expert of each MoE layer since the last look; empty without.
  std::vector<std::vector<std::int64_t>> counts_since_look_LE{};
};

// The manifest's `state`: options that make the model and its training, counters, data, tokenizer.
nlohmann::json make_state(const Options& options, const RunCounters& counters, const TokenFileInfo& data);
RunCounters counters_of(const nlohmann::json& state);  // Error(kBadInput) naming a missing key
// Options of the checkpoint with Origin::kCheckpoint: whatever the user said wins, and is told by resume_differences.
void apply_checkpoint_options(Options& options, const nlohmann::json& state);

// How a run is spread over ranks, for the manifest's state: {replicate, shard, ep, zero, nodes, dispatch} and
// the plan that it follows, if any; and as a text,
// also of a state that does not say.
nlohmann::json layout_json(const MeshContext& mesh);
std::string layout_text(const nlohmann::json& layout);
// The mesh of a state, if it says one of 1 to 2^30 ranks.
std::optional<MeshShape> mesh_of_state(const nlohmann::json& state);
// The same of the options that make the model (and dtype), and no others: for a run that starts from weights.
void apply_model_options(Options& options, const nlohmann::json& state);

// "lr: checkpoint 3e-3, now 1e-3" for every option that differs. Options that make the model or its data order may not
// differ: throws Error(kUsage) naming all of them, but for those in `allowed`, which may hold batch, batch-ramp, seq, seed
// and document-mask alone (else Error(kUsage)).
std::vector<std::string> resume_differences(const Options& options, const nlohmann::json& state,
                                            const std::vector<std::string>& allowed = {});

// Tokenizer that a checkpoint was trained with: as it keeps it ("unknown" where it does not say), and made of that (nullptr
// for "unknown").
struct TokenizerText {
  std::string name = "unknown", model;
};
TokenizerText tokenizer_text_of(const nlohmann::json& state);
std::unique_ptr<Tokenizer> tokenizer_of(const nlohmann::json& state);

}  // namespace moe
