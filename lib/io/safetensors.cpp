// Reading. Not here: writing (safetensors_write.cpp).
#include "lib/io/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "lib/base/error.h"
#include "lib/io/box.h"
#include "lib/io/manifest.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr std::int64_t kMostHeaderBytes = 100'000'000;  // of the reference implementation
constexpr std::size_t kMostNameBytes = 512, kMostDimensions = 32;

struct TypeRow {
  SafeType type;
  const char* name;
  std::size_t bytes;
};
constexpr std::array<TypeRow, 15> kTypes = {{{SafeType::kBool, "BOOL", 1},
                                             {SafeType::kU8, "U8", 1},
                                             {SafeType::kI8, "I8", 1},
                                             {SafeType::kF8E5M2, "F8_E5M2", 1},
                                             {SafeType::kF8E4M3, "F8_E4M3", 1},
                                             {SafeType::kI16, "I16", 2},
                                             {SafeType::kU16, "U16", 2},
                                             {SafeType::kF16, "F16", 2},
                                             {SafeType::kBF16, "BF16", 2},
                                             {SafeType::kI32, "I32", 4},
                                             {SafeType::kU32, "U32", 4},
                                             {SafeType::kF32, "F32", 4},
                                             {SafeType::kF64, "F64", 8},
                                             {SafeType::kI64, "I64", 8},
                                             {SafeType::kU64, "U64", 8}}};
// What the format has and this reader has not.
constexpr std::array kUnread = {"F8_E8M0", "F4", "F6_E2M3", "F6_E3M2", "C64", "F8_E4M3FNUZ", "F8_E5M2FNUZ"};

[[noreturn]] void refuse(const std::string& where, const std::string& what, const std::string& hint = "") {
  throw Error(Exit::kBadInput, where + ": " + what, hint);
}

// Printable, so that messages are; without what could lead out of a directory or a line.
bool is_plain_name(const std::string& name) {
  const auto bad = [](char c) { return c <= ' ' || c > '~' || c == '/' || c == '\\'; };
  return !name.empty() && name.size() <= kMostNameBytes && std::none_of(name.begin(), name.end(), bad);
}

SafeType type_of(const json& value, const std::string& where) {
  if (!value.is_string()) refuse(where, "dtype: expected a text");
  const std::string& name = value.get_ref<const std::string&>();
  for (const TypeRow& row : kTypes)
    if (name == row.name) return row.type;
  if (std::find(kUnread.begin(), kUnread.end(), name) != kUnread.end())
    refuse(where, "dtype " + name + " is not supported", "convert the file to BF16 or F32 first");
  refuse(where, "expected a dtype of safetensors, found '" + name.substr(0, 40) + "'");
}

std::vector<std::int64_t> counts_of(const json& value, const char* key, const std::string& where) {
  if (!value.is_array()) refuse(where, std::string(key) + ": expected a list");
  std::vector<std::int64_t> list;
  for (const json& v : value) {
    if (!v.is_number_unsigned() || v.get<std::uint64_t>() > (std::uint64_t{1} << 62))
      refuse(where, std::string(key) + ": expected whole numbers from 0 to 2^62");
    list.push_back(v.get<std::int64_t>());
  }
  return list;
}

const json& field(const json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end()) refuse(where, std::string("expected the key '") + key + "', found none");
  return *it;
}

// Bytes that the shape asks for; 65 if no file can hold them.
std::int64_t expected_bytes(const SafeTensor& t, const std::string& where) {
  std::int64_t bytes = static_cast<std::int64_t>(size_of(t.type));
  for (const std::int64_t d : t.shape)
    if (__builtin_mul_overflow(bytes, d, &bytes)) refuse(where, "shape [" + joined(t.shape) + "] is impossible");
  return bytes;
}

SafeTensor parse_entry(const std::string& name, const json& object, const std::string& path) {
  if (!is_plain_name(name)) refuse(path, "expected plain names of at most 512 bytes, found another");
  const std::string where = path + ": tensor " + name;
  if (!object.is_object()) refuse(where, "expected a JSON object");
  if (object.size() > 3) refuse(where, "expected the keys dtype, shape and data_offsets alone, found more");
  SafeTensor t{name, type_of(field(object, "dtype", where), where),
               counts_of(field(object, "shape", where), "shape", where)};
  if (t.shape.size() > kMostDimensions) refuse(where, "shape: expected at most 32 dimensions");
  const std::vector<std::int64_t> range = counts_of(field(object, "data_offsets", where), "data_offsets", where);
  if (range.size() != 2 || range[0] > range[1]) refuse(where, "data_offsets: expected a begin and an end behind it");
  t.begin_bytes = range[0], t.end_bytes = range[1];
  if (const std::int64_t want = expected_bytes(t, where); want != t.bytes())
    refuse(where, "expected " + std::to_string(want) + " bytes for " + name_of(t.type) + " [" + joined(t.shape) +
                      "], found a range of " + std::to_string(t.bytes()));
  return t;
}

