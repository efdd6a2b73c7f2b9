// moe-data tokenizer-check: what a tokenizer makes of texts, and whether that is right. Not here: the tokenizers
// (lib/io/tokenizer.h).
#include <algorithm>
#include <optional>

#include "lib/base/stopwatch.h"
#include "lib/io/files.h"
#include "lib/io/manifest.h"
#include "lib/run/data_output.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

constexpr std::int64_t kTextLimitBytes = std::int64_t{1} << 30;

struct CheckedText {
  std::string name, text;
  std::optional<Ids> expected;
  Ids ids;
  std::string fault;  // the first; "" = none
};

Ids ids_of(const json& list, const std::string& where) {
  Ids ids;
  if (!list.is_array()) throw Error(Exit::kBadInput, where + ": expected a list of ids, found " + list.type_name());
  for (const json& id : list) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX)
      throw Error(Exit::kBadInput, where + ": expected ids, found " + id.dump(-1, ' ', true).substr(0, 80));
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

// [ids...] for one text, [[ids...], ...] for each of them, or [{"text": ..., "ids": [...]}, ...], which adds texts.
void read_expected(const std::string& path, std::vector<CheckedText>& texts) {
  const json root = parse_strict_json(read_text_file(path, kTextLimitBytes), path);
  if (!root.is_array()) throw Error(Exit::kBadInput, path + ": expected a list, found " + root.type_name());
  if (!root.empty() && root[0].is_object()) {
    for (std::size_t i = 0; i < root.size(); ++i) {
      const std::string where = path + ": [" + std::to_string(i) + "]";
      const json& pair = root[i];
      if (!pair.is_object() || !pair.contains("text") || !pair["text"].is_string() || !pair.contains("ids"))
        throw Error(Exit::kBadInput, where + ": expected an object with text and ids");
      texts.push_back({where, pair["text"].get<std::string>(), ids_of(pair["ids"], where), {}, {}});
    }
    return;
  }
  const bool is_one = root.empty() || !root[0].is_array();
  if ((is_one ? 1 : root.size()) != texts.size())
    throw Error(Exit::kBadInput, path + ": expected ids of " + std::to_string(texts.size()) + " texts, found those of " +
                                     std::to_string(is_one ? 1 : root.size()));
  for (std::size_t i = 0; i < texts.size(); ++i) texts[i].expected = ids_of(is_one ? root : root[i], path);
}

std::string token_text(const Tokenizer& tokenizer, const Ids& ids, std::size_t i) {
  return i < ids.size() ? std::to_string(ids[i]) + " " + quoted(tokenizer.decode({&ids[i], 1})) : "the end";
}

// Where two texts begin to differ, with some of what follows.
std::string difference(std::string_view expected, std::string_view found) {
  const auto at = static_cast<std::size_t>(
      std::mismatch(expected.begin(), expected.end(), found.begin(), found.end()).first - expected.begin());
  return "byte " + std::to_string(at) + ": expected " + quoted(std::string(expected.substr(at, 24))) + ", found " +
         quoted(std::string(found.substr(std::min(at, found.size()), 24)));
}

std::string fault_of(const Tokenizer& tokenizer, const CheckedText& t) {
  for (std::size_t i = 0; i < t.ids.size(); ++i)
    if (t.ids[i] < 0 || t.ids[i] >= tokenizer.vocab_size())
      return "token " + std::to_string(i) + ": expected an id below " + std::to_string(tokenizer.vocab_size()) + ", found " +
             std::to_string(t.ids[i]);
  if (t.expected && *t.expected != t.ids) {
    const Ids& e = *t.expected;
    const auto at =
        static_cast<std::size_t>(std::mismatch(e.begin(), e.end(), t.ids.begin(), t.ids.end()).first - e.begin());
    return "token " + std::to_string(at) + ", byte " +
           std::to_string(tokenizer.decode(std::span(t.ids).first(std::min(at, t.ids.size()))).size()) + ": expected " +
           token_text(tokenizer, e, at) + ", found " + token_text(tokenizer, t.ids, at);
  }
  const std::string expected = tokenizer.normalized(t.text), found = tokenizer.decode(t.ids);
  return expected == found ? "" : "does not come back: " + difference(expected, found);
}

