// The configuration file: lines "name = value", # starts a comment, "..." keeps a value as it is (\" \\ \n \t inside).
// Values of a repeated option are separated by commas. Everything else is an error with file:line:column.
// --print-config writes what this reads.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "lib/base/options_parts.h"

namespace moe {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{1} << 20;  // no configuration is longer; a checkpoint given by mistake is

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r'; }
bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

// One line, read from left to right.
class LineReader {
 public:
  LineReader(std::string file_and_line, std::string text) : place_(std::move(file_and_line)), text_(std::move(text)) {}

  [[noreturn]] void fail(std::size_t at, const std::string& message, const std::string& hint = "") const {
    throw Error(Exit::kUsage, where(at) + ": " + message, hint);
  }
  std::string where(std::size_t at) const { return place_ + ":" + std::to_string(at + 1); }
  std::size_t at() const { return at_; }
  bool at_end() const { return at_ >= text_.size(); }
  bool at_comment_or_end() const { return at_end() || text_[at_] == '#'; }
  char here() const { return text_[at_]; }
  void skip() { ++at_; }
  void skip_spaces() {
    while (!at_end() && is_space(here())) ++at_;
  }

  std::string name() {
    const std::size_t start = at_;
    while (!at_end() && is_name(here())) ++at_;
    refuse_foreign_dash(at_);
    if (at_ == start) fail(at_, "expected name = value, found \"" + text_.substr(at_) + "\"");
    return text_.substr(start, at_ - start);
  }

  void equals(const std::string& name) {
    skip_spaces();
    if (at_end() || here() != '=') fail(at_, "expected = after " + name + ", found " + found());
    ++at_;
    skip_spaces();
  }

  std::string value(bool ends_at_comma) { return !at_end() && here() == '"' ? quoted() : bare(ends_at_comma); }

  std::string found() const { return at_comment_or_end() ? "the end of the line" : "\"" + text_.substr(at_) + "\""; }

 private:
  void refuse_foreign_dash(std::size_t at) const {
    if (foreign_dash_bytes(text_, at) > 0)
      fail(at, "found a dash that is not the ASCII character -", "type the dash by hand, or put the value in \"quotes\"");
  }

  std::string quoted() {
    const std::size_t start = at_++;
    std::string value;
    for (; !at_end() && here() != '"'; ++at_) value += here() == '\\' ? escaped() : here();
    if (at_end()) fail(start, "expected a closing \", found the end of the line");
    ++at_;
    skip_spaces();
    return value;
  }

  char escaped() {
    static const std::map<char, char> kEscapes{{'"', '"'}, {'\\', '\\'}, {'n', '\n'}, {'t', '\t'}};
    ++at_;
    const auto escape = at_end() ? kEscapes.end() : kEscapes.find(here());
    if (escape == kEscapes.end()) fail(at_ - 1, "expected \\\", \\\\, \\n or \\t inside quotes");
    return escape->second;
  }

  std::string bare(bool ends_at_comma) {
    const std::size_t start = at_;
    for (; !at_end() && !(ends_at_comma && here() == ','); ++at_) {
      refuse_foreign_dash(at_);
      if (here() == '"') fail(at_, "found \" inside a value", "put the whole value in quotes and write \\\" for a quote");
      if (here() != '#') continue;
      if (at_ == start || is_space(text_[at_ - 1])) break;
      fail(at_, "found # inside a value", "put a space before a comment, or the value in \"quotes\"");
    }
    std::size_t end = at_;
    while (end > start && is_space(text_[end - 1])) --end;
    return text_.substr(start, end - start);
  }

  std::string place_, text_;
  std::size_t at_ = 0;
};

std::string whole_file(const std::string& path) {
  if (!std::filesystem::exists(path)) throw Error(Exit::kNoInput, path + ": expected a configuration file, found nothing");
  std::ifstream stream(path, std::ios::binary);
  if (std::filesystem::is_directory(path) || !stream)
    throw Error(Exit::kNoInput, path + ": cannot read this configuration file");
  std::string text(kMaxBytes + 1, ' ');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(stream.gcount()));
  return text;
}

const char* const kAboutConfig = "may only be given on the command line";

Option& option_named(const LineReader& line, std::size_t at, const std::string& name, const Options& options) {
  Option* option = find_option(options, name);
  if (!option) {
    const std::string near = did_you_mean(name, names_of(options));
    line.fail(at, "unknown key " + name + (near.empty() ? "" : "; " + near));
  }
  if (is_about_config(*option)) line.fail(at, name + " " + kAboutConfig);
  return *option;
}

std::vector<std::string> values_of(LineReader& line, const Option& option) {
  if (option.repeated && line.at_comment_or_end()) return {};
  if (line.at_comment_or_end())
    line.fail(line.at(), "expected a value for " + option.name + ", found " + line.found(), "\"\" is an empty value");
  std::vector<std::string> values{line.value(option.repeated)};
  while (option.repeated && !line.at_end() && line.here() == ',') {
    line.skip();
    line.skip_spaces();
    values.push_back(line.value(true));
  }
  if (!line.at_comment_or_end()) line.fail(line.at(), "expected the end of the line after the value, found " + line.found());
  return values;
}

}  // namespace

std::vector<Setting> read_config_file(const std::string& path, const Options& options) {
  std::string text = whole_file(path);
  if (text.size() > kMaxBytes || text.find('\0') != std::string::npos)
    throw Error(Exit::kUsage, path + ": expected a configuration file of lines name = value, found other data");
  if (text.rfind("\xEF\xBB\xBF", 0) == 0) text.erase(0, 3);  // a byte order mark
  std::vector<Setting> settings;
  std::map<std::string, int> line_of_name;
  std::istringstream lines(text);
  int number = 0;
  for (std::string words; std::getline(lines, words);) {
    LineReader line(path + ":" + std::to_string(++number), words);
    line.skip_spaces();
    if (line.at_comment_or_end()) continue;
    const std::size_t at = line.at();
    const std::string name = line.name();
    line.equals(name);
    Option& option = option_named(line, at, name, options);
    const auto [first, fresh] = line_of_name.emplace(name, number);
    if (!fresh) line.fail(at, name + " is given twice, first in line " + std::to_string(first->second));
    const std::string where = line.where(line.at()) + ": " + name;
    settings.push_back({&option, values_of(line, option), where});
  }
  return settings;
}

std::string config_quoted(const std::string& value) {
  const auto plain = [](char c) {
    return is_name(c) || c == '.' || c == '/' || c == ':' || c == '+' || c == '=' || c == '|';
  };
  if (!value.empty() && std::all_of(value.begin(), value.end(), plain)) return value;
  std::string text = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') text += '\\';
    text += c == '\n' ? "\\n" : c == '\t' ? "\\t" : std::string(1, c);
  }
  return text + "\"";
}

std::string Options::config_text() const {
  std::string text = "# " + tool_ + ": name = value # where the value comes from\n";
  for (const auto& option : all()) {
    if (option->hidden || is_about_config(*option)) continue;
    std::string line = option->name + " = " + (option->repeated ? option->get() : config_quoted(option->get()));
    line.resize(std::max<std::size_t>(line.size(), 40), ' ');
    text += line + " # " + name_of(option->origin) + "\n";
  }
  return text;
}

}  // namespace moe
