// What reading and writing HDF5 share: identifiers, errors, the lock, types. Included by h5_reader.cpp and h5_writer.cpp
// alone.
#pragma once

#include <hdf5.h>

#include <array>
#include <mutex>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/io/h5.h"
#include "lib/io/h5_driver.h"

namespace moe::h5 {

// The first (innermost) line of HDF5's error stack.
std::string error_stack_line();

// rc, or an Error: the failure of the file layer if there was one, else HDF5's own words with `code`.
template <class Rc>
Rc check(Rc rc, const Channel& channel, Exit code, const std::string& what) {
  if (rc >= 0 && !channel.failure) return rc;
  const std::string words = error_stack_line();
  if (channel.failure) throw *channel.failure;
  throw Error(code, channel.file.path() + ": " + what + (words.empty() ? "" : ": HDF5 says '" + words + "'"));
}

// An HDF5 identifier and the function that closes it.
class Id {
 public:
  Id(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Id(const Id&) = delete;
  Id& operator=(const Id&) = delete;
  ~Id() {
    if (id_ >= 0) close_(id_);
  }
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

// Entering HDF5: one thread at a time in the whole process, since the library need not be built for threads (a save is
// written while the training thread reads its tokens). Held for metadata only: the bytes of datasets pass outside of it.
// Error printing is a setting of each thread. The library must not clean up at exit: a file that could not be closed (full
// disk) would be written again, through a channel that is gone.
[[nodiscard]] std::unique_lock<std::recursive_mutex> enter();

struct TypeRow {
  H5Type type;
  std::size_t size;
  hid_t file, memory;
};
// H5T_* are run-time values, so the table is made by a call.
std::array<TypeRow, 7> type_table();  // in the order of H5Type
TypeRow row_of(H5Type type);

std::vector<hsize_t> extents(const std::vector<std::int64_t>& dims);

bool flat_name(const std::string& name);

// Bytes of rows [begin, begin + count) of dimension 0 in the file. They are read and written as they are (contiguous,
// little-endian like every machine this is built for), past HDF5: in large pieces, and by several threads at once.
struct ByteRange {
  std::int64_t offset = 0;
  std::size_t bytes = 0;
};
ByteRange range_of_rows(const Channel& c, const H5Dataset& d, std::int64_t begin, std::int64_t count);

}  // namespace moe::h5
