#!/usr/bin/env bash
# label: mpi
# moe-train --trace as a user calls it: four MPI ranks in one file, the same losses bit for bit, a save that is in flight, what
# is refused, and a disk that fails. $1: folder of the executables. Not here: what is in the spans (timeline_test.cpp).
set -u
train=$1/moe-train
launcher=${MOE_TEST_MPIEXEC:-mpirun}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
failures=0
fail() {
  echo "FAILED: $1"
  tail -n 4 err | sed 's/^/  | /'
  failures=$((failures + 1))
}
expect() {  # CODE RANKS OPTION...
  local want=$1 ranks=$2 code
  shift 2
  timeout -k 5 100 "$launcher" -n "$ranks" "$train" "$@" >out 2>err </dev/null
  code=$?
  [ "$code" = "$want" ] || fail "exit $code, expected $want: $*"
}
losses() { sed -n 's/.*[{,]\("loss":[^,]*\),.*/\1/p' "$1/metrics.jsonl"; }
# Spans of a rank on a row; the file has one event a line.
spans() { grep -c "\"ph\":\"X\",.*\"pid\":$(($2 + 1)),\"tid\":$(($2 + 1))$3," "$1"; }

for i in $(seq 400); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
loud="--preset tiny --layers 2 --heads 2 --kv-heads 2 --head-dim 8 --experts 4 --expert-ffn 16 --d-model 16 --data text.txt"
loud="$loud --seq 24 --batch 8 --warmup 3 --threads 1 -q"
small="$loud --steps 6"
mesh="--ep 2 --shard 2 --ranks-per-node 2 --save-every 3"

expect 0 4 $small $mesh -o plain
expect 0 4 $small $mesh -o traced --trace trace.json --trace-steps 2:4
cmp -s <(losses plain) <(losses traced) || fail "the losses are not those of a run without --trace"
[ "$(losses traced | wc -l)" = 6 ] || fail "expected six losses"
[ "$(grep -c '"name":"process_name"' trace.json)" = 4 ] || fail "expected four processes in trace.json"
for rank in 0 1 2 3; do
  grep -q "\"name\":\"process_name\",\"pid\":$((rank + 1)),.*\"name\":\"rank $rank (host " trace.json || fail "rank $rank has no name"
  for row in 0 1 2; do [ "$(spans trace.json $rank $row)" -gt 0 ] || fail "rank $rank has nothing on row $row"; done
  [ "$(grep -c "\"name\":\"step\",.*\"pid\":$((rank + 1)),.*\"step\":[234]}" trace.json)" = 3 ] || fail "rank $rank: expected the steps 2 to 4"
done
grep -q '"name":"write checkpoint","cat":"saving"' trace.json || fail "the save of step 3 is not there"
[ -z "$(find . -name '.tmp-trace*')" ] || fail "a temporary file is left"

# Refused before anything is trained.
expect 73 2 $small -o run --trace trace.json
grep -q 'trace.json' err || fail "the file that is there is not named"
[ -e run/metrics.jsonl ] && [ -s run/metrics.jsonl ] && fail "steps were made although the trace is refused"
expect 2 2 $small -o run --trace t.json --trace-steps 7:9
grep -q -- '--trace-steps: expected steps of the 6' err || fail "steps that never come are not refused"

# A disk that fails costs the trace, not the run.
MOE_FAULT=err=ENOSPC,op=write,n=1,path=late.json expect 74 2 $small -o late --trace late.json --trace-steps 1:2
[ "$(losses late | wc -l)" = 6 ] && [ -e late/latest ] || fail "the run did not go on when the trace could not be written"
[ -z "$(find . -name '*late.json*')" ] || fail "a part of late.json is left"

# A resumed run counts its own steps, names those of the run, and replaces the file.
expect 0 2 $loud --steps 8 -o traced --trace trace.json --trace-steps 1:2
grep -q '"steps":\[7,8\]' trace.json || fail "expected the steps 7 and 8 of the run"

[ $failures = 0 ] && echo "moe-train --trace tells what four ranks did"
exit $((failures > 0))
