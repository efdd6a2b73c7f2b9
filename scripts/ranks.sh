#!/usr/bin/env bash
# Sourced by the scripts that start a command on several ranks of this machine. Not here: jobs on several hosts (README.md).

# The words of $MPIEXEC if it is set, else the launcher of the MPI that the build found (OpenMPI's or MPICH's), else mpirun.
rank_launcher() {
  local found=
  [ ! -e build/CMakeCache.txt ] || found=$(sed -n 's/^MPIEXEC_EXECUTABLE:[A-Z]*=//p' build/CMakeCache.txt)
  echo "${MPIEXEC:-${found:-mpirun}}"
}

# N COMMAND...: replaces this shell by the launcher, so that the process id of a subshell that calls it is the launcher's.
exec_ranks() {
  local ranks=$1 launcher
  shift
  read -ra launcher < <(rank_launcher)
  if ! command -v "${launcher[0]}" >/dev/null; then
    echo "${0##*/}: error: ${launcher[0]}: expected a launcher of MPI jobs, found no such program" >&2
    echo "  hint: run scripts/setup, or set MPIEXEC" >&2
    exit 69
  fi
  # For OpenMPI; what is set already stays. It binds each rank of a small job to one core, which holds the rank's threads down;
  # counts cores, where a rank may also have half of one; and refuses root.
  export OMPI_MCA_hwloc_base_binding_policy=${OMPI_MCA_hwloc_base_binding_policy:-none}
  export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
  if [ "$ranks" -gt "$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)" ]; then # ranks that share a processor must not spin
    export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
  fi
  if [ "$(id -u)" -eq 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
  exec "${launcher[@]}" -n "$ranks" "$@" </dev/null
}

# N COMMAND...: waits, and returns what COMMAND ended with. Ctrl-C: the launcher would kill the ranks after a second; asked with
# SIGUSR1, which it hands on, they save and stop after their step. A second Ctrl-C ends them at once.
run_ranks() {
  local job rc asked='' interrupted
  set -m # a process group of its own: the terminal's signals come here alone
  (exec_ranks "$@") &
  job=$!
  set +m
  trap 'interrupted=1; kill "-${asked:-USR1}" "$job" 2>/dev/null || true; asked=TERM' INT TERM HUP
  while :; do
    interrupted='' rc=0
    wait "$job" || rc=$?
    [ -n "$interrupted" ] || break
  done
  trap - INT TERM HUP
  return "$rc"
}