std::string names_of(const Tokenizer& tokenizer, const Ids& ids) {
  std::string out;
  for (std::size_t i = 0; i < ids.size(); ++i) out += (i ? ", " : "") + token_text(tokenizer, ids, i);
  return out.empty() ? "none" : out + " (not added here)";
}

json tokenizer_json(const Tokenizer& t) {
  json added = json::array();
  for (const AddedToken& a : t.added_tokens())
    added.push_back({{"id", a.id}, {"text", a.text}, {"special", a.special}, {"normalized", a.normalized}});
  return {{"name", t.name()},
          {"vocab_size", t.vocab_size()},
          {"added_tokens", added},
          {"begin_ids", t.begin_ids()},
          {"end_ids", t.end_ids()}};
}

std::string tokenizer_text(const Tokenizer& t, bool verbose) {
  const std::vector<AddedToken> added = t.added_tokens();
  const auto special = std::count_if(added.begin(), added.end(), [](const AddedToken& a) { return a.special; });
  std::string text = labelled("tokenizer", t.name()) + labelled("vocabulary", std::to_string(t.vocab_size())) +
                     labelled("added tokens", std::to_string(added.size()) + ", special: " + std::to_string(special)) +
                     labelled("before a text", names_of(t, t.begin_ids())) +
                     labelled("after a text", names_of(t, t.end_ids()));
  for (std::size_t i = 0; i < added.size() && (verbose || i < 8); ++i)
    text += labelled("", std::to_string(added[i].id) + " " + quoted(added[i].text) + (added[i].special ? " special" : ""));
  if (!verbose && added.size() > 8) text += labelled("", "... (-v for all)");
  return text;
}

}  // namespace

Exit data_tokenizer_check(const DataOptions& data, const CommonOptions& common, const std::vector<std::string>& inputs) {
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(inputs[0]);
  std::vector<CheckedText> texts;
  for (std::size_t i = 1; i < inputs.size(); ++i)
    texts.push_back({inputs[i], read_text_file(inputs[i], kTextLimitBytes), {}, {}, {}});
  if (!data.expect.empty()) read_expected(data.expect, texts);

  TextTable table({"text", ">bytes", ">tokens", ">bytes/token", ">MB/s", "result"});
  json rows = json::array();
  std::string faults;
  for (CheckedText& t : texts) {
    const Stopwatch watch;
    t.ids = tokenizer->encode(t.text);
    const double bytes = static_cast<double>(t.text.size()), seconds = watch.seconds();
    const double per_token = t.ids.empty() ? 0 : bytes / static_cast<double>(t.ids.size()), speed = bytes / seconds / 1e6;
    t.fault = fault_of(*tokenizer, t);
    if (!t.fault.empty() && faults.empty()) faults = t.name + ": " + t.fault;
    table.add({t.name, thousands(static_cast<std::int64_t>(t.text.size())),
               thousands(static_cast<std::int64_t>(t.ids.size())), short_float(per_token), short_float(speed),
               t.fault.empty() ? "ok" : "WRONG"});
    rows.push_back({{"text", t.name},
                    {"bytes", t.text.size()},
                    {"tokens", t.ids.size()},
                    {"bytes_per_token", per_token},
                    {"megabytes_per_second", speed},
                    {"compared", t.expected.has_value()},
                    {"fault", t.fault}});
  }
  const std::string verdict = faults.empty() ? "all texts come back\n" : "first difference: " + faults + "\n";
  print_result(common, {{"tokenizer", tokenizer_json(*tokenizer)}, {"texts", rows}, {"ok", faults.empty()}},
               tokenizer_text(*tokenizer, common.verbose) + table.text() + verdict);
  return faults.empty() ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
