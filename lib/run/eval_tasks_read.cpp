#include "lib/run/eval_tasks_read.h"

#include <functional>

#include "lib/base/error.h"
#include "lib/base/log.h"
#include "lib/io/digest.h"
#include "lib/io/files.h"
#include "lib/io/manifest.h"
#include "lib/run/eval_tasks_fields.h"
#include "lib/run/eval_tasks_text.h"

namespace moe {
namespace {

constexpr std::int64_t kLimitBytes = std::int64_t{1} << 30;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

std::string place(const std::string& file, std::int64_t line) { return file + ":" + std::to_string(line); }

// Adds items to `data`; what is wrong with one line is an Error, or told and counted.
class ItemReader {
 public:
  ItemReader(EvalData& data, const TaskFormat& format, std::int64_t skip_bad)
      : data_(data), format_(format), skip_bad_(skip_bad) {}

  // make: the line as the JSON object that it is, or stands for.
  void add(const std::string& file, std::int64_t line, const std::function<nlohmann::json()>& make) {
    try {
      EvalItem item = format_.read(make(), place(file, line));
      item.where = place(file, line);
      item.number = line;
      data_.items.push_back(std::move(item));
    } catch (const Error& e) {
      if (++data_.num_bad > skip_bad_) throw;
      log_warning(std::string("left out: ") + e.what());
    }
  }

 private:
  EvalData& data_;
  const TaskFormat& format_;
  std::int64_t skip_bad_;
};

// What is no JSON can be left out like what is no item.
nlohmann::json parse_line(const std::string& line, const std::string& where) try {
  return parse_strict_json(line, where);
} catch (const Error& e) {
  throw Error(e.code(), e.what(), kSkipHint);
}

void read_jsonl(std::string_view text, const std::string& file, ItemReader& reader) {
  std::int64_t number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line(text.substr(at, end - at));
    at = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string::npos)
      reader.add(file, number, [&] { return parse_line(line, place(file, number)); });
  }
}

// "data/test/abstract_algebra_test.csv": abstract_algebra.
std::string subject_of(const std::string& file) {
  std::string name = base_name(file);
  name.resize(name.size() - std::string_view(".csv").size());
  for (const std::string_view split : {"_test", "_val", "_dev"})
    if (name.ends_with(split)) return name.substr(0, name.size() - split.size());
  return name;
}

// A row as the HF data set has it: question, four choices, the number of the answer.
nlohmann::json mmlu_line(const std::vector<std::string>& cells, const std::string& subject, const std::string& where) {
  if (cells.size() != 6)
    throw Error(Exit::kBadInput,
                where + ": expected 6 cells (question, four choices, answer), found " + std::to_string(cells.size()));
  for (const std::string& cell : cells)
    if (!is_utf8(cell)) throw Error(Exit::kBadInput, where + ": expected UTF-8, found other bytes");
  const std::size_t answer = cells[5].size() == 1 ? std::string_view("ABCD").find(cells[5][0]) : std::string::npos;
  if (answer == std::string::npos)
    throw Error(Exit::kBadInput, where + ": expected an answer A, B, C or D, found '" + cells[5].substr(0, 40) + "'");
  return {{"question", cells[0]},
          {"choices", {cells[1], cells[2], cells[3], cells[4]}},
          {"answer", answer},
          {"subject", subject}};
}

void read_mmlu_csv(std::string_view text, const std::string& file, ItemReader& reader) {
  const std::string subject = subject_of(file);
  std::int64_t line = 1;
  for (std::size_t at = 0; at < text.size();) {
    const std::int64_t first = line;
    const std::vector<std::string> cells = read_csv_row(text, at, line, file);
    if (cells.size() > 1 || !cells[0].empty())
      reader.add(file, first, [&] { return mmlu_line(cells, subject, place(file, first)); });
  }
}

std::vector<std::string> files_of(const std::string& path) {
  if (!is_directory(path)) return {path};
  std::vector<std::string> files;
  for (const std::string& name : list_directory(path))
    if (name.ends_with(".jsonl") || name.ends_with(".csv")) files.push_back(path + "/" + name);
  if (files.empty()) throw Error(Exit::kNoInput, path + ": expected .jsonl or .csv files, found none");
  return files;
}

void refuse_pointer(std::string_view text, const std::string& file) {
  if (text.starts_with("version https://git-lfs"))
    throw Error(Exit::kBadInput, file + ": expected evaluation data, found a pointer of git-lfs",
                "git lfs pull gets the file");
}

}  // namespace

std::vector<std::string> read_csv_row(std::string_view text, std::size_t& at, std::int64_t& line, const std::string& file) {
  std::vector<std::string> cells(1);
  const std::int64_t first = line;
  bool quoted = false;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    line += c == '\n';
    if (quoted && c == '"' && text.substr(at + 1).starts_with('"'))
      cells.back() += text[++at];
    else if (c == '"' && (quoted || cells.back().empty()))
      quoted = !quoted;
    else if (!quoted && c == ',')
      cells.emplace_back();
    else if (!quoted && c == '\n')
      break;
    else if (quoted || c != '\r' || !text.substr(at + 1).starts_with('\n'))
      cells.back() += c;
  }
  ++at;  // the line end
  if (quoted) throw Error(Exit::kBadInput, place(file, first) + ": expected a closing quote, found the end of the file");
  return cells;
}

EvalData read_eval_data(const std::string& path, const TaskFormat& format, std::int64_t skip_bad) {
  EvalData data{files_of(path), "", {}, 0};
  ItemReader reader(data, format, skip_bad);
  Xxh3 digest;
  for (const std::string& file : data.files) {
    const std::string bytes = read_text_file(file, kLimitBytes);
    digest.update(std::as_bytes(std::span(bytes)));
    std::string_view text = bytes;
    refuse_pointer(text, file);
    if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
    if (!file.ends_with(".csv"))
      read_jsonl(text, file, reader);
    else if (std::string_view(format.name) == "mmlu")
      read_mmlu_csv(text, file, reader);
    else
      throw Error(Exit::kUsage, file + ": expected JSONL, found CSV", "only mmlu is read from CSV");
  }
  data.digest = digest.digest().hex();
  if (data.items.empty())
    throw Error(Exit::kBadInput, path + ": expected lines of " + std::string(format.name) + ", found none");
  return data;
}

}  // namespace moe
