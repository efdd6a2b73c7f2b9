// What a device other than the host reaches: the ceilings that percentages refer to. Not here: those of the host
// (bench_measure.h, peak.h).
#pragma once

#include "lib/model/block.h"
#include "lib/run/bench_table.h"

namespace moe {

struct DeviceGemm {
  double gflops = 0;
  int n = 0;
};
// Our own product of n^3 random elements of `dtype`, n = 64, 128, ... up to `largest` or until one takes 20 ms.
DeviceGemm measure_device_gemm(Env env, DType dtype, int largest);
// Our own product of 8192^3 random elements of `dtype`, and a copy of 1 GiB inside the device's memory; less of both where
// the device is slow or small. Error(kCheckFailed) if the copy is wrong.
Peaks measure_device_peaks(Env env, DType dtype);
// GB/s of that copy alone, bytes read and bytes written both counted.
double measure_device_copy(Stream& stream);

}  // namespace moe
