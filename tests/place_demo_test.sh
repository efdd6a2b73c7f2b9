#!/usr/bin/env bash
# label: mpi
# scripts/place-demo: the whole way of a plan, by hand and by the solver, ends with the loss of a run without one; what it is asked
# wrongly it refuses. $1: folder of the executables, $2: source tree. MOE_TEST_MPIEXEC: the launcher of the MPI that was built
# with.
set -euo pipefail
bin=$1 source_dir=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
export MPIEXEC=${MOE_TEST_MPIEXEC:-mpirun}
fail() {
  echo "place_demo_test: $1" >&2
  tail -n 60 out >&2
  exit 1
}
demo() { # CODE WORDS OPTION...: the words are in the output
  local want=$1 words=$2 code=0
  shift 2
  PATH="$bin:$PATH" timeout -k 5 300 "$source_dir/scripts/place-demo" "$@" >out 2>&1 </dev/null || code=$?
  [ "$code" -eq "$want" ] || fail "expected exit code $want, found $code: place-demo $*"
  grep -qF -- "$words" out || fail "expected the words: $words"
}

demo 0 'usage: scripts/place-demo' --help
demo 2 'place-demo: error: unknown option --dat' --dat x
demo 2 'place-demo: error: --data needs a value' --data
demo 2 'place-demo: error: expected one folder, found' a b
demo 66 "$PWD/none.txt: no such text" --data none.txt
mkdir full copy
touch full/something
demo 73 "$PWD/full: expected an empty folder" full
cp -r "$source_dir/scripts" copy
code=0
PATH=/usr/bin:/bin copy/scripts/place-demo x >out 2>&1 || code=$?
[ "$code" -eq 69 ] || command -v -p moe-train >/dev/null || fail "without tools: expected exit code 69, found $code"

demo 0 '== result' demo
for plan in linear hand solved; do
  grep -Eq "^  $plan +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9]+ +[0-9.]+$" out || fail "no line of $plan in the table"
done
[ "$(sed -n '/^== result/,$s/^  [lhs][a-z]* .* //p' out | sort -u | wc -l)" -eq 1 ] || fail "the three losses differ"
[ "$(grep -c '^\$ moe-place ' out)" -ge 12 ] || fail "expected every command as a user types it"
[ -s demo/solved.svg ] && [ -s demo/solved.html ] || fail "no pictures"
# What was counted on the ranks is what was predicted; both plans are better than none.
awk '/^  (linear|hand|solved) / { if ($2 != $3 || $4 / $5 > 1.05 || $5 / $4 > 1.05) exit 1; most[$1] = $3 }
  END { exit !(most["hand"] < most["linear"] && most["solved"] < most["linear"]) }' out || fail "predicted and measured differ"
echo "a plan by hand and one of the solver train the same model"
