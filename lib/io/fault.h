// Planned faults of the file layer (MOE_FAULT, see files.h). Only the file layer calls planned_fault. Not here: what a
// fault leaves behind (tests/fault_loop_test.cpp).
#pragma once

#include <string>

namespace moe {

struct Fault {
  int error = 0;            // errno that the operation shall fail with; 0: none
  bool part_of_it = false;  // a write shall write half of its bytes before it fails
};

// Called before each file operation. Waits, or does not return, if that is what is planned.
Fault planned_fault(const char* operation, const std::string& path);

// File operations of this thread are those of `rank` from now on. Without it they are those of the rank that the launcher
// made of this process (lib/base/launcher.h), or of rank 0. For ranks that are threads.
void set_fault_rank(int rank);

}  // namespace moe
