#include "lib/parallel/units.h"

#include <algorithm>
#include <stdexcept>

#include "lib/parallel/unit_gradients.h"
#include "lib/parallel/unit_list.h"
#include "lib/parallel/unit_weights.h"

namespace moe {
namespace {

// Size of a group; throws unless it cuts as the layout says. Comm is asked on the lane.
int group_size(CommLane& lane, Comm* comm, const char* name, const Cut* cut) {
  Cut found;
  if (comm) lane.call("setup", [&] { found = {comm->rank(), comm->size()}; });
  if (cut && (cut->index != found.index || cut->count != found.count))
    throw std::logic_error("group of " + std::string(name) + " parameters: expected rank " + std::to_string(cut->index) +
                           " of " + std::to_string(cut->count) + " as in the layout, found " + std::to_string(found.index) +
                           " of " + std::to_string(found.count));
  return found.count;
}

int num_replicas_of(const ParamStore& store, const UnitComms& comms, CommLane& lane) {
  group_size(lane, comms.dense, "dense", &store.layout().dense);
  group_size(lane, comms.expert, "expert", &store.layout().expert);
  return group_size(lane, comms.replicate, "replicated", nullptr);
}

}  // namespace

struct Units::State {
  CommLane& lane;
  UnitList list;
  int num_replicas;
  Arena arena;
  UnitBuffers buffers;
  UnitWeights weights;
  UnitGradients gradients;

  State(ParamStore& store, const UnitComms& comms, CommLane& communication, bool training, Env env)
      : lane(communication),
        list(store),
        num_replicas(num_replicas_of(store, comms, lane)),
        arena(buffer_bytes(store, training, num_replicas), env.stream.device()),
        buffers(take_unit_buffers(arena, list, store, training, num_replicas)),
        weights(store, list, buffers, comms, lane, env.stream),
        gradients(store, list, buffers, comms, lane, num_replicas, env) {}

  void wait() { lane.wait(std::max(weights.last_ticket(), gradients.last_ticket())); }
};

Units::Units(ParamStore& store, const UnitComms& comms, CommLane& lane, bool training, Env lane_env)
    : state_(std::make_unique<State>(store, comms, lane, training, lane_env)) {}

// A failed lane runs nothing any more, so its buffers are free too.
Units::~Units() {
  try {
    state_->wait();
  } catch (...) {
  }
}

int Units::embedding() const { return state_->list.embedding; }
int Units::head() const { return state_->list.head; }
int Units::dense(int layer) const { return state_->list.dense.at(static_cast<std::size_t>(layer)); }
int Units::experts(int layer) const { return state_->list.experts.at(static_cast<std::size_t>(layer)); }

void Units::prefetch(int unit) { state_->weights.prefetch(unit); }
void Units::use(int unit) { state_->weights.use(unit); }
void Units::release(int unit) { state_->weights.release(unit); }
void Units::weights_changed() { state_->weights.changed(); }

void Units::begin_gradients(int unit) { state_->gradients.begin(unit); }
void Units::reduce_gradients(int unit, bool last) { state_->gradients.reduce(unit, last); }

// Waits for gathers too: nothing reads the shards when the optimizer changes them.
void Units::finish_gradients() {
  state_->gradients.check_all_reduced();
  state_->wait();
}

void Units::clear_gradients() {
  state_->wait();
  state_->lane.call("clear gradients", [this] { state_->gradients.clear(); });
}

std::size_t Units::buffer_bytes(const ParamStore& store, bool training, int num_replicas) {
  Arena measuring(0);
  take_unit_buffers(measuring, UnitList(store), store, training, num_replicas);
  return measuring.used_bytes();
}

}  // namespace moe
