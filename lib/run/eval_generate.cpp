#include "lib/run/eval_generate.h"

#include <algorithm>
#include <cstdio>
#include <optional>

#include "lib/base/log.h"
#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/io/files.h"
#include "lib/io/manifest.h"
#include "lib/run/eval_speculate.h"
#include "lib/run/result.h"
#include "lib/run/text_table.h"
#include "lib/run/world_text.h"

namespace moe {
namespace {

constexpr std::int64_t kPromptsLimitBytes = std::int64_t{1} << 30;

Prompt prompt_of_line(const std::string& line, const std::string& where, const GenerateOptions& o,
                      const Tokenizer& tokenizer) {
  Prompt p{.object = parse_strict_json(line, where), .text = {}, .tokens = {}};
  const std::string& field = o.prompt_field;
  if (!p.object.is_object() || !p.object.contains(field) || !p.object[field].is_string())
    throw Error(Exit::kBadInput, where + ": expected a JSON object with a text '" + field + "', found none",
                "--prompt-field names another key, --skip-bad N leaves out N lines");
  p.text = p.object[field];
  p.tokens = tokenizer.encode(p.text);
  if (p.tokens.empty())
    throw Error(Exit::kBadInput, where + ": expected a prompt of at least one token, found an empty one");
  return p;
}

// On every rank the same, read by rank 0.
Prompts read_prompts(const GenerateOptions& o, const Tokenizer& tokenizer, World& world) {
  Prompts prompts;
  if (o.prompts.empty()) {
    prompts.list.push_back({nullptr, o.prompt, tokenizer.encode(o.prompt)});
    if (prompts.list[0].tokens.empty())
      throw AgreedError(Exit::kUsage, "--prompt: expected a prompt of at least one token, found an empty one", "", 0);
    return prompts;
  }
  std::string text;
  world.agree([&] {
    if (world.rank() == 0) text = read_text_file(o.prompts, kPromptsLimitBytes);
  });
  broadcast_text(world, "prompts", text);
  world.agree([&] { prompts = parse_prompts(text, o.prompts, o, tokenizer); });
  return prompts;
}

// Tokens that a vocabulary smaller than the tokenizer's does not have; prompts longer than the window.
std::int64_t check_prompts(const Prompts& prompts, const GenerateOptions& o, const EvalModel& model) {
  std::int64_t num_cut = 0;
  model.world().agree([&] {
    for (const Prompt& p : prompts.list) {
      const std::int32_t highest = *std::max_element(p.tokens.begin(), p.tokens.end());
      if (highest >= model.config().vocab_size)
        throw Error(Exit::kBadInput, "the tokenizer of the checkpoint: expected tokens below " +
                                         std::to_string(model.config().vocab_size) + ", found " + std::to_string(highest));
      if (p.tokens.size() <= static_cast<std::size_t>(model.seq())) continue;
      ++num_cut;
      if (o.strict)
        throw Error(Exit::kBadInput,
                    "prompt " + std::to_string(&p - prompts.list.data() + 1) + ": expected at most " +
                        std::to_string(model.seq()) + " tokens, the window, found " + std::to_string(p.tokens.size()),
                    "without --strict its front is cut off; a larger --seq has room for it");
    }
  });
  return num_cut;
}

// A line for each text: its prompt's object with the completion.
std::string json_lines(const std::vector<TextWanted>& wanted, const std::vector<TextMade>& made) {
  std::string lines;
  for (std::size_t i = 0; i < made.size(); ++i) {
    nlohmann::json object = wanted[i].prompt->object;
    object["completion"] = made[i].text;
    if (wanted.back().sample > 0) object["sample"] = wanted[i].sample;
    lines += object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  return lines;
}

// For --prompt: the prompt and what follows, several apart from each other.
std::string plain_text(const std::vector<TextWanted>& wanted, const std::vector<TextMade>& made) {
  std::string text;
  for (std::size_t i = 0; i < made.size(); ++i)
    text += (i > 0 ? "\n---- " + std::to_string(i + 1) + "\n" : "") + wanted[i].prompt->text + made[i].text + "\n";
  return text;
}

nlohmann::json texts_json(const std::vector<TextWanted>& wanted, const std::vector<TextMade>& made) {
  nlohmann::json list = nlohmann::json::array();
  for (std::size_t i = 0; i < made.size(); ++i)
    list.push_back({{"prompt", wanted[i].number},
                    {"sample", wanted[i].sample},
                    {"completion", made[i].text},
                    {"tokens", made[i].tokens},
                    {"stopped", made[i].stopped}});
  return list;
}

}  // namespace

void add_generate_options(Options& o, GenerateOptions& g) {
  o.group("Generation");
  o.add("prompt", g.prompt, "text to continue").value = "TEXT";
  o.add("prompts", g.prompts, "texts to continue, an object of JSON a line; -o gets the objects with a completion each")
      .value = "FILE.jsonl";
  o.add("prompt-field", g.prompt_field, "key of the text in these objects").value = "NAME";
  o.add("tokens", g.tokens,
        "most tokens of a continuation; a text that fills the window (--seq) goes on from the second half of it");
  o.add("samples", g.samples, "continuations of each prompt");
  o.add("temperature", g.sampling.temperature, "logits are divided by it; 0 takes the likeliest token");
  o.add("top-k", g.sampling.top_k, "of the so many likeliest tokens only; 0 of all");
  o.add("top-p", g.sampling.top_p, "of the fewest likeliest tokens that together have this probability");
  o.add("speculate", g.speculate,
        "try drafts of the model's multi-token prediction modules: the same greedy texts and the same distribution in fewer "
        "passes; tells how many drafts stand, and the speed-up over the first --batch texts, which are made both ways");
  o.add("drafts", g.drafts,
        "of a pass of --speculate, at most; 0: as many as modules; the last module goes on where they are fewer");
  o.add("stop", g.stop, "text that ends a continuation and is no part of it").value = "TEXT";
}

void check_generate_options(const Options& o, const GenerateOptions& g) {
  const auto need = [&](bool ok, const char* option, const char* expected) {
    if (!ok)
      throw Error(Exit::kUsage, std::string("--") + option + ": expected " + expected + ", found " + o.find(option).get());
  };
  need(g.tokens >= 1, "tokens", "at least 1");
  need(g.samples >= 1, "samples", "at least 1");
  need(g.sampling.temperature >= 0, "temperature", "at least 0");
  need(g.sampling.top_k >= 0, "top-k", "at least 1, or 0 for all");
  need(g.sampling.top_p > 0 && g.sampling.top_p <= 1, "top-p", "above 0 up to 1");
  constexpr int kMostDrafts = 15;  // a text with them fits into kFewRows
  need(g.drafts >= 0 && g.drafts <= kMostDrafts, "drafts", "1 to 15, or 0 for as many as modules");
  if (g.drafts > 0 && !g.speculate) throw Error(Exit::kUsage, "--drafts: expected --speculate with it, found none");
  for (const std::string& s : g.stop) need(!s.empty(), "stop", "texts that are not empty");
}

Prompts parse_prompts(const std::string& text, const std::string& path, const GenerateOptions& o,
                      const Tokenizer& tokenizer) {
  Prompts prompts;
  std::int64_t number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      prompts.list.push_back(prompt_of_line(line, path + ":" + std::to_string(number), o, tokenizer));
    } catch (const Error& e) {
      if (++prompts.num_bad > o.skip_bad) throw;
    }
  }
  if (prompts.list.empty()) throw Error(Exit::kBadInput, path + ": expected prompts, found none");
  return prompts;
}

