// Stands in for <nccl.h>: groups of ranks that are threads of one process and share the device of cuda_runtime.h. It is
// stricter than NCCL where callers could come to rely on luck (nccl.cpp):
//   - a group's messages enter the stream only when ncclCommGetAsyncError says that it is no longer in progress
//   - a send ends when its receive has come, never before; sizes that differ are an asynchronous error
// The environment lets it fail (tests/nccl_comm_test.cpp):
//   MOE_NCCL_ON_HOST_FAIL_AT=N      the N-th group of a communicator (1, 2, ...) moves nothing, and is a remote error
//   MOE_NCCL_ON_HOST_ABORT_HANGS=1  ncclCommAbort does not return
#pragma once

#include <cstddef>

#include "tests/cuda_on_host/cuda_runtime.h"

#define MOE_NCCL_NAME "libmoe_cuda_on_host.so"  // this library: it is loaded already

extern "C" {

struct nccl_on_host;
using ncclComm_t = nccl_on_host*;
struct ncclUniqueId {
  char internal[128];
};
enum ncclResult_t { ncclSuccess = 0, ncclInternalError = 3, ncclInvalidUsage = 5, ncclRemoteError = 6, ncclInProgress = 7 };
enum ncclDataType_t { ncclInt8 = 0 };
struct ncclConfig_t {
  int blocking;
};
#define NCCL_CONFIG_INITIALIZER \
  { -1 }

ncclResult_t ncclGetVersion(int* version);
ncclResult_t ncclGetUniqueId(ncclUniqueId* id);
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config);
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state);
ncclResult_t ncclCommFinalize(ncclComm_t comm);
ncclResult_t ncclCommDestroy(ncclComm_t comm);
ncclResult_t ncclCommAbort(ncclComm_t comm);
const char* ncclGetErrorString(ncclResult_t result);
const char* ncclGetLastError(ncclComm_t comm);
ncclResult_t ncclGroupStart();
ncclResult_t ncclGroupEnd();
ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream);
ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream);

}  // extern "C"
