// The state of a model where the host can touch it: initial values, files and plans are the host's work. Of a model on the
// CPU it is the model itself; of one on another device a copy without mesh() and units(), and what is changed there counts
// once it is pushed; but for the moving average, which is in memory of the host and the model's own. Pages of the copy that
// nobody touches cost nothing. Not here: saving, which copies what it writes anyway (lib/run/mesh_save.h).
#pragma once

#include <memory>

#include "lib/model/model.h"

namespace moe {

class HostModel {
 public:
  explicit HostModel(Model& model);
  Model& model() { return copy_ ? *copy_ : original_; }
  void pull();             // shards of weights, masters and moments, and router biases: from the device ...
  void push();             // ... and to it. Nothing may be on its way on the lane.
  void push_parameters();  // weights and masters alone

 private:
  template <class Move>
  void move(Move move);
  template <class Move>
  void move_parameters(Move move);

  Model& original_;
  std::unique_ptr<Model> copy_;
};

}  // namespace moe
