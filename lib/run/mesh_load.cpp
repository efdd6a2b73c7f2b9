#include "lib/run/mesh_load.h"

#include <algorithm>
#include <optional>

#include "lib/base/log.h"
#include "lib/comm/collectives.h"
#include "lib/io/files.h"
#include "lib/io/verify.h"
#include "lib/model/host_model.h"
#include "lib/run/world_text.h"

namespace moe {
namespace {

constexpr std::int64_t kManifestLimitBytes = std::int64_t{256} << 20;
// What a reader holds for others at a time; a slice that is larger is held alone.
constexpr std::int64_t kRoundBytes = std::int64_t{64} << 20;

using WantedByTensor = std::map<std::size_t, std::vector<Wanted>>;

std::int64_t bytes_of(const Manifest& m, std::size_t tensor, const Box& box) {
  return elements_of(box.extent) * static_cast<std::int64_t>(size_of(m.tensors[tensor].dtype));
}

// Rank, then per wish: tensor, offset, extent.
std::string wishes_text(const WantedByTensor& wanted) {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& [tensor, boxes] : wanted)
    for (const Wanted& w : boxes) list.push_back({tensor, w.box.offset, w.box.extent});
  return list.dump();
}

std::vector<TensorWish> parse_wishes(const std::string& text) {
  std::vector<TensorWish> wishes;
  for (const auto& wish : nlohmann::json::parse(text)) wishes.push_back({wish[0], {wish[1], wish[2]}});
  return wishes;
}

// The readers of one node, as each of them sees it: everyone knows what everyone reads, so nobody asks.
class NodeLoad {
 public:
  NodeLoad(World& world, Comm& comm, const Manifest& manifest, const std::string& path, WantedByTensor& wanted)
      : world_(world), comm_(comm), m_(manifest), shards_(manifest, path), wanted_(wanted) {
    std::vector<std::string> texts;
    world.lane().call("load", [&] { texts = all_gather(comm, "load", wishes_text(wanted)); });
    for (const std::string& text : texts) member2wishes_.push_back(parse_wishes(text));
    for (std::size_t m = 0; m < member2wishes_.size(); ++m)
      for (const TensorWish& wish : member2wishes_[m]) tensor2wishes_[wish.tensor].push_back({m, &wish.box});
    member2rounds_.resize(member2wishes_.size());
  }

  // After a failure a rank goes on sending, so that nobody waits for it; the failure is thrown in the end.
  void run() {
    for (const SharedRead& read : plan_reads(m_, member2wishes_)) {
      if (read.members.size() > 1)
        add_to_rounds(read);
      else if (read.reader == comm_.rank())
        alone_.push_back(read);
    }
    std::stable_sort(alone_.begin(), alone_.end(),
                     [&](const SharedRead& a, const SharedRead& b) { return slice_of(a).file < slice_of(b).file; });
    for (const SharedRead& read : alone_) attempt([&] { read_for_me(read); });
    std::size_t num_rounds = 0;
    for (const auto& rounds : member2rounds_) num_rounds = std::max(num_rounds, rounds.size());
    for (std::size_t i = 0; i < num_rounds; ++i) exchange_round(i);
    if (failure_) throw *failure_;
  }

 private:
  using Round = std::vector<SharedRead>;

  const ManifestSlice& slice_of(const SharedRead& r) const { return m_.tensors[r.tensor].slices[r.slice]; }

  template <class Action>
  void attempt(Action action) {
    if (failure_) return;
    try {
      action();
    } catch (const Error& e) {
      failure_ = e;
    }
  }

  void read_for_me(const SharedRead& read) {
    const ManifestSlice& s = slice_of(read);
    fill_from_slice(shards_.open(s.file), m_.tensors[read.tensor], s, sharing(wanted_[read.tensor], s.box),
                    shards_.path(s.file));
  }

  void add_to_rounds(const SharedRead& read) {
    auto& rounds = member2rounds_[static_cast<std::size_t>(read.reader)];
    const std::int64_t bytes = bytes_of(m_, read.tensor, slice_of(read).box);
    std::int64_t& last = last_round_bytes_[read.reader];
    if (rounds.empty() || last + bytes > kRoundBytes) rounds.emplace_back(), last = 0;
    rounds.back().push_back(read);
    last += bytes;
  }

