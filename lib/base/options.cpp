// The list of options and the order in which its values are found. Not here: conversions (options_fields.cpp), the
// configuration file (options_config_file.cpp), the environment (options_environment.cpp), what is printed
// (options_help.cpp, options_man.cpp, options_completion.cpp). The only file that knows CLI11.
#include "lib/base/options.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/options_parts.h"
#include "lib/base/provenance.h"

namespace moe {

const char* name_of(Origin origin) {
  static constexpr const char* kNames[] = {"default", "preset", "checkpoint", "config file", "environment", "command line"};
  return kNames[static_cast<int>(origin)];
}

Options::Options(std::string tool, std::string summary, std::vector<std::string> examples)
    : tool_(std::move(tool)), summary_(std::move(summary)), group_("Options"), examples_(std::move(examples)) {}

void Options::group(std::string title) { group_ = std::move(title); }

Option& Options::add_option(const std::string& name, const std::string& help) {
  if (find_option(*this, name)) throw std::logic_error("option " + name + " added twice");
  Option option;
  option.name = name;
  option.help = help;
  option.group = group_;
  if (name == "output") option.letter = 'o';
  return *options_.emplace_back(std::make_unique<Option>(std::move(option)));
}

const Option& Options::find(const std::string& name) const {
  if (const Option* option = find_option(*this, name)) return *option;
  const std::string near = did_you_mean(name, names_of(*this));
  throw Error(Exit::kUsage, "unknown option " + name + (near.empty() ? "" : "; " + near));
}

void Options::set(const std::string& name, const std::vector<std::string>& values, Origin origin) {
  find(name);
  assign(*find_option(*this, name), values, origin, name);
}

bool Options::is_set(const std::string& name) const { return find(name).origin != Origin::kDefault; }

nlohmann::json Options::to_json() const {
  nlohmann::json json = nlohmann::json::object();
  for (const auto& option : options_)
    if (!is_about_config(*option)) json[option->name] = option->get();
  return json;
}

namespace {

struct CommandLine {
  bool help = false, version = false;
  std::vector<Setting> settings;
};

// What CLI11 knows of one option. `off` is the --no-x of a flag.
struct Bound {
  Option* option;
  CLI::Option* on;
  CLI::Option* off;
};

Bound bind(CLI::App& app, Option& option) {
  const std::string letter = option.letter ? std::string("-") + option.letter + "," : "";
  if (is_flag(option)) return {&option, app.add_flag(letter + spelled(option)), app.add_flag("--no-" + option.name)};
  const auto keep = [](const CLI::results_t&) { return true; };
  CLI::Option* on = app.add_option(letter + spelled(option), keep);
  return {&option, on->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll), nullptr};
}

// A word that is an option is no value: --data --steps 3 lacks the file.
void refuse_missing_value(const Options& options, const Option& option, const std::vector<std::string>& values) {
  for (const std::string& value : values) {
    if (value.rfind("--", 0) != 0 || !find_option(options, value.substr(2))) continue;
    throw Error(Exit::kUsage, spelled(option) + ": expected " + option.value + ", found the option " + value);
  }
}

void take(const Options& options, const Bound& bound, std::vector<Setting>& settings) {
  const std::size_t times = bound.on->count() + (bound.off ? bound.off->count() : 0);
  if (times == 0) return;
  Option& option = *bound.option;
  if (times > 1 && !option.repeated)
    throw Error(Exit::kUsage, spelled(option) + ": expected once, found " + std::to_string(times) + " times");
  std::vector<std::string> values =
      bound.off ? std::vector<std::string>{bound.on->count() ? "true" : "false"} : bound.on->results();
  if (!bound.off) refuse_missing_value(options, option, values);
  settings.push_back({&option, std::move(values), spelled(option)});
}

// Words that are no options, in order: each positional option takes one, a repeated one the rest.
void take_positional(const Options& options, const std::vector<std::string>& words, std::vector<Setting>& settings) {
  auto next = words.begin();
  for (const auto& option : options.all()) {
    if (!option->positional || next == words.end()) continue;
    const auto end = option->repeated ? words.end() : next + 1;
    settings.push_back({option.get(), {next, end}, spelled(*option)});
    next = end;
  }
  if (next != words.end())
    throw Error(Exit::kUsage, "unexpected argument \"" + *next + "\"", options.tool() + " --help shows what is expected");
}

[[noreturn]] void refuse_unknown(const Options& options, const std::string& word) {
  const std::string typed = word.substr(0, word.find('='));
  std::vector<std::string> names{"help", "version"};
  for (const auto& option : options.all()) {
    if (option->positional || option->hidden) continue;
    names.push_back(option->name);
    if (is_flag(*option)) names.push_back("no-" + option->name);
  }
  const std::string name = typed.substr(std::min(typed.find_first_not_of('-'), typed.size()));
  const std::string near = did_you_mean(name, names, "--");
  throw Error(Exit::kUsage, "unknown option " + typed + (near.empty() ? "" : "; " + near),
              options.tool() + " --help lists all options");
}

// --force=1 is refused: a flag is there or not, and --no-force is the other way to say it.
void refuse_flag_value(const Options& options, const std::string& word) {
  const std::string typed = word.substr(0, word.find('='));
  for (const auto& option : options.all()) {
    if (!is_flag(*option) || typed == word || (typed != spelled(*option) && typed != "--no-" + option->name)) continue;
    throw Error(Exit::kUsage, typed + ": expected no value, found \"" + word + "\"",
                "write --" + option->name + " or --no-" + option->name);
  }
}

// CLI11 would take the next word for the value of --data= and ---data for a file.
void refuse_malformed(const Options& options, const std::string& word) {
  if (word.rfind("---", 0) == 0 && word.find_first_not_of('-') != std::string::npos) refuse_unknown(options, word);
  if (word.size() < 4 || word.back() != '=' || word.find('=') + 1 != word.size()) return;
  const Option* option = find_option(options, word.substr(2, word.size() - 3));
  if (!option || option->positional || word.rfind("--", 0) != 0) return;
  throw Error(Exit::kUsage, spelled(*option) + ": expected " + option->value + " after =, found nothing",
              "write " + spelled(*option) + " \"\" for an empty value");
}

// Before CLI11 sees them: dashes that word processors make of --, and an option that ends the line without its value.
void refuse_words(const Options& options, int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--") break;
    refuse_flag_value(options, word);
    refuse_malformed(options, word);
    if (foreign_dash_bytes(word, 0) == 0) continue;
    throw Error(Exit::kUsage, "argument \"" + word + "\" begins with a dash that is not the ASCII character -",
                "type the dashes by hand");
  }
  const std::string last = argc > 1 ? argv[argc - 1] : "";
  for (const auto& option : options.all()) {
    const bool named = last == spelled(*option) || (option->letter && last == std::string("-") + option->letter);
    const bool is_value = argc > 2 && std::string(argv[argc - 2]) == "--";
    if (!named || is_value || is_flag(*option) || option->positional) continue;
    throw Error(Exit::kUsage, last + ": expected " + option->value + ", found the end of the command line");
  }
}

