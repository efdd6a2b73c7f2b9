// Saving a model that is spread over ranks, while training goes on: every rank copies its part of the state into memory
// taken once, a thread of its own writes it into a file of its own, then a thread of rank 0 publishes. One save at a time.
// What is collective happens in begin(), advance() and wait(), which all ranks call at the same step boundaries; the
// threads never communicate. A failure of one rank is thrown on all, and what was there stays.
// Not here: when to save, and what a failure means (lib/run/save_policy.h).
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "lib/base/error.h"
#include "lib/base/stopwatch.h"
#include "lib/run/train_state.h"

namespace moe {

// What this rank writes of the state: its shards, of which each replica writes an even part by bytes; router biases, which
// are on every rank, are written by one rank each, in turn. Together the ranks hold each element once.
std::vector<TensorSlice> slices_to_write(Model& model);
// The share-th of num_shares parts of what the slices hold, in their order: parts differ by less than two rows. All of them
// name every tensor.
std::vector<TensorSlice> share_of_slices(const std::vector<TensorSlice>& slices, int share, int num_shares);

struct SaveRequest {
  std::int64_t step = 0;
  nlohmann::json state, provenance;
  KeepPolicy keep;
  bool force = false;
  std::function<void()> when_published{};  // on rank 0, in its thread
};

// The same on every rank.
struct FinishedSave {
  std::int64_t step = 0;
  std::string path, digest;
  double stall_seconds = 0;  // of rank 0: what training stood still for
  double total_seconds = 0;  // of rank 0: from begin() until it was published and known
};

class MeshSaver {
 public:
  // Async: takes the memory for the copy, and touches it.
  MeshSaver(Model& model, std::string run_dir, SaveMode mode);
  ~MeshSaver();  // a save that did not end is given up
  MeshSaver(const MeshSaver&) = delete;
  MeshSaver& operator=(const MeshSaver&) = delete;

  bool in_flight() const { return phase_ != Phase::kIdle; }
  std::int64_t step() const { return request_.step; }  // of the save in flight, or of the last one
  // True while this rank's thread works. Ranks agree on it by the totals of a step (StepNews).
  bool busy() const { return busy_; }

  // Collective. Async: returns when the copy is made. Sync: all is done but the last advance().
  void begin(SaveRequest request);
  // Collective, when no rank is busy: the next phase. The save, once it is published. Waits for this rank's thread.
  std::optional<FinishedSave> advance();
  // Collective: all phases that are left. Nothing if no save is in flight.
  std::optional<FinishedSave> wait();

 private:
  enum class Phase { kIdle, kWriting, kPublishing };
  void stage();
  void start(const char* name, std::function<void()> work);
  void join_and_agree();
  void start_publishing();
  FinishedSave finish();
  World& world() const { return model_.mesh().world(); }

  Model& model_;
  std::string run_dir_;
  SaveMode mode_;
  std::vector<TensorSlice> slices_;    // of the model
  std::vector<TensorSlice> to_write_;  // the same in staging_, or of the model where nothing is staged
  std::unique_ptr<std::byte[]> staging_;
  Phase phase_ = Phase::kIdle;
  SaveRequest request_;
  CheckpointDraft draft_;
  std::string report_;
  std::optional<Error> failure_;  // of this rank's thread
  SavedCheckpoint saved_;
  Stopwatch clock_;
  double stall_seconds_ = 0;
  std::atomic<bool> busy_{false};
  std::thread thread_;
};

// One save from beginning to end, for who does not train meanwhile. Collective.
FinishedSave save_on_mesh(Model& model, const std::string& run_dir, SaveRequest request);

}  // namespace moe
