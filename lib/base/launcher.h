// What the environment of a process says about the job that it belongs to, before MPI starts and without it.
#pragma once

namespace moe {

// True if the environment says that a launcher (mpirun, mpiexec, srun) started this process.
bool launched_by_mpi();
// The number of ranks, or this rank, as the environment tells it; -1 if it does not.
int launched_size();
int launched_rank();

}  // namespace moe
