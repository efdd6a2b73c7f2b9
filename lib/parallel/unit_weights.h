// Which unit's weights lie in which buffer, and their gather on the lane. Whether a gather is submitted follows from the
// calls alone, never from sizes or time, so ranks that make the same calls submit the same gathers.
//   zero 3: units take turns in a few buffers; a released one stays until its buffer is wanted for another unit
//   zero 1, 2: weights lie where the store has them; the rows of other ranks are fetched in place when they are old
// Not here: gradients (unit_gradients.h).
#pragma once

#include <vector>

#include "lib/comm/lane.h"
#include "lib/parallel/unit_list.h"
#include "lib/parallel/units.h"

namespace moe {

class UnitWeights {
 public:
  UnitWeights(ParamStore& store, const UnitList& list, const UnitBuffers& buffers, const UnitComms& comms, CommLane& lane,
              Stream& lane_stream);

  // See Units. -1 and units that are not cut are passed over.
  void prefetch(int unit);
  void use(int unit);
  void release(int unit);
  void changed();
  CommLane::Ticket last_ticket() const { return last_ticket_; }

 private:
  // Where the weights of a unit are: a buffer that units take turns in, or (data nullptr) the unit's own place.
  struct Holder {
    UnitKind kind;
    std::byte* data = nullptr;
    int unit = -1;
    bool fresh = false;          // gathered, or its gather is submitted, since the weights changed
    bool wanted = false;         // prefetched and neither used nor released yet
    int num_users = 0;           // use() without release()
    std::uint64_t released = 0;  // when: larger is later
    CommLane::Ticket ticket = 0;
  };

  bool is_cut(int unit) const;
  Holder* find(int unit);
  Holder* take(int unit, bool from_prefetched);
  void gather_if_old(Holder& holder);
  void show(const Holder& holder, bool shown);

  ParamStore& store_;
  const UnitList& list_;
  UnitComms comms_;
  CommLane& lane_;
  Stream& lane_stream_;
  bool in_place_;
  std::vector<Holder> holders_;
  std::uint64_t num_releases_ = 0;
  CommLane::Ticket last_ticket_ = 0;
};

}  // namespace moe