  // visit(box of the slice that `member` wants) in an order that reader and member share.
  template <class Visit>
  void for_each_part(const SharedRead& read, int member, Visit visit) const {
    const Box& box = slice_of(read).box;
    for (const auto& [m, wish] : tensor2wishes_.at(read.tensor))
      if (static_cast<int>(m) == member && boxes_meet(*wish, box)) visit(intersection(*wish, box));
  }

  std::size_t part_bytes(const Round& round, int member) const {
    std::int64_t bytes = 0;
    for (const SharedRead& read : round)
      for_each_part(read, member, [&](const Box& part) { bytes += bytes_of(m_, read.tensor, part); });
    return static_cast<std::size_t>(bytes);
  }

  const Round* round_of(int member, std::size_t i) const {
    const auto& rounds = member2rounds_[static_cast<std::size_t>(member)];
    return i < rounds.size() ? &rounds[i] : nullptr;
  }

  // What I read in this round, for every member one after the other.
  std::vector<std::vector<std::byte>> read_round(const Round& round) {
    std::vector<std::vector<std::byte>> member2bytes(member2wishes_.size());
    for (int member = 0; member < comm_.size(); ++member)
      if (member != comm_.rank()) member2bytes[static_cast<std::size_t>(member)].reserve(part_bytes(round, member));
    for (const SharedRead& read : round) {
      const ManifestTensor& t = m_.tensors[read.tensor];
      const ManifestSlice& s = slice_of(read);
      std::vector<std::byte> elements(static_cast<std::size_t>(bytes_of(m_, read.tensor, s.box)));
      attempt([&] { read_slice(shards_.open(s.file), t, s, shards_.path(s.file), elements.data()); });
      for (const int member : read.members) {
        auto& to = member2bytes[static_cast<std::size_t>(member)];
        if (member != comm_.rank()) {
          for_each_part(read, member, [&](const Box& part) {
            const std::size_t at = to.size();
            to.resize(at + static_cast<std::size_t>(bytes_of(m_, read.tensor, part)));
            copy_common(elements.data(), s.box, to.data() + at, part, size_of(t.dtype));
          });
          continue;
        }
        for (Wanted* w : sharing(wanted_[read.tensor], s.box)) give(elements.data(), s.box, size_of(t.dtype), *w);
      }
    }
    return member2bytes;
  }

  void take_round(const Round& round, const std::vector<std::byte>& bytes) {
    std::size_t at = 0;
    for (const SharedRead& read : round) {
      const std::size_t element_bytes = size_of(m_.tensors[read.tensor].dtype);
      std::vector<Wanted*> mine = sharing(wanted_[read.tensor], slice_of(read).box);
      for_each_part(read, comm_.rank(), [&](const Box& part) {
        for (Wanted* w : mine)
          if (boxes_meet(w->box, part)) give(bytes.data() + at, part, element_bytes, *w);
        at += static_cast<std::size_t>(bytes_of(m_, read.tensor, part));
      });
    }
  }

  void exchange_round(std::size_t i) {
    std::vector<std::vector<std::byte>> mine(member2wishes_.size()), theirs(member2wishes_.size());
    if (const Round* round = round_of(comm_.rank(), i)) mine = read_round(*round);
    std::vector<SendPiece> sends;
    std::vector<RecvPiece> receives;
    for (int peer = 0; peer < comm_.size(); ++peer) {
      if (peer == comm_.rank()) continue;
      auto& out = mine[static_cast<std::size_t>(peer)];
      auto& in = theirs[static_cast<std::size_t>(peer)];
      if (const Round* round = round_of(peer, i)) in.resize(part_bytes(*round, comm_.rank()));
      if (!out.empty()) sends.push_back({peer, out.data(), out.size()});
      if (!in.empty()) receives.push_back({peer, in.data(), in.size()});
    }
    world_.lane().call("load", [&] { comm_.exchange("load", sends, receives); });
    for (int peer = 0; peer < comm_.size(); ++peer)
      if (const Round* round = peer != comm_.rank() ? round_of(peer, i) : nullptr)
        take_round(*round, theirs[static_cast<std::size_t>(peer)]);
  }

