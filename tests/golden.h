// Reader of tests/golden/*.golden: what an independent framework says about tiny models. The format, the names of the
// tensors and how they were made: scripts/golden/make_golden.py. Not here: comparisons (golden_reference_test.cpp and
// the tests of the model).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lib/model/config.h"

namespace moe {

struct GoldenTensor {
  std::vector<std::int64_t> dims;
  std::vector<double> values;  // row-major; exact for every stored type
};

struct Golden {
  std::string name;                             // "mixtral"
  std::map<std::string, std::string> settings;  // "loss.aux" -> "0.02"
  std::map<std::string, GoldenTensor> tensors;

  ModelConfig config() const;                   // from the settings model.*; throws unless every field is given
  double number(const std::string& key) const;  // a setting
  int integer(const std::string& key) const { return static_cast<int>(number(key)); }

  bool has(const std::string& tensor) const { return tensors.contains(tensor); }
  // Tensors whose names begin with the prefix, by the rest of their names: all("weight/").
  std::map<std::string, GoldenTensor> all(const std::string& prefix) const;
  const std::vector<double>& values(const std::string& tensor) const;  // throws where there is none
  std::vector<float> floats(const std::string& tensor) const;
  std::vector<std::int32_t> ints(const std::string& tensor) const;
  // Part `step` of "step/<tensor>", such as "tokens"; empty where there is none ("doc_start" without documents).
  std::vector<std::int32_t> step_ints(const std::string& tensor, int step) const;
};

Golden read_golden(const std::string& path);
// Names of the files in a directory without ".golden", sorted.
std::vector<std::string> golden_names(const std::string& directory);

}  // namespace moe
