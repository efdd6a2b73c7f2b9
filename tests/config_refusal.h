// What check_config() says of a configuration that cannot be. For tests.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "lib/base/error.h"
#include "lib/model/config.h"

namespace moe {

// "nothing" if it is not refused; else a wrong option.
inline std::string config_refusal(const ModelConfig& c) {
  try {
    check_config(c);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Exit::kUsage);
    return e.what();
  }
  return "nothing";
}

}  // namespace moe
