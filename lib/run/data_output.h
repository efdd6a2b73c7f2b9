// What encode and import share: the output files of one run of moe-data and their summary.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lib/io/token_writer.h"
#include "lib/run/data.h"
#include "lib/run/result.h"

namespace moe {

// tokens.h5 -> tokens-eval.h5
std::string eval_path(const std::string& path);

// Printable: control characters and bytes beyond ASCII that stand alone as \xNN.
std::string quoted(const std::string& text);

class DataOutput {
 public:
  // Error 2 without -o, 73 if an output exists or cannot be.
  DataOutput(const DataOptions& data, const CommonOptions& common);
  std::string directory() const;
  const std::vector<PendingFile>& files() const { return files_; }
  // Writes all files, then publishes them. Error 65 if a part of a split would be empty.
  std::vector<TokenFileInfo> write(TokenWriter& writer, const nlohmann::json& provenance);

 private:
  double split_;
  std::vector<PendingFile> files_;
};

nlohmann::json to_json(const TokenFileInfo& info);
// One line a file.
std::string table_of(const std::vector<TokenFileInfo>& files);

}  // namespace moe
