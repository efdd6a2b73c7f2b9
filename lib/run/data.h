// moe-data: text and foreign token files -> token files; what a token file holds; whether a tokenizer is right. Not here:
// the file format (lib/io/token_writer.h, lib/io/tokens.h) and the foreign ones (lib/io/import_tokens.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/common_options.h"
#include "lib/base/error.h"

namespace moe {

enum class DataType { kU16, kU32 };

struct DataOptions {
  std::vector<std::string> arguments;  // encode TEXT..., show FILE, import FORMAT FILE, tokenizer-check ...
  std::string output;
  std::string tokenizer = "bytes";
  double split = 1;
  std::string text_field = "text";
  std::int64_t skip_bad = 0;
  DataType dtype = DataType::kU16;
  int vocab_size = 0;
  std::string expect;
};
void add_data_options(Options& options, DataOptions& data);

Exit run_data(const DataOptions& data, const CommonOptions& common, const Invocation& invocation);

// The commands; inputs are what follows the command and, for import, the format.
Exit data_encode(const DataOptions& data, const CommonOptions& common, const Invocation& invocation,
                 const std::vector<std::string>& inputs);
Exit data_import(const DataOptions& data, const CommonOptions& common, const Invocation& invocation,
                 const std::string& format, const std::string& input);
// inputs: a tokenizer, then texts.
Exit data_tokenizer_check(const DataOptions& data, const CommonOptions& common, const std::vector<std::string>& inputs);
Exit data_show(const CommonOptions& common, const std::string& path);

}  // namespace moe