void check_ranges(const std::vector<SafeTensor>& tensors, std::int64_t data_bytes, const std::string& path) {
  std::int64_t at = 0;
  for (const SafeTensor& t : tensors) {
    if (t.begin_bytes != at)
      refuse(path + ": tensor " + t.name, "expected its data at byte " + std::to_string(at) + ", found byte " +
                                              std::to_string(t.begin_bytes) +
                                              (t.begin_bytes < at ? ": tensors overlap" : ": bytes that nothing names"));
    at = t.end_bytes;
  }
  if (at == data_bytes) return;
  refuse(path, "expected " + std::to_string(at) + " bytes of data, found " + std::to_string(data_bytes),
         at > data_bytes ? "the file is cut: download or copy it again" : "the file has bytes that nothing names");
}

// "" or what a file of another kind is, by how it begins.
std::string foreign_kind(std::string_view head) {
  if (head.starts_with("version https://git-lfs")) return "a git-lfs pointer";
  if (head.starts_with("<!") || head.starts_with("<html") || head.starts_with("<HTML")) return "a web page";
  if (head.starts_with("\x89HDF")) return "an HDF5 file";
  if (head.starts_with("PK\x03\x04")) return "a zip archive (of pickles, as PyTorch writes them)";
  return "";
}

std::string hint_of_kind(const std::string& kind) {
  if (kind == "a git-lfs pointer") return "the weights were not downloaded: run git lfs pull in that directory";
  if (kind == "a web page") return "the download failed: fetch the file again";
  return "";
}

std::string read_head(const File& file, std::int64_t size) {
  std::string head(static_cast<std::size_t>(std::min<std::int64_t>(size, 64)), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(head)));
  return head;
}

// The header's text, of a length that the file can have.
std::string read_header(const File& file, std::int64_t size) {
  const std::string head = read_head(file, size);
  if (const std::string kind = foreign_kind(head); !kind.empty())
    refuse(file.path(), "expected a safetensors file, found " + kind, hint_of_kind(kind));
  if (size < 8)
    refuse(file.path(), "expected a safetensors file, found " + std::to_string(size) + " bytes",
           "download or copy it again");
  std::uint64_t length = 0;
  std::memcpy(&length, head.data(), 8);  // little-endian, as this machine is
  if (length > static_cast<std::uint64_t>(kMostHeaderBytes))
    refuse(file.path(), "expected a header of at most 100,000,000 bytes, found a length of " + std::to_string(length),
           "this is no safetensors file, or its beginning is damaged");
  if (static_cast<std::int64_t>(length) > size - 8)
    refuse(file.path(), "expected a header of " + std::to_string(length) + " bytes, found " + std::to_string(size - 8),
           "the file is cut: download or copy it again");
  std::string text(static_cast<std::size_t>(length), '\0');
  file.read_at(8, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace

const char* name_of(SafeType type) { return kTypes[static_cast<std::size_t>(type)].name; }
std::size_t size_of(SafeType type) { return kTypes[static_cast<std::size_t>(type)].bytes; }

SafetensorsHeader parse_safetensors_header(const std::string& text, std::int64_t data_bytes, const std::string& path) {
  if (text.empty() || text[0] != '{') refuse(path, "expected a header that begins with '{'", "this is no safetensors file");
  const json root = parse_strict_json(text, path);
  SafetensorsHeader header;
  for (const auto& [name, value] : root.items()) {
    if (name != "__metadata__") {
      header.tensors.push_back(parse_entry(name, value, path));
      continue;
    }
    if (!value.is_object()) refuse(path, "__metadata__: expected a JSON object");
    for (const auto& [key, text_value] : value.items()) {
      if (!text_value.is_string()) refuse(path, "__metadata__: expected texts alone");
      header.metadata[key] = text_value.get<std::string>();
    }
  }
  std::sort(header.tensors.begin(), header.tensors.end(), [](const SafeTensor& a, const SafeTensor& b) {
    return std::pair(a.begin_bytes, a.end_bytes) < std::pair(b.begin_bytes, b.end_bytes);
  });
  check_ranges(header.tensors, data_bytes, path);
  return header;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(File::open(path)) {
  const std::int64_t size = file_.size();
  const std::string text = read_header(file_, size);
  data_begin_ = 8 + static_cast<std::int64_t>(text.size());
  header_ = parse_safetensors_header(text, size - data_begin_, path);
}

void SafetensorsFile::read(const SafeTensor& t, std::int64_t first, std::int64_t count, std::byte* out) const {
  const auto width = static_cast<std::int64_t>(size_of(t.type));
  if (first < 0 || count < 0 || count > t.bytes() / width || first > t.bytes() / width - count)
    throw Error(Exit::kInternal, path() + ": tensor " + t.name + ": asked for elements that it does not have");
  file_.read_at(data_begin_ + t.begin_bytes + first * width, {out, static_cast<std::size_t>(count * width)});
}

}  // namespace moe
