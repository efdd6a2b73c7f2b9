// How HDF5 reaches a file: a driver of its virtual file layer that reads and writes through File (files.h). Only
// h5_reader.cpp and h5_writer.cpp use this. Not here: file locks (no file is shared while it is written) and any file that
// HDF5 would open itself.
#pragma once

#include <cstdint>
#include <optional>

#include "lib/base/error.h"
#include "lib/io/files.h"

namespace moe {

// One open file. HDF5 is never told of a failed write, and all later ones are swallowed, so that it can close its objects;
// the failure itself is kept and thrown by check().
struct Channel {
  File file;
  std::optional<Error> failure;
  std::uint64_t end_of_file = 0;
  bool is_read_only = false;
  bool is_open = false;  // by HDF5, once: it opens no file that a file names
};

// A new HDF5 file access property list that leads to `channel`, which must outlive the file; its identifier (hid_t), or a
// negative number.
std::int64_t h5_access_list(Channel& channel);

}  // namespace moe
