// moe-data encode and import.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>

#include "kernels/device.h"
#include "lib/base/log.h"
#include "lib/base/provenance.h"
#include "lib/base/threads.h"
#include "lib/io/digest.h"
#include "lib/io/import_tokens.h"
#include "lib/io/manifest.h"
#include "lib/io/verify.h"
#include "lib/run/data_output.h"

namespace moe {
namespace {

// A text file, or stdin for "-", in blocks; its digest is known when it has been read.
class TextInput {
 public:
  explicit TextInput(const std::string& path) : path_(path == "-" ? "stdin" : path) {
    if (path != "-") file_ = File::open(path);
  }
  // The next at most n bytes; empty at the end.
  std::string next(std::size_t n) {
    std::string block(n, '\0');
    if (file_) {
      block.resize(std::min<std::size_t>(n, static_cast<std::size_t>(file_->size() - at_)));
      file_->read_at(at_, std::as_writable_bytes(std::span(block)));
    } else {
      block.resize(std::fread(block.data(), 1, n, stdin));
      if (std::ferror(stdin)) throw Error(Exit::kIo, std::string("stdin: cannot read: ") + std::strerror(errno));
    }
    at_ += static_cast<std::int64_t>(block.size());
    digest_.update(std::as_bytes(std::span(block)));
    return block;
  }
  const std::string& path() const { return path_; }
  std::string digest() const { return digest_.digest().hex(); }

 private:
  std::string path_;
  std::optional<File> file_;
  std::int64_t at_ = 0;
  Xxh3 digest_;
};

// Texts on their way to the writer: encoded by all threads when there are enough of them, added in their order.
class TextQueue {
 public:
  TextQueue(const Tokenizer& tokenizer, TokenWriter& writer, int num_threads)
      : tokenizer_(tokenizer), writer_(writer), num_threads_(num_threads > 0 ? num_threads : num_usable_processors()) {}
  const Tokenizer& tokenizer() const { return tokenizer_; }
  void begin_document() { begins_document_ = true; }
  void add(std::string_view text) {
    texts_.push_back({std::string(text), begins_document_, {}});
    begins_document_ = false;
    if ((bytes_ += text.size()) >= kBatchBytes) flush();
  }
  void flush() {
    for_each_on_threads(texts_.size(), num_threads_,
                        [&](std::size_t i, std::size_t) { texts_[i].ids = tokenizer_.encode(texts_[i].text); });
    for (const Text& t : texts_) {
      if (t.begins_document) writer_.begin_document();
      writer_.add(t.ids, static_cast<std::int64_t>(t.text.size()));
    }
    texts_.clear();
    bytes_ = 0;
    if (begins_document_) writer_.begin_document();
    begins_document_ = false;
  }

