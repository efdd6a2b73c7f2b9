// One half of a micro-batch, or all of it, with its own memory: while one track's rows are on their way the other computes.
// Not here: the order of things (pass.cpp).
#pragma once

#include <vector>

#include "lib/model/model.h"

namespace moe {

struct Track {
  // Memory, with room for `room` tokens.
  BatchShape room;
  std::vector<BlockSlot> slot_rooms;
  BlockStash stash_room;
  BlockWork work_room;
  Mat x_room, n_room, dn_room, dx_room, logits_room;  // the head's input, the normed input, their gradients
  std::span<float> rstd_T, loss_T;
  std::vector<Route> routes;  // one per slot that is not shared

  // The micro-batch that is in it now.
  MicroBatch batch;
  std::vector<BlockSlot> slots;
  BlockStash stash;
  BlockWork work;
  Mat x_TD, n_TD, dn_TD, dx_TD, logits_TV;
  CommLane::Ticket on_its_way = 0;  // its latest exchange
  bool is_sent = false;             // backward: the gradients of the next block's rows are on their way already

  // The next block's input, or the head's.
  Mat block_output(int layer) const {
    const auto next = static_cast<std::size_t>(layer) + 1;
    return next < slots.size() ? slots[next].x0_TD : x_TD;
  }
};

// Room of the tracks of a pass, whose rows are `max_rows` at most in each.
std::unique_ptr<Track> take_track(Arena& arena, const SlotRoom& room, const PassOptions& options);
// Views of the memory for this micro-batch.
void put_into(Track& track, const MicroBatch& batch);

// Sequences of each track: the first takes the odd one.
BatchShape track_shape(const BatchShape& shape, int num_tracks, int track);

}  // namespace moe