  World& world_;
  Comm& comm_;
  const Manifest& m_;
  ShardReader shards_;
  WantedByTensor& wanted_;
  std::vector<std::vector<TensorWish>> member2wishes_;
  std::map<std::size_t, std::vector<std::pair<std::size_t, const Box*>>> tensor2wishes_;  // member, box
  std::vector<SharedRead> alone_;                                                         // that I want and nobody else
  std::vector<std::vector<Round>> member2rounds_;
  std::map<int, std::int64_t> last_round_bytes_;
  std::optional<Error> failure_;
};

// The shards of the first replica, on all of them.
void send_to_replicas(Model& model, const std::vector<TensorSlice>& slices) {
  Comm* const replicas = model.mesh().unit_comms().replicate;
  if (replicas == nullptr) return;
  model.mesh().lane().call("load", [&] {
    for (const TensorSlice& s : slices) {
      const std::size_t bytes = static_cast<std::size_t>(elements_of(s.extent)) * size_of(s.dtype);
      broadcast(*replicas, "load", {static_cast<std::byte*>(s.data), bytes}, 0);
    }
  });
}

}  // namespace

Manifest manifest_on_mesh(World& world, const std::string& path) {
  std::string text;
  Manifest m;
  world.agree([&] {
    if (world.rank() != 0) return;
    text = read_text_file(path + "/" + kManifestName, kManifestLimitBytes);
    m = parse_manifest(text, path + "/" + kManifestName);
    check_files(m, path);
  });
  broadcast_text(world, "load", text);
  if (world.rank() != 0) m = parse_manifest(text, path + "/" + kManifestName);
  return m;
}

std::vector<SharedRead> plan_reads(const Manifest& m, const std::vector<std::vector<TensorWish>>& member2wishes) {
  std::vector<std::vector<std::pair<int, const Box*>>> tensor2wishes(m.tensors.size());
  for (std::size_t member = 0; member < member2wishes.size(); ++member)
    for (const TensorWish& wish : member2wishes[member])
      tensor2wishes[wish.tensor].emplace_back(static_cast<int>(member), &wish.box);
  std::vector<std::int64_t> member2bytes(member2wishes.size());
  std::vector<SharedRead> reads;
  for (std::size_t t = 0; t < m.tensors.size(); ++t)
    for (std::size_t s = 0; s < m.tensors[t].slices.size(); ++s) {
      SharedRead read{t, s, 0, {}};
      for (const auto& [member, box] : tensor2wishes[t])
        if (boxes_meet(*box, m.tensors[t].slices[s].box) && (read.members.empty() || read.members.back() != member))
          read.members.push_back(member);
      if (read.members.empty()) continue;
      const auto bytes_of_member = [&](int member) { return member2bytes[static_cast<std::size_t>(member)]; };
      read.reader = *std::min_element(read.members.begin(), read.members.end(),
                                      [&](int a, int b) { return bytes_of_member(a) < bytes_of_member(b); });
      member2bytes[static_cast<std::size_t>(read.reader)] += bytes_of(m, t, m.tensors[t].slices[s].box);
      reads.push_back(std::move(read));
    }
  return reads;
}

void load_on_mesh(Model& model, const Manifest& m, const std::string& path) {
  World& world = model.mesh().world();
  HostModel host(model);
  LoadedState state(host.model(), m.tensors);
  const std::vector<TensorSlice>& slices = state.slices();
  world.agree([&] { check_names(path, m, slices, state.ignored()); });
  const bool reads = model.mesh().place().replicate == 0;
  const int node = world.rank2node()[static_cast<std::size_t>(world.rank())];
  std::unique_ptr<Comm> comm;
  world.lane().call("load", [&] { comm = world.comm().split(reads ? node : world.num_nodes(), world.rank()); });
  WantedByTensor wanted = wanted_boxes(m, slices);
  world.agree([&] {
    if (!reads) return;
    NodeLoad(world, *comm, m, path, wanted).run();
    check_filled(m, wanted, path);
  });
  send_to_replicas(model, slices);
  world.lane().call("load", [&] { comm.reset(); });
  state.finish();
  host.push();
  for (const std::string& note : state.notes()) log_info(path + ": " + note);
  model.units().weights_changed();
}

void load_weights_on_mesh(Model& model, const CheckpointInfo& info, WeightsFrom from_role, bool drops_modules) {
  HostModel host(model);
  model.mesh().world().agree([&] { load_weights(host.model(), info, from_role, drops_modules); });
  host.push();
  model.units().weights_changed();
}

}  // namespace moe
