#include "lib/io/import_tokens.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>

#include "lib/base/error.h"
#include "lib/io/files.h"

namespace moe {
namespace {

[[noreturn]] void refuse(const std::string& path, const std::string& what, const std::string& hint = "") {
  throw Error(Exit::kBadInput, path + ": " + what, hint);
}

std::int64_t width_of(IdType type) {
  constexpr std::array<std::int64_t, 7> kWidth = {1, 1, 2, 4, 8, 2, 4};
  return kWidth[static_cast<std::size_t>(type)];
}

template <class T>
std::vector<T> read_values(const File& file, std::int64_t offset, std::int64_t count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  file.read_at(offset, std::as_writable_bytes(std::span(values)));
  return values;
}
template <class T>
T read_value(const File& file, std::int64_t offset) {
  return read_values<T>(file, offset, 1)[0];
}

std::string number(std::int64_t n) { return std::to_string(n); }

// Codes of numpy types in Megatron's indexed_dataset.py; 6 and 7 are floating point.
std::optional<IdType> megatron_type(int code) {
  constexpr std::array<IdType, 5> kIntegers = {IdType::kU8, IdType::kI8, IdType::kI16, IdType::kI32, IdType::kI64};
  if (code >= 1 && code <= 5) return kIntegers[static_cast<std::size_t>(code - 1)];
  if (code == 8) return IdType::kU16;
  return std::nullopt;
}

template <class Stored>
void copy_run(const File& file, const ImportPlan::Run& run, TokenWriter& writer) {
  constexpr std::int64_t kChunk = std::int64_t{1} << 18;
  std::vector<std::int32_t> ids;
  for (std::int64_t at = 0; at < run.count; at += kChunk) {
    const auto stored = read_values<Stored>(file, run.byte_offset + at * static_cast<std::int64_t>(sizeof(Stored)),
                                            std::min(kChunk, run.count - at));
    ids.resize(stored.size());
    // What an int32 cannot hold becomes -1, which no vocabulary has.
    std::transform(stored.begin(), stored.end(), ids.begin(),
                   [](Stored s) { return std::in_range<std::int32_t>(s) ? static_cast<std::int32_t>(s) : -1; });
    writer.add(ids, 0);
  }
}

}  // namespace

// idx: "MMIDIDX\0\0", u64 version 1, u8 type, u64 sequences, u64 documents + 1, i32 length of each sequence, i64 byte
// offset of each sequence, i64 first sequence of each document and the end, perhaps i8 mode of each sequence.
ImportPlan plan_megatron(const std::string& prefix) {
  const std::string idx_path = prefix + ".idx";
  const File idx = File::open(idx_path), bin = File::open(prefix + ".bin");
  if (idx.size() < 34) refuse(idx_path, "expected at least 34 bytes of header, found " + number(idx.size()));
  if (std::memcmp(read_values<char>(idx, 0, 9).data(), "MMIDIDX\0\0", 9) != 0)
    refuse(idx_path, "expected the magic MMIDIDX, found another");
  if (const auto v = read_value<std::uint64_t>(idx, 9); v != 1)
    refuse(idx_path, "expected version 1, found " + std::to_string(v));
  const int code = read_value<std::uint8_t>(idx, 17);
  const auto type = megatron_type(code);
  if (!type) refuse(idx_path, "expected a type code of integers (1-5, 8), found " + number(code));
  const auto num_sequences = read_value<std::int64_t>(idx, 18), num_bounds = read_value<std::int64_t>(idx, 26);
  const std::int64_t most = idx.size() / 8;  // no list can have more entries, so the sums below cannot overflow
  if (num_sequences < 1 || num_bounds < 2 || num_sequences > most || num_bounds > most)
    refuse(idx_path, "expected at least one sequence and document that fit in the file, found " + number(num_sequences) +
                         " and " + number(num_bounds - 1));
  const std::int64_t size = 34 + 12 * num_sequences + 8 * num_bounds;
  if (idx.size() != size && idx.size() != size + num_sequences)
    refuse(idx_path, "expected " + number(size) + " bytes, found " + number(idx.size()),
           "the index is truncated or foreign");

  const auto length = read_values<std::int32_t>(idx, 34, num_sequences);
  const auto offset = read_values<std::int64_t>(idx, 34 + 4 * num_sequences, num_sequences);
  const auto bound = read_values<std::int64_t>(idx, 34 + 12 * num_sequences, num_bounds);
  if (bound.front() != 0 || bound.back() != num_sequences || !std::is_sorted(bound.begin(), bound.end()))
    refuse(idx_path, "expected document bounds that ascend from 0 to " + number(num_sequences));
  ImportPlan plan{prefix + ".bin", *type, {}, 0};
  const std::int64_t width = width_of(*type), bin_bytes = bin.size();
  std::size_t document = 0;
  for (std::size_t s = 0; s < length.size(); ++s) {
    if (length[s] < 0 || offset[s] < 0 || offset[s] > bin_bytes - width * length[s])
      refuse(plan.path,
             "expected sequence " + std::to_string(s) + " of " + number(length[s]) + " tokens at byte " + number(offset[s]) +
                 ", found the end at byte " + number(bin_bytes),
             "the .bin is truncated or does not belong to the .idx");
    bool begins = false;
    for (; document < bound.size() && bound[document] <= static_cast<std::int64_t>(s); ++document) begins = true;
    plan.runs.push_back({offset[s], length[s], begins});
    plan.num_tokens += length[s];
  }
  if (plan.num_tokens * width != bin_bytes)
    refuse(plan.path, "expected " + number(plan.num_tokens * width) + " bytes, found " + number(bin_bytes),
           "the .bin does not belong to the .idx");
  if (plan.num_tokens == 0) refuse(plan.path, "expected tokens, found none");
  return plan;
}

// 256 int32: magic, version, number of tokens; then the tokens.
ImportPlan plan_llmc(const std::string& path) {
  const File file = File::open(path);
  if (file.size() < 1024) refuse(path, "expected a header of 1024 bytes, found " + number(file.size()) + " bytes");
  const auto header = read_values<std::int32_t>(file, 0, 3);
  const bool narrow = header[0] == 20240520 && header[1] == 1, wide = header[0] == 20240801 && header[1] == 7;
  if (!narrow && !wide)
    refuse(path,
           "expected magic 20240520 version 1 or magic 20240801 version 7, found " + number(header[0]) + " version " +
               number(header[1]),
           "not a token file of llm.c");
  ImportPlan plan{path, narrow ? IdType::kU16 : IdType::kU32, {{1024, header[2], true}}, header[2]};
  const std::int64_t size = 1024 + width_of(plan.type) * plan.num_tokens;
  if (plan.num_tokens < 1) refuse(path, "expected tokens, found a count of " + number(plan.num_tokens));
  if (file.size() != size)
    refuse(path,
           "expected " + number(size) + " bytes for " + number(plan.num_tokens) + " tokens, found " + number(file.size()),
           "the file is truncated");
  return plan;
}

ImportPlan plan_nanogpt(const std::string& path, IdType type) {
  const std::int64_t size = File::open(path).size(), width = width_of(type);
  if (size == 0) refuse(path, "expected tokens, found an empty file");
  if (size % width != 0)
    refuse(path, "expected a multiple of " + number(width) + " bytes, found " + number(size),
           "truncated, or --dtype is another");
  return {path, type, {{0, size / width, true}}, size / width};
}

void import_tokens(const ImportPlan& plan, TokenWriter& writer) try {
  const File file = File::open(plan.path);
  for (const ImportPlan::Run& run : plan.runs) {
    if (run.begins_document) writer.begin_document();
    switch (plan.type) {
      case IdType::kU8:
        copy_run<std::uint8_t>(file, run, writer);
        break;
      case IdType::kI8:
        copy_run<std::int8_t>(file, run, writer);
        break;
      case IdType::kI16:
        copy_run<std::int16_t>(file, run, writer);
        break;
      case IdType::kI32:
        copy_run<std::int32_t>(file, run, writer);
        break;
      case IdType::kI64:
        copy_run<std::int64_t>(file, run, writer);
        break;
      case IdType::kU16:
        copy_run<std::uint16_t>(file, run, writer);
        break;
      case IdType::kU32:
        copy_run<std::uint32_t>(file, run, writer);
        break;
    }
  }
} catch (const Error& e) {
  if (e.code() != Exit::kBadInput || std::string_view(e.what()).starts_with(plan.path)) throw;
  throw Error(e.code(), plan.path + ": " + e.what(), e.hint());
}

}  // namespace moe
