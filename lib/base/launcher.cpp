#include "lib/base/launcher.h"

#include <cstdlib>
#include <initializer_list>

namespace moe {
namespace {

int number_in_environment(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (const char* text = std::getenv(name); text && *text) return std::atoi(text);
  return -1;
}

}  // namespace

int launched_size() { return number_in_environment({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_NRANKS"}); }
int launched_rank() { return number_in_environment({"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MPI_RANKID"}); }
bool launched_by_mpi() { return launched_size() > 0 || launched_rank() >= 0; }

}  // namespace moe
