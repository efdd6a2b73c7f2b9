#include "lib/run/data.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/log.h"
#include "lib/run/data_output.h"

namespace moe {

void add_data_options(Options& options, DataOptions& data) {
  options.group("Data");
  Option& arguments =
      options.add("command", data.arguments,
                  "encode TEXT..., show FILE, import megatron|llmc|nanogpt FILE, or tokenizer-check TOKENIZER TEXT...");
  arguments.positional = true;
  options.add("o", data.output, "Token file to write").value = "FILE";
  options.add("tokenizer", data.tokenizer, "bytes, or a file: a tokenizer.json (byte-level BPE) or a SentencePiece model")
      .value = "bytes|FILE";
  options.add("split", data.split,
              "Share of the tokens in the first file; the rest goes to a second one, -eval in its name");
  options.add("text-field", data.text_field, "Key of the text in a line of a .jsonl file").value = "NAME";
  options.add("skip-bad", data.skip_bad, "So many malformed lines of .jsonl files are left out and counted");
  options.add("dtype", data.dtype, "Type of the ids in a nanoGPT file", {"u16", "u32"});
  options.add("vocab-size", data.vocab_size, "Size of the vocabulary of imported ids");
  options
      .add("expect", data.expect,
           "tokenizer-check: JSON with the ids that the texts should have, or with texts and their ids")
      .value = "FILE";
}

Exit run_data(const DataOptions& data, const CommonOptions& common, const Invocation& invocation) {
  const auto& words = data.arguments;
  const std::vector<std::string> commands = {"encode", "show", "import", "tokenizer-check"};
  if (words.empty())
    throw Error(Exit::kUsage, "expected a command: encode, show, import or tokenizer-check; found none", "see --help");
  const std::vector<std::string> inputs(words.begin() + 1, words.end());
  if (words[0] == "encode" && !inputs.empty()) return data_encode(data, common, invocation, inputs);
  if (words[0] == "show" && inputs.size() == 1) return data_show(common, inputs[0]);
  if (words[0] == "import" && inputs.size() == 2) return data_import(data, common, invocation, inputs[0], inputs[1]);
  if (words[0] == "tokenizer-check" && inputs.size() + !data.expect.empty() >= 2)
    return data_tokenizer_check(data, common, inputs);

  if (words[0] == "encode")
    throw Error(Exit::kUsage, "encode: expected at least one text file, found none", "- reads stdin");
  if (words[0] == "show") throw Error(Exit::kUsage, "show: expected one file, found " + std::to_string(inputs.size()));
  if (words[0] == "import")
    throw Error(Exit::kUsage,
                "import: expected a format and one file, found " + std::to_string(inputs.size()) + " arguments",
                "import megatron|llmc|nanogpt FILE");
  if (words[0] == "tokenizer-check")
    throw Error(Exit::kUsage,
                "tokenizer-check: expected a tokenizer and texts, found " + std::to_string(inputs.size()) +
                    (inputs.size() == 1 ? " argument" : " arguments"),
                "tokenizer-check tokenizer.json text.txt, or --expect cases.json for the texts");
  const std::string near = nearest_name(words[0], commands);
  throw Error(Exit::kUsage, "expected a command: encode, show, import or tokenizer-check; found '" + words[0] + "'",
              near.empty() ? "see --help" : "did you mean " + near + "?");
}

std::string eval_path(const std::string& path) {
  const bool h5 = path.ends_with(".h5");
  return (h5 ? path.substr(0, path.size() - 3) : path) + "-eval" + (h5 ? ".h5" : "");
}

DataOutput::DataOutput(const DataOptions& data, const CommonOptions& common) : split_(data.split) {
  if (data.output.empty()) throw Error(Exit::kUsage, "expected an output file, found none", "-o tokens.h5");
  if (data.output == "-") throw Error(Exit::kUsage, "-o -: a token file cannot be a stream", "use a file");
  if (!(split_ > 0 && split_ <= 1))
    throw Error(Exit::kUsage, "--split: expected a number above 0 up to 1, found " + std::to_string(split_));
  files_.emplace_back(data.output, common.force);
  if (split_ < 1) files_.emplace_back(eval_path(data.output), common.force);
}

std::string DataOutput::directory() const { return parent_directory(files_[0].path()); }

std::vector<TokenFileInfo> DataOutput::write(TokenWriter& writer, const nlohmann::json& provenance) {
  const std::int64_t all = writer.num_tokens(), cut = split_ < 1 ? writer.cut_at(split_) : all;
  if (split_ < 1 && (cut == 0 || cut == all))
    throw Error(Exit::kBadInput, "--split " + std::to_string(split_) + ": expected tokens on both sides, found " +
                                     std::to_string(cut) + " and " + std::to_string(all - cut));
  std::vector<TokenFileInfo> infos = {writer.write(files_[0], 0, cut, provenance)};
  if (files_.size() > 1) infos.push_back(writer.write(files_[1], cut, all, provenance));
  for (PendingFile& f : files_) f.commit();
  return infos;
}

nlohmann::json to_json(const TokenFileInfo& info) {
  return {{"path", info.path},
          {"tokens", info.num_tokens},
          {"documents", info.num_documents},
          {"vocab_size", info.vocab_size},
          {"tokenizer", info.tokenizer},
          {"text_bytes", info.num_bytes},
          {"fingerprint", info.fingerprint}};
}

std::string table_of(const std::vector<TokenFileInfo>& files) {
  char line[512];
  std::snprintf(line, sizeof line, "%14s %10s %8s %14s  %s\n", "tokens", "documents", "vocab", "text bytes", "file");
  std::string table = line;
  for (const TokenFileInfo& f : files) {
    std::snprintf(line, sizeof line, "%14lld %10lld %8d %14lld  ", static_cast<long long>(f.num_tokens),
                  static_cast<long long>(f.num_documents), f.vocab_size, static_cast<long long>(f.num_bytes));
    table += line + f.path + "\n";
  }
  return table;
}

}  // namespace moe