 private:
  static constexpr std::size_t kBatchBytes = std::size_t{4} << 20;
  struct Text {
    std::string text;
    bool begins_document;
    std::vector<std::int32_t> ids;
  };
  const Tokenizer& tokenizer_;
  TokenWriter& writer_;
  int num_threads_;
  std::vector<Text> texts_;
  std::size_t bytes_ = 0;
  bool begins_document_ = false;
};

// One document, cut where the tokenizer allows it, about every 4 KiB. Where it does not, the blocks grow.
void encode_document(TextInput& input, TextQueue& queue) {
  queue.begin_document();
  const bool lines = queue.tokenizer().name().starts_with("sentencepiece:");  // its ids depend on the cuts: they stay
  std::string text;
  for (std::string block; !(block = input.next(lines ? 4096 : std::max<std::size_t>(1 << 20, text.size()))).empty();) {
    text += block;
    std::size_t begin = 0;
    for (const std::size_t cut : queue.tokenizer().cuts(text, 4096)) {
      queue.add(std::string_view(text).substr(begin, cut - begin));
      begin = cut;
    }
    text.erase(0, begin);
  }
  if (!text.empty()) queue.add(text);
}

// One document a line. Returns the number of malformed lines; Error 65 for the first beyond `skip`.
std::int64_t encode_jsonl(TextInput& input, const DataOptions& data, TextQueue& queue, std::int64_t skip) {
  std::int64_t line_number = 0, bad = 0;
  const auto one_line = [&](const std::string& line) {
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) return;
    const std::string where = input.path() + ":" + std::to_string(line_number);
    try {
      const nlohmann::json object = parse_strict_json(line, where);
      if (!object.is_object() || !object.contains(data.text_field) || !object[data.text_field].is_string())
        throw Error(Exit::kBadInput, where + ": expected a JSON object with a text '" + data.text_field + "', found none",
                    "--text-field names another key, --skip-bad N leaves out N lines");
      queue.begin_document();
      queue.add(object[data.text_field].get_ref<const std::string&>());
    } catch (const Error& e) {
      if (++bad > skip) throw;
      log_warning(std::string("left out: ") + e.what());
    }
  };
  std::string text;
  for (std::string block; !(block = input.next(1 << 20)).empty();) {
    text += block;
    std::size_t begin = 0;
    for (std::size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
      one_line(text.substr(begin, end - begin));
    text.erase(0, begin);
  }
  if (!text.empty()) one_line(text);
  return bad;
}

Exit report_plan(const CommonOptions& common, const DataOutput& output, const std::vector<std::string>& inputs) {
  nlohmann::json names = nlohmann::json::array();
  std::string table;
  for (const std::string& i : inputs) table += "would read   " + i + "\n";
  for (const PendingFile& f : output.files()) {
    names.push_back(f.path());
    table += "would write  " + f.path() + "\n";
  }
  print_result(common, {{"dry_run", true}, {"inputs", inputs}, {"outputs", names}}, table);
  return Exit::kOk;
}

nlohmann::json outputs_json(const std::vector<TokenFileInfo>& files) {
  nlohmann::json list = nlohmann::json::array();
  for (const TokenFileInfo& f : files) list.push_back(to_json(f));
  return list;
}

}  // namespace

Exit data_encode(const DataOptions& data, const CommonOptions& common, const Invocation& invocation,
                 const std::vector<std::string>& inputs) {
  DataOutput output(data, common);
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(data.tokenizer);
  for (const std::string& path : inputs)
    if (path != "-") File::open(path);  // all of them are there before the first is read
  if (common.dry_run) return report_plan(common, output, inputs);

  TokenWriter writer(output.directory(), tokenizer->vocab_size(), tokenizer->name(), tokenizer->serialized());
  std::vector<std::pair<std::string, std::string>> digests;
  TextQueue queue(*tokenizer, writer, common.threads);
  std::int64_t bad = 0;
  for (const std::string& path : inputs) {
    TextInput input(path);
    if (path.ends_with(".jsonl"))
      bad += encode_jsonl(input, data, queue, data.skip_bad - bad);
    else
      encode_document(input, queue);
    digests.emplace_back(input.path(), input.digest());
  }
  queue.flush();
  const auto files = output.write(writer, provenance_chain(invocation, nullptr, digests));
  const std::int64_t empty = writer.num_empty_documents();
  std::string table = table_of(files);
  if (bad > 0) table += std::to_string(bad) + " malformed lines left out\n";
  if (empty > 0) table += std::to_string(empty) + " empty documents left out\n";
  print_result(common, {{"outputs", outputs_json(files)}, {"bad_lines", bad}, {"empty_documents", empty}}, table);
  return Exit::kOk;
}

Exit data_import(const DataOptions& data, const CommonOptions& common, const Invocation& invocation,
                 const std::string& format, const std::string& input) {
  const std::vector<std::string> formats = {"megatron", "llmc", "nanogpt"};
  if (std::find(formats.begin(), formats.end(), format) == formats.end()) {
    const std::string near = nearest_name(format, formats);
    throw Error(Exit::kUsage, "import: expected megatron, llmc or nanogpt, found '" + format + "'",
                near.empty() ? "" : "did you mean " + near + "?");
  }
  if (data.vocab_size < 1)
    throw Error(Exit::kUsage, "import: expected --vocab-size, found none", "the tokenizer of GPT-2 has 50257");
  DataOutput output(data, common);
  const IdType type = data.dtype == DataType::kU16 ? IdType::kU16 : IdType::kU32;
  const ImportPlan plan = format == "megatron" ? plan_megatron(input)
                          : format == "llmc"   ? plan_llmc(input)
                                               : plan_nanogpt(input, type);
  if (common.dry_run) return report_plan(common, output, {plan.path});

  TokenWriter writer(output.directory(), data.vocab_size, "unknown", "");
  import_tokens(plan, writer);
  std::vector<std::pair<std::string, std::string>> digests = {{plan.path, file_digest(plan.path)}};
  if (format == "megatron") digests.emplace_back(input + ".idx", file_digest(input + ".idx"));
  const auto files = output.write(writer, provenance_chain(invocation, nullptr, digests));
  print_result(common, {{"outputs", outputs_json(files)}, {"empty_documents", writer.num_empty_documents()}},
               table_of(files));
  return Exit::kOk;
}

}  // namespace moe
