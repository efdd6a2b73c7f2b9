// Planned faults of the file layer (MOE_FAULT, see files.h). Only files.cpp calls this.
#pragma once

namespace moe {

// Called before each file operation. Returns 0, or the errno that the operation shall fail with; or does not return.
int planned_fault(const char* operation);

}  // namespace moe
