#!/usr/bin/env bash
# label: mpi
# Ranks that are MPI processes: messages, nodes, and every way in which a job fails, by the program mpi_probe. $1: folder of
# the executables. MOE_TEST_MPIEXEC: the launcher of the MPI that was built with. As root and as anybody.
set -u
probe=$(dirname "$1")/tests/mpi_probe
launcher=${MOE_TEST_MPIEXEC:-mpirun}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# More ranks than processors, also as root: OpenMPI asks for permission.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
unset MOE_MPI_CHUNK
case $("$launcher" --version 2>&1) in
  *"Open MPI"* | *OpenRTE*) openmpi=1 ;;
  *) openmpi= ;;
esac
failures=0
fail() {
  echo "mpi_test: $1" >&2
  sed 's/^/  | /' "$scratch/out" "$scratch/err" >&2
  failures=$((failures + 1))
}

# ranks WORD...: runs the probe; leaves out, err, code.
run() {
  local ranks=$1
  shift
  timeout -k 5 60 "$launcher" -n "$ranks" "$probe" "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
  code=$?
}
# MPICH's launcher mixes the codes of the ranks that it kills (9) into that of the rank that failed.
expect_killers_code() {
  [ -n "$openmpi" ] || [ "$code" -eq 0 ] || return
  expect_code "$@"
}
expect_code() { [ "$code" -eq "$1" ] || fail "$2: expected exit code $1, found $code"; }
# Exactly one line of all that the probe's ranks wrote (launchers write, too) is an error, and it holds these words.
expect_one_error() {
  local name=$1 word
  shift
  [ "$(grep -c '^mpi_probe: error:' "$scratch/err")" -eq 1 ] || fail "$name: expected one line of error"
  for word in "$@"; do
    grep '^mpi_probe: error:' "$scratch/err" | grep -qF -- "$word" || fail "$name: expected the words: $word"
  done
}

for ranks in 1 2 4 7; do
  run $ranks messages
  expect_code 0 "messages on $ranks ranks"
  [ "$(cat "$scratch/out")" = "messages ok" ] || fail "messages on $ranks ranks: expected one line from rank 0"
done
MOE_MPI_CHUNK=100 run 4 messages
expect_code 0 "messages in chunks of 100 bytes"

# One host is one node, if nothing is declared; declared nodes need not divide the ranks.
run 4 where
expect_code 0 where
grep -qx 'nodes 0 0 0 0' "$scratch/out" || fail "where: expected one node"
run 7 where --ranks-per-node 3
grep -qx 'nodes 0 0 0 1 1 1 2' "$scratch/out" || fail "where: expected three nodes"
# Ranks that may use the same processors share them, whatever nodes are declared.
each=$(($(nproc) / 7)) && [ $each -gt 0 ] || each=1
[ -z "$openmpi" ] || grep -qx "threads $each $each $each $each $each $each $each" "$scratch/out" || fail "where: expected $each threads each"
run 2 where --threads 3
grep -qx 'threads 3 3' "$scratch/out" || fail "where: expected the threads that were asked for"

# Texts and wrong options come once, and MPI is not needed for them.
"$probe" --help >"$scratch/out" 2>"$scratch/err"
code=$?
expect_code 0 --help
run 4 --help
expect_code 0 "--help on 4 ranks"
[ "$(grep -c '^Usage:' "$scratch/out")" -eq 1 ] || fail "--help on 4 ranks: expected it once"
run 4 --valeu 3
expect_code 2 "a wrong option"
# MPICH's launcher lets the other ranks live on, and they say it too.
[ -z "$openmpi" ] || expect_one_error "a wrong option" 'unknown option --valeu; did you mean --value?'

# One rank that is started with another option.
cat >"$scratch/odd" <<'SH'
#!/bin/sh
[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" = 3 ] && MOE_VALUE=7 && export MOE_VALUE
exec "$@"
SH
chmod +x "$scratch/odd"
timeout -k 5 60 "$launcher" -n 4 "$scratch/odd" "$probe" messages >"$scratch/out" 2>"$scratch/err" </dev/null
code=$?
expect_code 2 handshake
expect_one_error handshake 'rank 3 (host ' 'expected the options of rank 0, found --value 7 instead of 0'

run 4 agreed --rank 2
expect_code 66 "agreed error"
expect_one_error "agreed error" 'rank 2 (host ' 'a.h5: not there'

# The deeds of one rank in step 3. With a SIGTERM handler in place the others live on until the launcher kills them.
for name in throw task; do
  SECONDS=0
  run 4 $name --rank 1
  [ $name = throw ] && expect_code 65 throw || expect_code 76 task
  grep -qE '^mpi_probe: error: rank 1 \(host .*\), step 3: (b.h5: bad|c: not finite)$' "$scratch/err" || fail "$name: expected a line of rank 1"
  [ $SECONDS -lt 20 ] || fail "$name: expected an end at once, found $SECONDS s"
done

SECONDS=0
run 4 hang --rank 2 --watchdog 2
expect_killers_code 124 hang
expect_one_error hang 'rank 0 (host ' ', step 3, in messages: waited 2 s for rank 2 (host '
[ $SECONDS -lt 20 ] || fail "hang: expected an end after 2 s, found $SECONDS s"

run 4 hang --rank 0 --watchdog 2
expect_killers_code 124 "hang of rank 0"
expect_one_error "hang of rank 0" 'rank 1 (host ' ', step 3, in messages: waited 2 s for rank 0 (host '

SECONDS=0
run 4 kill --rank 1 --watchdog 30
[ "$code" -ne 0 ] && [ "$code" -ne 124 ] || fail "a killed rank: expected the launcher's failure, found $code"
[ $SECONDS -lt 20 ] || fail "a killed rank: expected an end at once, found $SECONDS s"
# MPICH's launcher kills without a warning.
[ -z "$openmpi" ] || expect_one_error "a killed rank" 'rank 0 (host ' ', step 3, in messages: the job is being ended' 'rank 1 (host '

[ $failures -eq 0 ] || exit 1
echo "jobs of 1, 2, 4 and 7 ranks do what they should under $launcher"