CommandLine read_command_line(const Options& options, int argc, const char* const* argv) {
  refuse_words(options, argc, argv);
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  app.option_defaults()->disable_flag_override();
  const CLI::Option* help = app.add_flag("-h,--help");
  const CLI::Option* version = app.add_flag("--version");
  std::vector<std::string> words;
  app.add_option("words", words);
  std::vector<Bound> bounds;
  for (const auto& option : options.all())
    if (!option->positional) bounds.push_back(bind(app, *option));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    throw Error(Exit::kUsage, error.what(), options.tool() + " --help lists all options");
  }
  CommandLine line{help->count() > 0, version->count() > 0, {}};
  if (line.help || line.version) return line;
  for (const std::string& word : app.remaining())
    if (word != "--") refuse_unknown(options, word);
  for (const Bound& bound : bounds) take(options, bound, line.settings);
  take_positional(options, words, line.settings);
  return line;
}

// --config names the file, else MOE_CONFIG; "" if there is none.
std::string config_path(const std::vector<Setting>& command_line, const std::vector<Setting>& environment) {
  for (const auto* settings : {&command_line, &environment})
    for (const Setting& setting : *settings)
      if (setting.option->name == "config") return setting.values.front();
  return "";
}

void assign_all(const std::vector<Setting>& settings, Origin origin) {
  for (const Setting& s : settings) assign(*s.option, s.values, origin, s.where);
}

void refuse_unset(const Options& options) {
  const Option* print = find_option(options, "print-config");
  if (print && print->get() == "true") return;
  for (const auto& option : options.all()) {
    if (!option->needed || option->origin != Origin::kDefault) continue;
    const std::string what = option->positional ? spelled(*option) : spelled(*option) + " " + option->value;
    throw Error(Exit::kUsage, what + " is missing: " + option->help, options.tool() + " --help shows examples");
  }
}

}  // namespace

bool Options::parse(int argc, const char* const* argv) {
  const CommandLine line = read_command_line(*this, argc, argv);
  if (line.help || line.version) {
    const std::string text = line.help ? help() : version_report(tool_);
    std::fwrite(text.data(), 1, text.size(), stdout);
    return false;
  }
  const std::vector<Setting> environment = read_environment(*this);
  const std::string path = config_path(line.settings, environment);
  if (!path.empty()) assign_all(read_config_file(path, *this), Origin::kConfigFile);
  assign_all(environment, Origin::kEnvironment);
  assign_all(line.settings, Origin::kCommandLine);
  if (after_parse_) after_parse_(*this);
  refuse_unset(*this);
  return true;
}

}  // namespace moe
