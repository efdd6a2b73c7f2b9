// The man page of a tool, section 1, made from its list of options. The formats of files are in man/moe-files.5, which is
// written by hand.
#include <utility>

#include "lib/base/options_parts.h"
#include "lib/base/provenance.h"

namespace moe {
namespace {

// Text that troff prints as it stands: hyphens that can be copied, no escapes, no line taken for a request.
std::string troff(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool starts_line = out.empty() || out.back() == '\n';
    if (starts_line && (c == '.' || c == '\'')) out += "\\&";
    if (c == '-')
      out += "\\-";
    else if (c == '\\')
      out += "\\e";
    else if (c == '~')
      out += "\\(ti";
    else if (c == '^')
      out += "\\(ha";
    else if (c == '\'')
      out += "\\(aq";
    else if (c == '`')
      out += "\\(ga";
    else
      out += c;
  }
  return out;
}

std::string bold(const std::string& text) { return "\\fB" + troff(text) + "\\fR"; }
std::string italic(const std::string& text) { return "\\fI" + troff(text) + "\\fR"; }
std::string section(const std::string& title) { return ".SH " + title + "\n"; }
std::string tagged(const std::string& tag, const std::string& body) { return ".TP\n" + tag + "\n" + body + "\n"; }

std::string tag_of(const Option& option) {
  if (option.positional) return italic(spelled(option)) + (option.repeated ? "..." : "");
  std::string tag = option.letter ? bold(std::string("-") + option.letter) + ", " : "";
  tag += bold(spelled(option));
  if (is_flag(option)) return tag + ", " + bold("--no-" + option.name);
  return tag + " " + italic(placeholder(option)) + (option.repeated ? " (may be given several times)" : "");
}

std::string body_of(const Option& option) {
  std::string body = troff(option.help) + ".";
  if (lists_choices(option)) body += " One of " + troff(joined(option.choices, ", ")) + ".";
  if (option.needed) body += " Needed.";
  if (!option.needed && !option.default_text.empty()) body += " Default: " + troff(option.default_text) + ".";
  return body;
}

// The one list of exit codes for people; error.h is the one for programs.
const std::pair<const char*, const char*> kExitCodes[] = {
    {"0", "success"},
    {"1", "internal error, or out of memory"},
    {"2", "usage: command line, environment or configuration file"},
    {"3", "a check that was asked for said no"},
    {"65", "an input file is not what it should be"},
    {"66", "an input file is missing"},
    {"69", "a device or library is not available"},
    {"73", "output exists already or cannot be created"},
    {"74", "reading or writing failed"},
    {"75", "stopped early with a saved checkpoint: run again to go on"},
    {"76", "loss or gradient not finite"},
    {"124", "something hung, and the watchdog ended it"},
};

std::string environment_section(const std::string& tool) {
  return section("ENVIRONMENT") +
         tagged(bold("MOE_") + italic("NAME"),
                "The option " + bold("--name") +
                    ", with _ for each \\-; values of a repeated option are separated by commas. A "
                    "variable that is empty counts as not set, and one that looks like a misspelt option is an error.") +
         tagged(bold("MOE_ISA"),
                "Instruction set of the CPU kernels: amx, avx512, avx2 or generic. Default: the widest there is.") +
         tagged(bold("NO_COLOR"), "If set and not empty, no colour.") +
         ".PP\nWhat wins, strongest first: command line, environment, " + "file of " + bold("--config") +
         ", checkpoint, preset, default. " + bold(tool + " --print-config") +
         " shows every value and where it comes from.\n";
}

std::string files_section() {
  return section("FILES") + "A file for " + bold("--config") +
         " has lines \"name = value\". A # after a space starts a comment. A value in double quotes is kept as it is; in it "
         "\\e\" \\e\\e \\en \\et stand for quote, backslash, new line and tab. Values of a repeated option are separated by "
         "commas.\n.PP\nThe formats of all other files are in " +
         bold("moe-files") + "(5).\n";
}

}  // namespace

std::string Options::man_page() const {
  std::string page = ".TH " + troff(spelled({.name = tool_, .positional = true})) + " 1 \"\" \"moe " + version_text() +
                     "\" \"User Commands\"\n.nh\n.ad l\n";
  page += section("NAME") + troff(tool_) + " \\- " + troff(summary_) + "\n";
  page += section("SYNOPSIS") + bold(tool_) + " " + troff(synopsis_of(*this)) + "\n";
  page += section("DESCRIPTION") + bold(tool_) + ": " + troff(summary_) + ".\n.PP\n" +
          "Results go to standard output; log and progress go to standard error.\n" + section("OPTIONS");
  for (const std::string& title : groups_of(*this)) {
    page += ".SS " + troff(title) + "\n";
    for (const auto& option : options_)
      if (!option->hidden && option->group == title) page += tagged(tag_of(*option), body_of(*option));
  }
  page += ".SS Help\n" + tagged(bold("-h") + ", " + bold("--help"), "Print the options and examples.") +
          tagged(bold("--version"), "Print the version, the commit and the versions of libraries.");
  page += environment_section(tool_) + section("EXIT STATUS");
  for (const auto& [code, meaning] : kExitCodes) page += tagged(bold(code), troff(meaning));
  page += files_section() + section("EXAMPLES");
  for (const std::string& example : examples_) page += ".PP\n.EX\n" + troff(example) + "\n.EE\n";
  page += section("SEE ALSO");
  std::string names;
  for (const std::string other : {"moe-bench", "moe-data", "moe-eval", "moe-place", "moe-reshard", "moe-train"})
    if (other != tool_) names += bold(other) + "(1), ";
  return page + names + bold("moe-files") + "(5)\n";
}

}  // namespace moe
