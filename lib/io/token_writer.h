// Writes token files (man/moe-files.5) in bounded memory: ids are first spooled to an unnamed temporary file, because
// their number is known only at the end and a split needs it. Not here: where the ids come from (lib/run/data.cpp,
// import_tokens.h).
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "lib/io/files.h"
#include "lib/io/tokens.h"

namespace moe {

inline constexpr const char* kTokenFileKind = "moe-tokens";
inline constexpr int kTokenFileVersion = 1;

class TokenWriter {
 public:
  // The spool lies in `directory` (where the output will be) and has no name.
  TokenWriter(const std::string& directory, int vocab_size, std::string tokenizer, std::string tokenizer_model);

  // A document begins at the next token. Documents that get no token are left out and counted.
  void begin_document();
  // Appends ids that stand for text_bytes bytes of text (0 = unknown). Error 65 naming the id, if it is beyond the
  // vocabulary.
  void add(std::span<const std::int32_t> ids, std::int64_t text_bytes);

  std::int64_t num_tokens() const { return num_tokens_; }
  std::int64_t num_empty_documents() const { return num_empty_documents_; }
  // The place where `fraction` of the tokens lies before: exact for bytes; else rounded down to the end of an add(), so that
  // both sides know their bytes of text.
  std::int64_t cut_at(double fraction) const;

  // Writes tokens [begin, end) with their documents to out.temporary_path() (complete and synced; out.commit() publishes
  // it). Error 65 if the range is empty.
  TokenFileInfo write(const PendingFile& out, std::int64_t begin, std::int64_t end, const nlohmann::json& provenance);

 private:
  struct Mark {
    std::int64_t tokens, bytes;  // so many of each lie before
  };
  void flush_spool();
  std::int64_t bytes_before(std::int64_t token) const;

  int vocab_size_;
  std::string tokenizer_, tokenizer_model_;
  File spool_;
  std::vector<std::uint32_t> pending_;  // not yet in the spool
  std::vector<std::int64_t> document_begin_;
  std::vector<Mark> marks_;
  std::int64_t num_tokens_ = 0, num_bytes_ = 0, num_empty_documents_ = 0;
};

}  // namespace moe