Exit eval_generate(const std::string& path, const GenerateOptions& o, const EvalModelOptions& model_options,
                   const CommonOptions& common, World& world, Env env) {
  if (o.prompt.empty() == o.prompts.empty())
    throw AgreedError(
        Exit::kUsage,
        "generate: expected either --prompt or --prompts, found " + std::string(o.prompt.empty() ? "none" : "both"), "", 0);
  std::optional<PendingFile> out;
  world.agree([&] {
    if (world.rank() == 0 && !o.output.empty()) out.emplace(o.output, common.force);
  });
  EvalModel model(path, model_options, world, env, modules_for_drafts(o));
  world.agree([&] { check_can_draft(model, o); });
  std::unique_ptr<Tokenizer> tokenizer;
  world.agree([&] { tokenizer = model.tokenizer(); });
  const Prompts prompts = read_prompts(o, *tokenizer, world);
  const std::int64_t num_cut = check_prompts(prompts, o, model);
  std::vector<TextWanted> wanted;
  for (std::size_t i = 0; i < prompts.list.size(); ++i)
    for (int s = 0; s < o.samples; ++s) wanted.push_back({&prompts.list[i], static_cast<std::int64_t>(i), s});
  const Stopwatch watch;
  const SpeculatedTexts texts = o.speculate
                                    ? make_texts_with_drafts(model, wanted, o, common.seed, *tokenizer)
                                    : SpeculatedTexts{make_texts(model.for_texts(), wanted, o, common.seed, *tokenizer), {}};
  const std::vector<TextMade>& made = texts.made;
  const double seconds = watch.seconds() - texts.speculation.seconds_beside;
  world.agree([&] {
    if (world.rank() != 0) return;
    std::size_t num_tokens = 0;
    for (const TextMade& t : made) num_tokens += t.tokens.size();
    if (prompts.num_bad > 0) log_warning(std::to_string(prompts.num_bad) + " lines of " + o.prompts + " left out");
    if (num_cut > 0) log_warning(std::to_string(num_cut) + " prompts are longer than the window: their front is cut off");
    const std::string text = o.prompts.empty() ? plain_text(wanted, made) : json_lines(wanted, made);
    if (out) {
      write_text_file(out->temporary_path(), text);
      out->commit();
    }
    log_info(thousands(static_cast<std::int64_t>(num_tokens)) + " tokens in " + short_float(seconds) + " s, " +
             short_float(static_cast<double>(num_tokens) / seconds) + " tokens/s; cache of " +
             thousands(KvCache::bytes_per_token(model.config(), model.model().dtype())) + " bytes a token");
    if (o.speculate) log_info(texts.speculation.text());
    nlohmann::json result = {{"command", "generate"},
                             {"model", model.json()},
                             {"prompts", prompts.list.size()},
                             {"bad_lines", prompts.num_bad},
                             {"cut_prompts", num_cut},
                             {"seed", common.seed},
                             {"temperature", o.sampling.temperature},
                             {"top_k", o.sampling.top_k},
                             {"top_p", o.sampling.top_p},
                             {"tokens", num_tokens},
                             {"seconds", seconds},
                             {"tokens_per_second", static_cast<double>(num_tokens) / seconds},
                             {"kv_bytes_per_token", KvCache::bytes_per_token(model.config(), model.model().dtype())},
                             {"texts", texts_json(wanted, made)}};
    if (o.speculate) result["speculation"] = texts.speculation.json();
    print_result(common, result,
                 out ? labelled("wrote", o.output + ", " + std::to_string(made.size()) + " continuations") : text);
    if (texts.speculation.num_differing > 0)
      throw Error(Exit::kCheckFailed, "--speculate: expected the greedy texts of plain generation, found others");
  });
  return Exit::kOk;
}

}  // namespace moe
