#include "lib/model/track.h"

namespace moe {

std::unique_ptr<Track> take_track(const SlotArenas& arenas, const SlotRoom& room, const PassOptions& o) {
  Arena& arena = arenas.tokens;
  const std::int64_t T = room.shape.num_tokens(), D = room.config.d_model;
  auto t = std::make_unique<Track>();
  t->room = room.shape;
  t->slot_rooms = take_slots(arenas, room, o.recompute, o.training);
  t->work_room = take_work(arenas, room);
  t->x_room = arena.matrix(room.dtype, T, D);
  t->n_room = arena.matrix(room.dtype, T, D);
  t->logits_room = arena.matrix(DType::kF32, o.cache ? o.max_logits : T, room.config.vocab_size);
  t->rstd_T = arena.vector<float>(T);
  t->loss_T = arena.vector<float>(T);
  t->routes.resize(t->slot_rooms.size());
  t->greedy_room = arena.vector<std::int32_t>(T);
  if (arena.device().kind != DeviceKind::kCpu) {
    for (auto* tokens : {&t->id_room, &t->target_room, &t->doc_start_room}) *tokens = arena.vector<std::int32_t>(T);
    for (int k = 0; k < room.num_modules; ++k) t->mtp_target_rooms.push_back(arena.vector<std::int32_t>(T));
  }
  const MtpRoom mtp{room.config, T, room.dtype, o.training};
  for (int k = 0; k < room.num_modules; ++k) t->mtp_rooms.push_back(take_mtp_slot(arena, mtp));
  if (room.num_modules > 0) t->mtp_work_room = take_mtp_work(arena, mtp);
  if (!o.training) return t;
  t->stash_room = take_stash(arenas, room);
  t->dn_room = arena.matrix(room.dtype, T, D);
  t->dx_room = arena.matrix(room.dtype, T, D);
  return t;
}

namespace {

std::span<const std::int32_t> upload(Stream& stream, std::span<const std::int32_t> from, std::span<std::int32_t> room) {
  stream.copy(room.data(), from.data(), from.size_bytes());
  return room.first(from.size());
}

void upload_tokens(Track& t, Stream& stream) {
  t.batch.id_T = upload(stream, t.batch.id_T, t.id_room);
  t.batch.target_T = upload(stream, t.batch.target_T, t.target_room);
  if (t.batch.doc_start_T)
    t.batch.doc_start_T = upload(stream, {t.batch.doc_start_T, t.batch.id_T.size()}, t.doc_start_room).data();
  for (std::size_t k = 0; k < t.mtp_tokens.size(); ++k) upload(stream, t.mtp_tokens[k].target_T, t.mtp_target_rooms[k]);
}

}  // namespace

void put_into(Track& t, const MicroBatch& batch, Stream& stream) {
  const std::int64_t room = t.room.num_tokens(), T = batch.shape.num_tokens();
  t.batch = batch;
  t.slots.clear();
  for (std::size_t i = 0; i < t.slot_rooms.size(); ++i) {
    t.slots.push_back(fitted(t.slot_rooms[i], room, T));
    t.slots.back().plan.route = &t.routes[i];
  }
  t.stash = fitted(t.stash_room, room, T);
  t.work = fitted(t.work_room, room, T);
  const auto rows = [T](Mat m) { return m.slice_rows(0, m.data ? T : 0); };
  t.x_TD = rows(t.x_room), t.n_TD = rows(t.n_room), t.logits_TV = batch.cache ? t.logits_room : rows(t.logits_room);
  t.dn_TD = rows(t.dn_room), t.dx_TD = rows(t.dx_room);
  t.mtp.clear(), t.mtp_tokens.clear();
  for (std::size_t k = 0; k < t.mtp_rooms.size(); ++k) {
    t.mtp.push_back(fitted(t.mtp_rooms[k], T));
    t.mtp_tokens.push_back(mtp_tokens(batch, static_cast<int>(k)));
  }
  t.mtp_work = fitted(t.mtp_work_room, T);
  if (!stream.is_cpu()) upload_tokens(t, stream);
}

BatchShape track_shape(const BatchShape& shape, int num_tracks, int track) {
  const int first = (shape.num_seqs + num_tracks - 1) / num_tracks;
  return {track == 0 ? first : shape.num_seqs - first, shape.seq_len};
}

}  // namespace moe
