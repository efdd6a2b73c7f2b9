#include "lib/io/tokens.h"

#include <algorithm>
#include <optional>

#include "lib/base/error.h"
#include "lib/io/digest.h"
#include "lib/io/files.h"
#include "lib/io/h5.h"
#include "lib/io/token_writer.h"

namespace moe {
namespace {

constexpr std::int64_t kChunkTokens = std::int64_t{1} << 18;
constexpr std::int64_t kModelLimitBytes = std::int64_t{1} << 28;

[[noreturn]] void refuse(const std::string& path, const std::string& what, const std::string& hint = "") {
  throw Error(Exit::kBadInput, path + ": " + what, hint);
}

}  // namespace

// Either an HDF5 token file or a text file. Ids are read where they lie; only document starts are kept in memory.
struct TokenSource::Impl {
  TokenFileInfo info;
  std::vector<std::int64_t> document_offsets;
  std::optional<H5Reader> h5;
  std::optional<File> text;
  H5Type width = H5Type::kU8;

  void open_h5(const std::string& path);
  void open_text(const std::string& path);
  // out[i] = id of token begin + i
  template <class Id>
  void read(std::int64_t begin, std::span<Id> out) const;
  std::string checked_fingerprint() const;
};

template <class Id>
void TokenSource::Impl::read(std::int64_t begin, std::span<Id> out) const {
  const auto widen = [&]<class Stored>(Stored) {
    std::vector<Stored> stored(out.size());
    if (text)
      text->read_at(begin, std::as_writable_bytes(std::span(stored)));
    else
      h5->read_rows("token_id", begin, static_cast<std::int64_t>(out.size()), stored.data());
    std::transform(stored.begin(), stored.end(), out.begin(), [](Stored s) { return static_cast<Id>(s); });
  };
  if (width == H5Type::kU8) return widen(std::uint8_t{});
  if (width == H5Type::kU16) return widen(std::uint16_t{});
  widen(std::uint32_t{});
}

// One pass over all ids: every id is in the vocabulary, and the digest of ids and document starts.
std::string TokenSource::Impl::checked_fingerprint() const {
  Xxh3 digest;
  std::vector<std::uint32_t> ids;
  for (std::int64_t at = 0; at < info.num_tokens; at += kChunkTokens) {
    ids.resize(static_cast<std::size_t>(std::min(kChunkTokens, info.num_tokens - at)));
    read(at, std::span(ids));
    const auto worst = std::max_element(ids.begin(), ids.end());
    if (*worst >= static_cast<std::uint32_t>(info.vocab_size))
      refuse(info.path, "token " + std::to_string(at + (worst - ids.begin())) + ": expected an id below " +
                            std::to_string(info.vocab_size) + ", found " + std::to_string(*worst));
    digest.update(std::as_bytes(std::span(ids)));
  }
  digest.update(std::as_bytes(std::span(document_offsets).first(document_offsets.size() - 1)));
  return digest.digest().hex();
}

void TokenSource::Impl::open_text(const std::string& path) {
  text = File::open(path);
  const std::int64_t size = text->size();
  if (size == 0) refuse(path, "expected text or a token file, found an empty file");
  document_offsets = {0, size};
  info = {.path = path, .num_tokens = size, .num_documents = 1, .vocab_size = 256, .tokenizer = "bytes", .num_bytes = size};
  info.fingerprint = checked_fingerprint();
}

void TokenSource::Impl::open_h5(const std::string& path) {
  h5.emplace(path, kTokenFileKind, kTokenFileVersion);
  const H5Dataset ids = h5->dataset("token_id");
  const H5Dataset starts = h5->dataset("document_begin");
  if (ids.dims.size() != 1 || ids.dims[0] < 1 || (ids.type != H5Type::kU16 && ids.type != H5Type::kU32))
    refuse(path, "dataset token_id: expected one dimension of 16- or 32-bit ids");
  if (starts.dims.size() != 1 || starts.type != H5Type::kU64 || starts.dims[0] < 1 || starts.dims[0] > ids.dims[0])
    refuse(path, "dataset document_begin: expected 1 to " + std::to_string(ids.dims[0]) + " 64-bit starts");
  const std::int64_t vocab_size = h5->attribute_int("vocab_size");
  if (vocab_size < 1 || vocab_size > INT32_MAX)
    refuse(path, "attribute vocab_size: expected 1 to 2^31-1, found " + std::to_string(vocab_size));

  const std::int64_t text_bytes = h5->attribute_int("text_bytes");
  if (text_bytes < 0) refuse(path, "attribute text_bytes: expected a number from 0, found " + std::to_string(text_bytes));

  width = ids.type;
  info = {.path = path,
          .num_tokens = ids.dims[0],
          .num_documents = starts.dims[0],
          .vocab_size = static_cast<int>(vocab_size),
          .tokenizer = h5->attribute_text("tokenizer"),
          .num_bytes = text_bytes};
  if (h5->has("tokenizer_model")) info.tokenizer_model = h5->read_text("tokenizer_model", kModelLimitBytes);

  document_offsets.resize(static_cast<std::size_t>(info.num_documents) + 1);
  h5->read("document_begin", H5Type::kU64, starts.dims, document_offsets.data());
  document_offsets.back() = info.num_tokens;
  const auto bad = std::adjacent_find(document_offsets.begin(), document_offsets.end(), std::greater_equal<>());
  if (document_offsets.front() != 0 || bad != document_offsets.end())
    refuse(path, "dataset document_begin: expected ascending starts from 0 below " + std::to_string(info.num_tokens));

  info.fingerprint = h5->attribute_text("fingerprint");
  if (const std::string found = checked_fingerprint(); found != info.fingerprint)
    refuse(path, "expected fingerprint " + info.fingerprint + ", found " + found, "the file is damaged: make it again");
}

TokenSource TokenSource::open(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  has_h5_signature(path) ? impl->open_h5(path) : impl->open_text(path);
  return TokenSource(std::move(impl));
}

TokenSource::TokenSource(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TokenSource::TokenSource(TokenSource&&) noexcept = default;
TokenSource::~TokenSource() = default;
const TokenFileInfo& TokenSource::info() const { return impl_->info; }
std::span<const std::int64_t> TokenSource::document_offsets() const { return impl_->document_offsets; }

void TokenSource::read(std::int64_t begin, std::span<std::int32_t> id_T) const {
  const auto count = static_cast<std::int64_t>(id_T.size());
  if (begin < 0 || begin + count > impl_->info.num_tokens)
    throw Error(Exit::kInternal, impl_->info.path + ": tokens " + std::to_string(begin) + " + " + std::to_string(count) +
                                     " lie outside of its " + std::to_string(impl_->info.num_tokens));
  impl_->read(begin, id_T);
}

}  // namespace moe
