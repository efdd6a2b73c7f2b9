// Collectives over Comm. Sums have one order per group size: the same ranks give the same bits. Every rank of the group
// calls, with sizes that agree. Not here: exchanges whose sizes differ by rank (Comm::exchange, dispatch.h, lib/parallel).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/comm/comm.h"

namespace moe {

void barrier(Comm& comm, const char* what);

// The bytes of `from` on every rank (same size on all).
void broadcast(Comm& comm, const char* what, std::span<std::byte> data, int from);

// What every rank gave, in rank order; lengths may differ.
std::vector<std::string> all_gather(Comm& comm, const char* what, const std::string& mine);

// values[i] (=) sum or maximum over ranks. Small vectors: a binomial tree to rank 0 and back; large ones of floats: each
// rank sums one part in the order of the ranks, and the parts are gathered.
void all_reduce_sum(Comm& comm, const char* what, std::span<double> values);
void all_reduce_sum(Comm& comm, const char* what, std::span<float> values);
void all_reduce_sum(Comm& comm, const char* what, std::span<std::int64_t> values);
void all_reduce_max(Comm& comm, const char* what, std::span<std::int64_t> values);

// A failure that all ranks know of: rank `reporter` prints it, all end with its exit code.
class AgreedError : public Error {
 public:
  AgreedError(Exit code, const std::string& message, const std::string& hint, int reporter)
      : Error(code, message, hint), reporter_(reporter) {}
  int reporter() const { return reporter_; }

 private:
  int reporter_;
};

}  // namespace moe
