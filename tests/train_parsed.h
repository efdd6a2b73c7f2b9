// The options of moe-train as a command line gives them.
#pragma once

#include <string>
#include <vector>

#include "lib/run/train_options.h"

namespace moe {

struct Parsed {
  TrainOptions train;
  explicit Parsed(std::vector<std::string> words) {
    Options options = train_options(train);
    std::vector<char*> argv;
    words.insert(words.begin(), "moe-train");
    for (std::string& w : words) argv.push_back(w.data());
    options.parse(static_cast<int>(argv.size()), argv.data());
  }
};

}  // namespace moe
