// Which kernels the tests of kernels judge: those of this processor, or with MOE_TEST_KERNELS=cuda those of the CUDA plugin.
// Then memory of operator new is memory that the device and the host share (managed_memory.cpp), so that the tests need not
// know; CUDA_LAUNCH_BLOCKING=1 makes each call wait.
#pragma once

#include <vector>

#include "kernels/kernels.h"

namespace moe {

bool tests_cuda();
bool on_host();  // those of CUDA in the stand-in for machines without a GPU: a thousand times slower
const Device& kernel_device();
std::vector<const Kernels*> all_isas();
const Kernels& device_kernels();  // of kernel_device(): what models under test run on

}  // namespace moe
