#include "lib/io/token_writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/base/error.h"
#include "lib/io/digest.h"
#include "lib/io/h5.h"

namespace moe {
namespace {

constexpr std::size_t kChunkTokens = std::size_t{1} << 18;

// A file without a name: whatever happens, it is gone when its descriptor is.
File unnamed_file(const std::string& directory) {
  File file = File::create(directory + "/.tmp-spool-" + unique_suffix());
  remove_file(file.path());
  return file;
}

}  // namespace

TokenWriter::TokenWriter(const std::string& directory, int vocab_size, std::string tokenizer, std::string tokenizer_model)
    : vocab_size_(vocab_size),
      tokenizer_(std::move(tokenizer)),
      tokenizer_model_(std::move(tokenizer_model)),
      spool_(unnamed_file(directory)) {}

void TokenWriter::begin_document() {
  if (!document_begin_.empty() && document_begin_.back() == num_tokens_)
    ++num_empty_documents_;
  else
    document_begin_.push_back(num_tokens_);
}

void TokenWriter::add(std::span<const std::int32_t> ids, std::int64_t text_bytes) {
  if (document_begin_.empty()) begin_document();
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocab_size_)
      throw Error(Exit::kBadInput,
                  "token " + std::to_string(num_tokens_) + ": expected an id below " + std::to_string(vocab_size_) +
                      ", found " + std::to_string(static_cast<std::uint32_t>(id)),
                  "check --vocab-size and the element type of the input");
    pending_.push_back(static_cast<std::uint32_t>(id));
    ++num_tokens_;
  }
  num_bytes_ += text_bytes;
  if (tokenizer_ != "bytes") marks_.push_back({num_tokens_, num_bytes_});
  if (pending_.size() >= kChunkTokens) flush_spool();
}

void TokenWriter::flush_spool() {
  const std::int64_t spooled = num_tokens_ - static_cast<std::int64_t>(pending_.size());
  spool_.write_at(spooled * 4, std::as_bytes(std::span(pending_)));
  pending_.clear();
}

std::int64_t TokenWriter::cut_at(double fraction) const {
  const auto cut = static_cast<std::int64_t>(fraction * static_cast<double>(num_tokens_));
  if (tokenizer_ == "bytes") return cut;
  std::int64_t at = 0;
  for (const Mark& m : marks_)
    if (m.tokens <= cut) at = m.tokens;
  return at;
}

std::int64_t TokenWriter::bytes_before(std::int64_t token) const {
  if (tokenizer_ == "bytes") return token;
  const auto after =
      std::upper_bound(marks_.begin(), marks_.end(), token, [](std::int64_t t, const Mark& m) { return t < m.tokens; });
  return after == marks_.begin() ? 0 : std::prev(after)->bytes;
}

TokenFileInfo TokenWriter::write(const PendingFile& out, std::int64_t begin, std::int64_t end,
                                 const nlohmann::json& provenance) {
  if (begin >= end)
    throw Error(Exit::kBadInput, out.path() + ": expected at least one token, found none", "the input is empty");
  flush_spool();
  const bool narrow = vocab_size_ <= 65536;
  require_free_space(parent_directory(out.path()), (end - begin) * (narrow ? 2 : 4));

  TokenFileInfo info{.path = out.path(),
                     .num_tokens = end - begin,
                     .vocab_size = vocab_size_,
                     .tokenizer = tokenizer_,
                     .tokenizer_model = tokenizer_model_};
  info.num_bytes = bytes_before(end) - bytes_before(begin);
  H5Writer h5(out.temporary_path(), kTokenFileKind, kTokenFileVersion);
  h5.create("token_id", narrow ? H5Type::kU16 : H5Type::kU32, {info.num_tokens});
  Xxh3 fingerprint;
  std::vector<std::uint32_t> wide;
  std::vector<std::uint16_t> half;
  for (std::int64_t at = begin; at < end; at += static_cast<std::int64_t>(wide.size())) {
    wide.resize(std::min(kChunkTokens, static_cast<std::size_t>(end - at)));
    spool_.read_at(at * 4, std::as_writable_bytes(std::span(wide)));
    fingerprint.update(std::as_bytes(std::span(wide)));
    if (narrow) half.assign(wide.begin(), wide.end());
    h5.write_rows("token_id", at - begin, static_cast<std::int64_t>(wide.size()),
                  narrow ? static_cast<const void*>(half.data()) : wide.data());
  }

  std::vector<std::uint64_t> starts{0};  // a document that was cut goes on as one
  for (const std::int64_t b : document_begin_)
    if (b > begin && b < end) starts.push_back(static_cast<std::uint64_t>(b - begin));
  fingerprint.update(std::as_bytes(std::span(starts)));
  info.num_documents = static_cast<std::int64_t>(starts.size());
  info.fingerprint = fingerprint.digest().hex();

  h5.write("document_begin", H5Type::kU64, {info.num_documents}, starts.data());
  if (!tokenizer_model_.empty()) h5.write_text("tokenizer_model", tokenizer_model_);
  h5.write_text("provenance", provenance.dump());
  h5.attribute("vocab_size", vocab_size_);
  h5.attribute("tokenizer", tokenizer_);
  h5.attribute("text_bytes", info.num_bytes);
  h5.attribute("fingerprint", info.fingerprint);
  h5.finish();
  return info;
}

}  // namespace moe
