// Options: one list per struct. `add` names a field once; the command line (CLI11), the environment (MOE_*), the
// configuration file, --print-config, provenance, the man page and bash completion all visit that list.
// Precedence: command line > environment > configuration file > checkpoint > preset > default.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <type_traits>
#include <vector>

namespace moe {

enum class Origin { kDefault, kPreset, kCheckpoint, kConfigFile, kEnvironment, kCommandLine };
const char* name_of(Origin origin);

struct Option {
  std::string name;   // "lr": the option --lr, the environment variable MOE_LR, the key lr of a configuration file
  std::string help;   // one sentence, no full stop
  std::string group;  // heading in --help and the man page
  std::string value;  // placeholder such as INT, FLOAT, FILE, SIZE, a|b|c; empty for a flag
  std::string default_text;
  char letter = 0;                   // 'o': also -o; options named output get that one by themselves
  std::vector<std::string> choices;  // of an enum
  bool positional = false;           // IN... arguments: filled by what is not an option
  bool repeated = false;             // takes several values
  bool hidden = false;
  bool needed = false;  // usage error if nobody set it
  Origin origin = Origin::kDefault;
  // set throws Error(kUsage) saying what was expected; values of a repeated option arrive together.
  std::function<void(const std::vector<std::string>&)> set;
  std::function<std::string()> get;
};

class Options {
 public:
  // `summary`: one line for the head of --help. `examples`: command lines printed by --help and run by a test.
  Options(std::string tool, std::string summary, std::vector<std::string> examples);

  void group(std::string title);  // heading of the options added next

  // bool (flags --x and --no-x), int, std::int64_t, std::uint64_t, float, double, std::string,
  // std::vector<std::string>. The default is what the field holds now. Numbers must be whole words and finite.
  Option& add(const std::string& name, bool& field, const std::string& help);
  Option& add(const std::string& name, int& field, const std::string& help);
  Option& add(const std::string& name, std::int64_t& field, const std::string& help);
  Option& add(const std::string& name, std::uint64_t& field, const std::string& help);
  Option& add(const std::string& name, float& field, const std::string& help);
  Option& add(const std::string& name, double& field, const std::string& help);
  Option& add(const std::string& name, std::string& field, const std::string& help);
  Option& add(const std::string& name, std::vector<std::string>& field, const std::string& help);
  // An enum by the names of its values, in the order 0, 1, 2, ...
  template <class E>
  requires std::is_enum_v<E> Option& add(const std::string& name, E& field, const std::string& help,
                                         std::vector<std::string> choices) {
    return add_choice(
        name, help, std::move(choices), [&field](int i) { field = static_cast<E>(i); },
        [&field] { return static_cast<int>(field); });
  }

  // A type with a text of its own: T::parse(text), which throws Error(kUsage) saying what was expected, and text().
  template <class T>
  requires requires(const T& t, const std::string& s) { t.text(), T::parse(s); }
  Option& add(const std::string& name, T& field, const std::string& help, const std::string& placeholder) {
    return add_text(
        name, help, placeholder, [&field](const std::string& text) { field = T::parse(text); },
        [&field] { return field.text(); });
  }

  // Sets a value from a preset, checkpoint or file; the origin must be stronger than or equal to the present one to win,
  // else nothing happens. So a preset or a checkpoint may be applied after parse(): what the user said stays.
  // Unknown names throw Error(kUsage) with the nearest name.
  void set(const std::string& name, const std::vector<std::string>& values, Origin origin);

  // Reads command line, environment and --config file in the order of precedence. Unknown options, keys and
  // MOE_* variables that look like options, duplicates and bad values throw Error(kUsage) with the nearest name.
  // Returns false if --help or --version was asked for and printed. needed is not checked under --print-config.
  bool parse(int argc, const char* const* argv);

  // Called by parse() when all else is read: here a tool applies what --preset or --resume name, by set(.., kPreset) or
  // set(.., kCheckpoint), so that --print-config shows it. Optional.
  void after_parse(std::function<void(Options&)> apply) { after_parse_ = std::move(apply); }

  const std::vector<std::unique_ptr<Option>>& all() const { return options_; }
  const Option& find(const std::string& name) const;  // throws Error(kUsage) with the nearest name
  bool is_set(const std::string& name) const;         // by anything but the default
  std::string help() const;                           // --help, fits 100 columns
  std::string config_text() const;                    // --print-config: "name = value   # origin"
  nlohmann::json to_json() const;                     // name -> value text, for provenance
  std::string man_page() const;                       // troff, section 1
  std::string bash_completion() const;
  const std::string& tool() const { return tool_; }

 private:
  Option& add_option(const std::string& name, const std::string& help);
  Option& add_choice(const std::string& name, const std::string& help, std::vector<std::string> choices,
                     std::function<void(int)> set, std::function<int()> get);
  Option& add_text(const std::string& name, const std::string& help, const std::string& placeholder,
                   std::function<void(const std::string&)> set, std::function<std::string()> get);
  std::string tool_, summary_, group_;
  std::vector<std::string> examples_;
  std::function<void(Options&)> after_parse_;
  std::vector<std::unique_ptr<Option>> options_;  // pointers stay valid while options are added
};

// The name among `names` nearest to `name` by edit distance, or "" if none is near.
std::string nearest_name(const std::string& name, const std::vector<std::string>& names);

}  // namespace moe
