#include "lib/io/h5_driver.h"

#include <hdf5.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace moe {
namespace {

struct ChannelInfo {
  Channel* channel;
};
struct Driver : H5FD_t {
  Channel* channel;
  haddr_t end_of_allocation;
};

Channel& channel_of(const H5FD_t* f) { return *static_cast<const Driver*>(f)->channel; }

// Runs action unless something has failed before. True if nothing has failed, then or now.
template <class Action>
bool kept(Channel& channel, Action action) {
  if (channel.failure) return false;
  try {
    action();
    return true;
  } catch (const Error& e) {
    channel.failure = e;
  } catch (const std::exception& e) {
    channel.failure = Error(Exit::kInternal, channel.file.path() + ": " + e.what());
  }
  return false;
}

// A file that HDF5 would open on its own, because a link or a virtual dataset says so, has another name.
H5FD_t* driver_open(const char* name, unsigned, hid_t fapl, haddr_t) {
  const auto* info = static_cast<const ChannelInfo*>(H5Pget_driver_info(fapl));
  if (info == nullptr || info->channel->file.path() != name || std::exchange(info->channel->is_open, true)) return nullptr;
  auto* driver = new Driver{};
  driver->channel = info->channel;
  return driver;
}
herr_t driver_close(H5FD_t* f) {
  channel_of(f).is_open = false;
  delete static_cast<Driver*>(f);
  return 0;
}
int driver_compare(const H5FD_t* a, const H5FD_t* b) {
  const Channel *x = &channel_of(a), *y = &channel_of(b);
  return x < y ? -1 : x > y;
}
// Reading does without HDF5's accumulator of metadata: that of 1.10 copies from outside of its buffer when a damaged file
// names an address near the end of all addresses.
herr_t driver_query(const H5FD_t* f, unsigned long* flags) {
  *flags = 0;
  if (f != nullptr && channel_of(f).is_read_only) return 0;
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE;
  return 0;
}
haddr_t driver_get_eoa(const H5FD_t* f, H5FD_mem_t) { return static_cast<const Driver*>(f)->end_of_allocation; }
herr_t driver_set_eoa(H5FD_t* f, H5FD_mem_t, haddr_t address) {
  static_cast<Driver*>(f)->end_of_allocation = address;
  return 0;
}
haddr_t driver_get_eof(const H5FD_t* f, H5FD_mem_t) { return channel_of(f).end_of_file; }
herr_t driver_read(H5FD_t* f, H5FD_mem_t, hid_t, haddr_t address, size_t size, void* out) {
  Channel& c = channel_of(f);
  if (c.is_read_only && (address > c.end_of_file || size > c.end_of_file - address)) return -1;
  // Inside the allocated space but not written yet: zeros, as every driver of HDF5 gives.
  const haddr_t there = address >= c.end_of_file ? 0 : std::min<haddr_t>(size, c.end_of_file - address);
  std::memset(static_cast<char*>(out) + there, 0, size - there);
  const bool failed_before = c.failure.has_value();
  if (kept(c, [&] { c.file.read_at(static_cast<std::int64_t>(address), {static_cast<std::byte*>(out), there}); })) return 0;
  std::memset(out, 0, there);
  return failed_before ? 0 : -1;
}
// A failed write is a success for HDF5: told of it, H5Fclose would leave the file open for good, and the library would take
// the next file at the same address of memory for this one. The failure is in the channel.
herr_t driver_write(H5FD_t* f, H5FD_mem_t, hid_t, haddr_t address, size_t size, const void* data) {
  Channel& c = channel_of(f);
  c.end_of_file = std::max<haddr_t>(c.end_of_file, address + size);
  kept(c, [&] { c.file.write_at(static_cast<std::int64_t>(address), {static_cast<const std::byte*>(data), size}); });
  return 0;
}
herr_t driver_truncate(H5FD_t* f, hid_t, hbool_t) {
  Channel& c = channel_of(f);
  const haddr_t end = static_cast<Driver*>(f)->end_of_allocation;
  if (end == c.end_of_file) return 0;
  c.end_of_file = end;
  kept(c, [&] { c.file.truncate(static_cast<std::int64_t>(end)); });
  return 0;
}

H5FD_class_t driver_class() {
  H5FD_class_t c{};
#ifdef H5FD_CLASS_VERSION
  c.version = H5FD_CLASS_VERSION;
  c.value = static_cast<H5FD_class_value_t>(513);
#endif
  c.name = "moe_file";
  c.maxaddr = HADDR_MAX / 2;
  c.fc_degree = H5F_CLOSE_STRONG;
  c.fapl_size = sizeof(ChannelInfo);
  c.open = driver_open;
  c.close = driver_close;
  c.cmp = driver_compare;
  c.query = driver_query;
  c.get_eoa = driver_get_eoa;
  c.set_eoa = driver_set_eoa;
  c.get_eof = driver_get_eof;
  c.read = driver_read;
  c.write = driver_write;
  c.truncate = driver_truncate;
  const H5FD_mem_t map[H5FD_MEM_NTYPES] = H5FD_FLMAP_DICHOTOMY;
  std::copy(std::begin(map), std::end(map), std::begin(c.fl_map));
  return c;
}

// The driver, and a library that runs no code from files and knows no link that leads to another file.
hid_t driver_id() {
  static const H5FD_class_t driver = driver_class();
  static const hid_t id = [] {
    H5PLset_loading_state(0);
    H5Lunregister(H5L_TYPE_EXTERNAL);
    return H5FDregister(&driver);
  }();
  return id;
}

}  // namespace

std::int64_t h5_access_list(Channel& channel) {
  const hid_t list = H5Pcreate(H5P_FILE_ACCESS);
  const ChannelInfo info{&channel};
  const bool ok = list >= 0 && H5Pset_driver(list, driver_id(), &info) >= 0 &&
                  H5Pset_fclose_degree(list, H5F_CLOSE_STRONG) >= 0 &&
                  // V18: metadata with checksums, and no 'open for write' mark that a killed writer leaves behind.
                  H5Pset_libver_bounds(list, H5F_LIBVER_V18, H5F_LIBVER_V110) >= 0 && H5Pset_alignment(list, 64, 64) >= 0;
  if (ok) return list;
  if (list >= 0) H5Pclose(list);
  return -1;
}

}  // namespace moe
