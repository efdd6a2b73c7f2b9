// One half of a micro-batch, or all of it, with its own memory: while one track's rows are on their way the other computes.
// Not here: the order of things (pass.cpp).
#pragma once

#include <vector>

#include "lib/model/model.h"
#include "lib/model/mtp.h"

namespace moe {

struct Track {
  // Memory, with room for `room` tokens.
  BatchShape room;
  std::vector<BlockSlot> slot_rooms;
  BlockStash stash_room;
  BlockWork work_room;
  Mat x_room, n_room, dn_room, dx_room, logits_room;  // the head's input, the normed input, their gradients
  std::span<float> rstd_T, loss_T;
  std::span<std::int32_t> id_room, target_room, doc_start_room, greedy_room;  // the first three: not on the CPU
  std::vector<std::span<std::int32_t>> mtp_target_rooms;                      // by module; not on the CPU
  std::vector<Route> routes;                                                  // one per slot that is not shared
  std::vector<MtpSlot> mtp_rooms;
  MtpWork mtp_work_room;

  // The micro-batch that is in it now; its tokens are the device's.
  MicroBatch batch;
  std::vector<BlockSlot> slots;
  BlockStash stash;
  BlockWork work;
  Mat x_TD, n_TD, dn_TD, dx_TD, logits_TV;
  std::vector<MtpTokens> mtp_tokens;  // by module
  std::vector<MtpSlot> mtp;
  MtpWork mtp_work;
  std::vector<std::int32_t> greedy_T;  // without gradient: the first module's tokens where its targets count, else -1
  CommLane::Ticket on_its_way = 0;     // its latest exchange
  bool is_sent = false;                // backward: the gradients of the next block's rows are on their way already

  int num_main_blocks() const { return static_cast<int>(slots.size() - mtp.size()); }
  // The next block's input, or that of the norm in front of the head.
  Mat block_output(int layer) const {
    if (const int k = layer - num_main_blocks(); k >= 0) return mtp[static_cast<std::size_t>(k)].x_TD;
    return layer + 1 < num_main_blocks() ? slots[static_cast<std::size_t>(layer) + 1].x0_TD : x_TD;
  }
  // Targets of module k.
  std::span<const std::int32_t> mtp_target(int k) const {
    const auto i = static_cast<std::size_t>(k);
    return mtp_target_rooms.empty() ? std::span<const std::int32_t>(mtp_tokens[i].target_T)
                                    : mtp_target_rooms[i].first(mtp_tokens[i].target_T.size());
  }
  // h^k, what module k gets, and its gradient.
  Mat hidden(int k) const { return k == 0 ? n_TD : mtp[static_cast<std::size_t>(k) - 1].h_TD; }
  Mat dhidden(int k) const { return k == 0 ? dn_TD : mtp[static_cast<std::size_t>(k) - 1].dh_TD; }
};

// Room of the tracks of a pass, whose rows are `max_rows` at most in each.
std::unique_ptr<Track> take_track(const SlotArenas& arenas, const SlotRoom& room, const PassOptions& options);
// Views of the memory for this micro-batch, whose tokens are the host's and are copied where the device is another.
void put_into(Track& track, const MicroBatch& batch, Stream& stream);

// Sequences of each track: the first takes the odd one.
BatchShape track_shape(const BatchShape& shape, int num_tracks, int track);

}  // namespace moe
