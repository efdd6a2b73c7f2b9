// The options of a tool that does nothing, for the tests of lib/base and tool_main: every type of field, both kinds of
// positional options. With it: a file and an environment variable that go away by themselves.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "lib/base/common_options.h"
#include "lib/base/error.h"

namespace moe {

enum class Command { kEncode, kShow };

struct Tool {
  Options options{"moe-x", "tries the options", {"moe-x show a.txt", "moe-x encode a.txt -o out --lr 3e-4"}};
  CommonOptions common;
  Command command = Command::kShow;
  std::vector<std::string> inputs, tags;
  std::string output, sample;
  int steps = 100;
  std::int64_t tokens = 0;
  double lr = 1e-3;
  float eps = 1e-5f;
  bool tied = true;

  Tool() {
    Option& what = options.add("command", command, "what to do", {"encode", "show"});
    what.positional = what.needed = true;
    options.add("inputs", inputs, "text files").positional = true;
    options.group("Training");
    options.add("output", output, "where to write").value = "DIR";
    options.add("steps", steps, "number of steps");
    options.add("tokens", tokens, "number of tokens");
    options.add("lr", lr, "peak learning rate");
    options.add("eps", eps,
                "epsilon of the norms; it's added under the root, and this sentence is so long that it must be broken");
    options.add("tied", tied, "one matrix for both embeddings");
    options.add("sample", sample, "prompt to go on from");
    options.add("tag", tags, "words kept with the run");
    add_common_options(options, common);
  }

  bool parse(const std::vector<std::string>& words) {
    std::vector<const char*> argv{"moe-x"};
    for (const std::string& word : words) argv.push_back(word.c_str());
    return options.parse(static_cast<int>(argv.size()), argv.data());
  }

  // The message of the usage error that these words are; "" if they are none.
  std::string error_of(const std::vector<std::string>& words) {
    try {
      parse(words);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::kUsage);
      return error.what();
    }
    return "";
  }
};

class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

class TextFile {
 public:
  explicit TextFile(const std::string& text) {
    static int number = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("moe_test_" + std::to_string(getpid()) + "_" + std::to_string(++number) + ".conf");
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TextFile() { std::filesystem::remove(path_); }
  TextFile(const TextFile&) = delete;
  TextFile& operator=(const TextFile&) = delete;
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace moe
