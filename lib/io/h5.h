// HDF5 as this program uses it: flat files of contiguous, fixed-size, little-endian datasets with short attributes. Every
// file says its kind, its format version and, written last, that it is complete. The writer checks every return and
// the reader follows a strict profile: it opens only what it is asked for by name and refuses links, external
// storage, virtual datasets, filters, variable length and whatever else can make a file read other than its own
// bytes. All bytes pass through File (files.h), so nothing is locked, and a full disk is an error of the write. Several
// threads may each use files of their own.
// Not here: what the datasets mean (tokens.cpp, checkpoint.cpp, routing_stats.cpp).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lib/io/files.h"

namespace moe {

enum class H5Type { kU8, kU16, kU32, kU64, kI64, kF32, kI16 };
std::size_t size_of(H5Type type);

struct H5Dataset {
  H5Type type = H5Type::kU8;
  std::vector<std::int64_t> dims;  // at most 8
  std::int64_t file_offset = -1;   // of its first byte; -1 if it has no element
  std::int64_t elements() const;
  std::int64_t bytes() const { return elements() * static_cast<std::int64_t>(size_of(type)); }
};

// Names of datasets are flat: printable ASCII without '/', at most 600 bytes.
class H5Writer {
 public:
  // Creates `path` (73 if it exists). All failures are Error 74 unless said otherwise.
  H5Writer(const std::string& path, const std::string& kind, int format_version);
  ~H5Writer();  // without finish(): an incomplete file stays, which no reader accepts

  // Where it lies in the file is known at once.
  H5Dataset create(const std::string& name, H5Type type, const std::vector<std::int64_t>& dims);
  // = rows [begin, begin + count) along dimension 0. What is never written is undefined: write everything.
  void write_rows(const std::string& name, std::int64_t begin, std::int64_t count, const void* data);
  void write(const std::string& name, H5Type type, const std::vector<std::int64_t>& dims, const void* data);
  // Bytes of a dataset that create() made, at their place in the file: past HDF5, so by several threads at once.
  void write_bytes(const H5Dataset& dataset, std::int64_t first_byte, std::span<const std::byte> bytes);
  void sync();  // what write_bytes() wrote is on the disk; may run beside other threads' use of other files
  void write_text(const std::string& name, const std::string& text);  // a dataset of bytes, of any length
  // Attributes of the file, or of dataset `owner`. Texts of at most 4096 bytes.
  void attribute(const std::string& name, const std::string& value, const std::string& owner = "");
  void attribute(const std::string& name, std::int64_t value, const std::string& owner = "");
  void finish();  // flush, sync, complete mark, sync, close

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class H5Reader {
 public:
  // Error 66: not there. 65: not HDF5, damaged, of another kind ("": any will do), of a newer version, incomplete.
  H5Reader(const std::string& path, const std::string& kind, int newest_version, Links links = Links::kFollow);
  H5Reader(H5Reader&&) noexcept;
  ~H5Reader();

  bool has(const std::string& name) const;
  H5Dataset dataset(const std::string& name) const;
  // Checks type and dims against what is expected (65), then reads all of it.
  void read(const std::string& name, H5Type type, const std::vector<std::int64_t>& dims, void* out) const;
  void read_rows(const std::string& name, std::int64_t begin, std::int64_t count, void* out) const;
  // = bytes [first_byte, first_byte + out.size()) of the elements of a dataset that dataset() described.
  void read_bytes(const H5Dataset& dataset, std::int64_t first_byte, std::span<std::byte> out) const;
  std::string read_text(const std::string& name, std::int64_t limit_bytes) const;
  bool has_attribute(const std::string& name) const;  // of the file
  std::string attribute_text(const std::string& name, const std::string& owner = "") const;
  std::int64_t attribute_int(const std::string& name, const std::string& owner = "") const;
  std::int64_t file_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// True if the file begins with the HDF5 signature. Error 65 if with half of it or more: such a file is damaged, not text.
bool has_h5_signature(const std::string& path);
// The kind of a file of ours, whatever its version; "" if it is not HDF5. Errors as H5Reader.
std::string h5_kind(const std::string& path);

}  // namespace moe
