// How far a run is, and values that change on the way: "0.001,0@0.966" is 0.001, and 0 from 96.6 % of the run on; a point
// may also be a number of tokens: "0.3,0.1@10T". Not here: what knows how far a run is (lib/run/schedule.h).
#pragma once

#include <string>
#include <vector>

namespace moe {

struct RunPoint {
  double fraction = 0;      // of the run that is over, 0 to 1
  double tokens = 0;        // trained on so far
  double total_tokens = 0;  // of the whole run; 0: not known
};

// A point of a run as a user names it: a fraction of it, or tokens with a unit (K, M, B or T: powers of 1000).
struct RunMark {
  double value = 0;
  bool in_tokens = false;

  static RunMark parse(const std::string& text);  // Error(kUsage) saying what was expected
  std::string text() const;
  bool reached(const RunPoint& at) const { return in_tokens ? at.tokens >= value : at.fraction >= value; }
  // A mark in tokens needs total_tokens.
  double fraction_of(const RunPoint& at) const { return in_tokens ? value / at.total_tokens : value; }
};

class ValueSchedule {
 public:
  ValueSchedule(float value = 0) : first_(value) {}     // NOLINT: a value that stays is a schedule too
  static ValueSchedule parse(const std::string& text);  // Error(kUsage) saying what was expected
  std::string text() const;

  float at(const RunPoint& point) const;  // the last value whose mark is reached
  float least() const;                    // of all values
  float most() const;

 private:
  struct Change {
    RunMark from;
    float value;
  };
  float first_;
  std::vector<Change> changes_;  // by their marks, as given
};

// The whole text as a number; Error(kUsage) "expected WHAT, found ...".
double number_in(const std::string& text, const std::string& what);

}  // namespace moe
