#!/usr/bin/env bash
# label: mpi
# scripts/ranks.sh starts, stops and reports on commands as it promises; the scripts that use it refuse wrong options. $2: source
# tree. MOE_TEST_MPIEXEC: the launcher of the MPI that was built with. Not here: what the ranks compute (train_*_test).
set -u
scripts=$2/scripts
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
export MPIEXEC=${MOE_TEST_MPIEXEC:-mpirun}
failures=0
fail() {
  echo "scripts_test: $1" >&2
  failures=$((failures + 1))
}
expect() { [ "$2" = "$3" ] || fail "$1: expected '$3', found '$2'"; } # NAME FOUND EXPECTED
. "$scripts/ranks.sh"

run_ranks 3 bash -c 'echo here' >out 2>err
expect "exit code" $? 0
expect "lines of 3 ranks" "$(grep -c '^here' out)" 3

run_ranks 2 bash -c 'exit 75' >out 2>err
expect "the command's exit code" $? 75

rest=$({ run_ranks 2 sleep 0.5 >out 2>err; cat; } <<<"for the caller")
expect "stdin" "$rest" "for the caller"

# One signal to the script (of a group of its own, as a terminal's Ctrl-C finds it): the ranks may end in order.
cat >ask <<'SH'
#!/bin/bash
trap 'touch asked; exit 75' USR1
touch "up-$$"
for ((i = 0; i < 200; ++i)); do sleep 0.1; done
SH
cat >caller <<SH
#!/bin/bash
. "$scripts/ranks.sh"
run_ranks 2 bash ask
SH
for signal in INT TERM; do
  rm -f asked up-*
  set -m
  bash caller >out 2>err &
  caller=$!
  set +m
  for ((i = 0; i < 200 && $(find . -name 'up-*' | wc -l) < 2; ++i)); do sleep 0.05; done
  kill -$signal -- -$caller
  wait $caller
  expect "exit code after SIG$signal" $? 75
  [ -e asked ] || fail "SIG$signal: expected SIGUSR1 at the ranks, found none"
done

# The process id of exec_ranks is the launcher's, with the ranks below it.
(exec_ranks 2 bash -c 'sleep 20') >out 2>err &
job=$!
for ((i = 0; i < 100; ++i)); do
  [ "$(ps -o comm= -p $job)" = bash ] || break
  sleep 0.05
done
expect "the launcher's name" "$(readlink -f /proc/$job/exe)" "$(readlink -f "$(command -v "$MPIEXEC")")"
kill $job
wait $job 2>/dev/null

MPIEXEC="$MPIEXEC -n 1 printf %s," run_ranks 3 words >out 2>err
expect "a launcher of several words" "$(cat out)" "-n,3,words,"
MPIEXEC=no-such-launcher run_ranks 2 true >out 2>err
expect "exit code without a launcher" $? 69
grep -q 'no-such-launcher: expected a launcher' err || fail "no launcher: expected a line that names it"

expect_refusal() { # CODE WORDS SCRIPT OPTION...
  local code=$1 words=$2 name=$3
  shift 3
  "$scripts/$name" "$@" >out 2>err
  expect "$name $*: exit code" $? "$code"
  grep -qF -- "$name: error: $words" err || fail "$name $*: expected the words: $words"
}
expect_refusal 2 'unknown option --second' quickstart --second 3
expect_refusal 2 '--seconds needs a value' quickstart --seconds
expect_refusal 2 "--seconds: expected a whole number above 0, found '0'" quickstart --seconds 0
expect_refusal 66 "$PWD/no.txt: no such text" quickstart --no-setup --text no.txt
expect_refusal 2 'unknown option --rank' soak --rank 3
expect_refusal 2 "expected a whole number above 0, found '0'" soak --ranks 0
for name in quickstart soak; do
  "$scripts/$name" --help | grep -q "^usage: scripts/$name" || fail "$name --help: expected its usage"
done

[ $failures -eq 0 ] || exit 1
echo "the scripts that start ranks do what they should under $MPIEXEC"
