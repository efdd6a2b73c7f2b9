// The safetensors format (8 bytes of header length, a JSON header, the data): one file, read with every bound checked before
// it is believed, and written in the order and with the padding of the reference implementation.
// Not here: directories of several files (safetensors_directory.h), what the tensors mean (lib/run/hf_names.h).
// Source: the README and tensor.rs of huggingface/safetensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lib/io/files.h"

namespace moe {

// In the order of the reference implementation: its writer puts the last first.
enum class SafeType : std::uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64
};
const char* name_of(SafeType type);  // "BF16"
std::size_t size_of(SafeType type);

struct SafeTensor {
  std::string name;
  SafeType type = SafeType::kF32;
  std::vector<std::int64_t> shape;              // empty: a scalar
  std::int64_t begin_bytes = 0, end_bytes = 0;  // from the first byte after the header
  std::int64_t bytes() const { return end_bytes - begin_bytes; }
};

struct SafetensorsHeader {
  std::vector<SafeTensor> tensors;  // in the order of their bytes
  std::map<std::string, std::string> metadata;
};

// Error 65 unless `text` is the header of a file with data_bytes of data: JSON without duplicate keys, known dtypes, sizes
// that are those of the shapes, ranges that cover the data without hole or overlap. `path` is for messages.
SafetensorsHeader parse_safetensors_header(const std::string& text, std::int64_t data_bytes, const std::string& path);

class SafetensorsFile {
 public:
  // Error 66: not there. 65: not such a file (a git-lfs pointer and a cut download are named as such).
  explicit SafetensorsFile(const std::string& path);

  const std::vector<SafeTensor>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const std::string& path() const { return file_.path(); }
  // = elements [first, first + count) of a tensor of this file, row-major; `out` holds count * size_of(type) bytes.
  void read(const SafeTensor& tensor, std::int64_t first, std::int64_t count, std::byte* out) const;

 private:
  File file_;
  SafetensorsHeader header_;
  std::int64_t data_begin_ = 0;
};

// A new file whose names and shapes are known before its data. The data come in any order, each element once.
class SafetensorsWriter {
 public:
  // Creates `path` (73 if it exists) and writes the header; begin_bytes and end_bytes of `tensors` are not looked at.
  SafetensorsWriter(const std::string& path, std::vector<SafeTensor> tensors,
                    const std::map<std::string, std::string>& metadata);

  // Elements [first, first + count) of tensor `index` of those that the constructor got.
  void write(std::size_t index, std::int64_t first, std::int64_t count, const std::byte* data) {
    write(index, first, 1, count, data);
  }
  // Elements first, first + step, first + 2 step, ...; what lies between them stays as it is.
  void write(std::size_t index, std::int64_t first, std::int64_t step, std::int64_t count, const std::byte* data);
  void finish();  // Error(kInternal) if elements are missing; sync, close
  std::int64_t data_bytes() const { return data_bytes_; }

 private:
  File file_;
  std::vector<SafeTensor> tensors_;
  std::vector<std::int64_t> written_bytes_;  // by tensor
  std::int64_t data_begin_ = 0, data_bytes_ = 0;
  std::vector<std::byte> between_;  // scratch
};

}  // namespace moe
