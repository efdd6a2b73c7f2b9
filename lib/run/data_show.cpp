// moe-data show: what a token file (or a text file, as bytes) holds.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "lib/io/h5.h"
#include "lib/io/manifest.h"
#include "lib/run/data_output.h"

namespace moe {
namespace {

std::vector<std::int64_t> count_tokens(const TokenSource& source) {
  std::vector<std::int64_t> count_V(static_cast<std::size_t>(source.info().vocab_size), 0);
  std::vector<std::int32_t> ids;
  for (std::int64_t at = 0; at < source.info().num_tokens; at += static_cast<std::int64_t>(ids.size())) {
    ids.resize(static_cast<std::size_t>(std::min<std::int64_t>(1 << 18, source.info().num_tokens - at)));
    source.read(at, ids);
    for (const std::int32_t id : ids) ++count_V[static_cast<std::size_t>(id)];
  }
  return count_V;
}

// -sum p ln p: the loss of a model that knows nothing but how often each token occurs.
double entropy_nats(const std::vector<std::int64_t>& count_V) {
  const auto total = static_cast<double>(std::accumulate(count_V.begin(), count_V.end(), std::int64_t{0}));
  double h = 0;
  for (const std::int64_t c : count_V)
    if (c > 0) h -= static_cast<double>(c) / total * std::log(static_cast<double>(c) / total);
  return h;
}

std::vector<std::int32_t> most_frequent(const std::vector<std::int64_t>& count_V, std::size_t n) {
  std::vector<std::int32_t> ids(count_V.size());
  std::iota(ids.begin(), ids.end(), 0);
  n = std::min(n, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n), ids.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      const std::int64_t x = count_V[static_cast<std::size_t>(a)], y = count_V[static_cast<std::size_t>(b)];
                      return x != y ? x > y : a < b;
                    });
  ids.resize(n);
  std::erase_if(ids, [&](std::int32_t id) { return count_V[static_cast<std::size_t>(id)] == 0; });
  return ids;
}

std::string row(const char* name, const std::string& value) {
  std::string label = name;
  label.resize(18, ' ');
  return label + value + "\n";
}

std::string table_of(const TokenFileInfo& info, double entropy, const nlohmann::json& top,
                     const nlohmann::json& provenance) {
  char nats[64];
  std::snprintf(nats, sizeof nats, "%.4f nats per token", entropy);
  std::string table = row("file", info.path) + row("tokens", std::to_string(info.num_tokens)) +
                      row("documents", std::to_string(info.num_documents)) +
                      row("vocabulary", std::to_string(info.vocab_size)) + row("tokenizer", info.tokenizer) +
                      row("text bytes", info.num_bytes > 0 ? std::to_string(info.num_bytes) : "unknown") +
                      row("unigram entropy", nats) + row("fingerprint", info.fingerprint);
  for (const auto& t : top) {
    char line[64];
    std::snprintf(line, sizeof line, "%7d %12lld %6.2f %%  ", t["id"].get<int>(), t["count"].get<long long>(),
                  100 * t["count"].get<double>() / static_cast<double>(info.num_tokens));
    table +=
        row(&t == &top[0] ? "frequent tokens" : "", line + (t.contains("text") ? quoted(t["text"].get<std::string>()) : ""));
  }
  for (const auto& entry : provenance)
    table += row("made by", entry.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  return table;
}

}  // namespace

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    char code[8];
    std::snprintf(code, sizeof code, "\\x%02x", u);
    out += c == '\n'                                              ? "\\n"
           : c == '\t'                                            ? "\\t"
           : u < 32 || u == 127 || (u >= 128 && text.size() == 1) ? code
                                                                  : std::string(1, c);
  }
  return out + "'";
}

Exit data_show(const CommonOptions& common, const std::string& path) {
  const TokenSource source = TokenSource::open(path);
  const TokenFileInfo& info = source.info();
  const std::vector<std::int64_t> count_V = count_tokens(source);
  const std::unique_ptr<Tokenizer> tokenizer = restore_tokenizer(info.tokenizer, info.tokenizer_model);
  nlohmann::json top = nlohmann::json::array(), provenance = nlohmann::json::array();
  for (const std::int32_t id : most_frequent(count_V, 10)) {
    top.push_back({{"id", id}, {"count", count_V[static_cast<std::size_t>(id)]}});
    if (tokenizer) top.back()["text"] = tokenizer->decode({&id, 1});
  }
  if (has_h5_signature(path))
    provenance = parse_strict_json(H5Reader(path, kTokenFileKind, kTokenFileVersion).read_text("provenance", 1 << 26), path);
  const double entropy = entropy_nats(count_V);
  nlohmann::json result = to_json(info);
  result["unigram_entropy_nats"] = entropy;
  result["frequent_tokens"] = top;
  result["provenance"] = provenance;
  print_result(common, result, table_of(info, entropy, top, provenance));
  return Exit::kOk;
}

}  // namespace moe
