// A learning rate in phases: "constant@10T,cosine:0.1@14.3T,constant@14.633T,constant:0.033". Levels are fractions of the
// highest learning rate. Not here: the warm-up, which multiplies it (schedule.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/value_schedule.h"

namespace moe {

class LrPhases {
 public:
  static LrPhases parse(const std::string& text);  // "": no phases. Error(kUsage) saying what was expected
  std::string text() const;
  bool empty() const { return phases_.empty(); }
  bool has_tokens() const;  // some phase ends at a number of tokens: the tokens of the whole run must be known

  // Behind the end of the last phase its level stays.
  double factor(const RunPoint& at) const;

 private:
  enum class Shape : std::uint8_t { kConstant, kCosine, kLinear };  // kConstant: at its level at once
  struct Phase {
    Shape shape;
    std::optional<double> level;  // where it ends; none: of a constant, where the one before ended (at first 1)
    std::optional<RunMark> end;   // none: of the last one, the end of the run
  };
  static Phase parse_phase(const std::string& text);
  std::vector<Phase> phases_;
};

}  // namespace moe
