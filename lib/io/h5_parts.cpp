#include "lib/io/h5_parts.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <numeric>
#include <string_view>

#include "lib/io/files.h"

namespace moe {
namespace h5 {

std::string error_stack_line() {
  std::string line;
  const auto take = [](unsigned n, const H5E_error2_t* e, void* out) -> herr_t {
    if (n == 0 && e->desc != nullptr) *static_cast<std::string*>(out) = e->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take, &line);
  H5Eclear2(H5E_DEFAULT);
  return line;
}

std::unique_lock<std::recursive_mutex> enter() {
  static std::recursive_mutex mutex;
  std::unique_lock<std::recursive_mutex> lock(mutex);
  static const herr_t before_all_else = H5dont_atexit();
  static_cast<void>(before_all_else);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  return lock;
}

std::array<TypeRow, 7> type_table() {
  return {{{H5Type::kU8, 1, H5T_STD_U8LE, H5T_NATIVE_UINT8},
           {H5Type::kU16, 2, H5T_STD_U16LE, H5T_NATIVE_UINT16},
           {H5Type::kU32, 4, H5T_STD_U32LE, H5T_NATIVE_UINT32},
           {H5Type::kU64, 8, H5T_STD_U64LE, H5T_NATIVE_UINT64},
           {H5Type::kI64, 8, H5T_STD_I64LE, H5T_NATIVE_INT64},
           {H5Type::kF32, 4, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT},
           {H5Type::kI16, 2, H5T_STD_I16LE, H5T_NATIVE_INT16}}};
}

TypeRow row_of(H5Type type) { return type_table()[static_cast<std::size_t>(type)]; }

std::vector<hsize_t> extents(const std::vector<std::int64_t>& dims) { return {dims.begin(), dims.end()}; }

bool flat_name(const std::string& name) {
  const auto bad = [](char c) { return c <= ' ' || c > '~' || c == '/'; };
  return !name.empty() && name.size() <= 600 && name != "." && name != ".." && std::none_of(name.begin(), name.end(), bad);
}

ByteRange range_of_rows(const Channel& c, const H5Dataset& d, std::int64_t begin, std::int64_t count) {
  static_assert(std::endian::native == std::endian::little);
  if (d.dims.empty() || begin < 0 || count < 0 || begin + count > d.dims[0])
    throw Error(Exit::kInternal,
                c.file.path() + ": rows " + std::to_string(begin) + " + " + std::to_string(count) + " lie outside");
  if (count == 0 || d.elements() == 0) return {};
  const std::int64_t row_bytes = d.bytes() / d.dims[0];
  return {d.file_offset + begin * row_bytes, static_cast<std::size_t>(count * row_bytes)};
}

}  // namespace h5

std::size_t size_of(H5Type type) { return h5::row_of(type).size; }

std::int64_t H5Dataset::elements() const {
  std::int64_t n = 1;
  for (const std::int64_t d : dims) n *= d;
  return n;
}

bool has_h5_signature(const std::string& path) {
  const File file = File::open(path);
  std::array<std::byte, 8> head{};
  file.read_at(0, std::span(head).first(static_cast<std::size_t>(std::min<std::int64_t>(file.size(), 8))));
  const std::string_view found(reinterpret_cast<const char*>(head.data()), head.size()), want("\x89HDF\r\n\x1a\n");
  const auto same = std::inner_product(found.begin(), found.end(), want.begin(), 0, std::plus<>(), std::equal_to<>());
  if (same >= 4 && found != want)
    throw Error(Exit::kBadInput, path + ": expected the signature of an HDF5 file, found a damaged one");
  return found == want;
}

}  // namespace moe
