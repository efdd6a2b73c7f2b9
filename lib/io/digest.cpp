#include "lib/io/digest.h"

// The dispatched functions use the widest vectors of the machine: twice as fast as what the compiler may assume.
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxhash.h>
// After it: it gives the names of xxhash.h to its own functions.
#include <xxh_x86dispatch.h>
#else
#define XXH_INLINE_ALL
#include <xxhash.h>
#endif

#include <cstdio>
#include <new>

#include "kernels/bits.h"

namespace moe {
namespace {

Digest from(XXH128_hash_t h) { return {h.high64, h.low64}; }

__extension__ typedef unsigned __int128 Wide;

Digest plus(const Digest& a, Wide b) {
  const Wide sum = ((Wide{a.high} << 64) | a.low) + b;
  return {static_cast<std::uint64_t>(sum >> 64), static_cast<std::uint64_t>(sum)};
}

}  // namespace

std::string Digest::hex() const {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(high),
                static_cast<unsigned long long>(low));
  return text;
}

Digest xxh3(std::span<const std::byte> bytes) { return from(XXH3_128bits(bytes.data(), bytes.size())); }
Digest xxh3(std::string_view text) { return xxh3(std::as_bytes(std::span(text))); }

struct Xxh3::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Xxh3::Xxh3() : state_(std::make_unique<State>()) {
  if (state_->xxh == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state_->xxh);
}
Xxh3::Xxh3(Xxh3&&) noexcept = default;
Xxh3::~Xxh3() = default;
void Xxh3::update(std::span<const std::byte> bytes) { XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size()); }
Digest Xxh3::digest() const { return from(XXH3_128bits_digest(state_->xxh)); }

ElementSum::ElementSum(std::string_view identity) : key_(xxh3(identity).low) {}
void ElementSum::add(std::uint64_t first, std::span<const std::uint32_t> bits) {
  std::uint64_t sum[2] = {sum_.low, sum_.high};
  cpu_bits().element_sum32(key_, first, bits, sum);
  sum_ = {sum[1], sum[0]};
}
void ElementSum::add(std::uint64_t first, std::span<const std::uint16_t> bits) {
  std::uint64_t sum[2] = {sum_.low, sum_.high};
  cpu_bits().element_sum16(key_, first, bits, sum);
  sum_ = {sum[1], sum[0]};
}
void ElementSum::add(const Digest& partial) { sum_ = plus(sum_, (Wide{partial.high} << 64) | partial.low); }

}  // namespace moe
