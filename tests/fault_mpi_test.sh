#!/usr/bin/env bash
# label: mpi
# Faults under mpirun, in the tools as users start them: the k-th file operation of one rank of four fails or kills it, for a
# few k that a seed picks (MOE_FAULT_SEED, MOE_FAULT_TRIES). Afterwards the newest complete checkpoint is unchanged and
# loads, and no process is left. $1: folder of the executables. MOE_TEST_MPIEXEC: the launcher.
# Not here: every k (fault_loop_test.cpp), what the messages say (scenarios_test.sh).
set -u
train=$1/moe-train
reshard=$1/moe-reshard
launcher=${MOE_TEST_MPIEXEC:-mpirun}
RANDOM=${MOE_FAULT_SEED:-5}
tries=${MOE_FAULT_TRIES:-1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
failures=0
fail() {
  echo "FAILED: $1"
  tail -n 3 err | cut -c1-300 | sed 's/^/  | /'
  failures=$((failures + 1))
}
digest_in() { grep -m1 '^ "digest"' "$1/manifest.json"; }

for i in $(seq 200); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
: >err
small="--preset tiny --layers 1 --heads 2 --kv-heads 2 --head-dim 8 --experts 4 --expert-ffn 16 --d-model 16 --data text.txt --seq 16 --batch 4 --warmup 1 --schedule constant --threads 1 -q"

# What is struck: NAME, and the command of it in `run`, a copy of `before`. One line each.
commands() {
  echo "save $train $small --ep 2 --shard 2 --steps 4 --save-every 2 -o run"
  echo "resume $train --data text.txt -q --threads 1 --ep 2 --shard 2 --resume run --steps 4 -o run"
  echo "reshard $reshard run -o resharded --files 3 -q"
}
job() { timeout -k 5 100 "$launcher" -n 4 "$@" >out 2>err </dev/null; } # COMMAND...

job "$train" $small --ep 2 --shard 2 --steps 4 --save-every 2 -o whole || fail "the undisturbed run"
mkdir before && cp -r whole/step-00000002 before && echo step-00000002 >before/latest
grep -E '"step":[12][,}]' whole/metrics.jsonl >before/metrics.jsonl

# The newest checkpoint is the undisturbed run's of that step, read back by training on one process.
intact() {  # WHAT
  local step
  if [ -e resharded/step-00000002 ]; then # absent or whole
    [ "$(digest_in resharded/step-00000002)" = "$(digest_in whole/step-00000002)" ] || fail "$1: the output is not what was read"
    "$reshard" verify resharded -q >out 2>err </dev/null || fail "$1: the output is not whole"
  fi
  step=$(cat run/latest 2>/dev/null) || { [ ! -e run/step-00000002 ] || fail "$1: no latest"; return; }
  [ "$(digest_in "run/$step")" = "$(digest_in "whole/$step")" ] || fail "$1: $step is not as it was saved"
  rm -rf loaded
  "$train" --data text.txt -q --threads 1 --resume run --steps "$((10#${step#step-}))" -o loaded >out 2>err </dev/null || fail "$1: $step does not load"
}

commands | while read -r name command; do echo "$name|$command"; done >list
while IFS='|' read -r name command; do
  fresh() { rm -rf run resharded log && { [ "$name" = save ] || cp -r before run; }; }
  fresh
  MOE_FAULT=err=count,log=$dir/log job $command || fail "$name without a fault"
  for error in ENOSPC EIO short,op=write kill; do
    for _ in $(seq "$tries"); do
      rank=$((RANDOM % 4))
      count=$(grep "^$rank " log.all 2>/dev/null | wc -l)
      [ -e log ] && cp log log.all && count=$(grep -c "^$rank " log.all)
      [ "$error" = short,op=write ] && count=$(grep -c "^$rank [0-9]* write" log.all)
      k=$((1 + RANDOM % (count > 0 ? count : 1)))
      fresh
      MOE_FAULT=err=$error,n=$k,rank=$rank job $command
      code=$?
      what="$name, $error at operation $k of $count of rank $rank"
      [ $code = 124 ] && fail "$what: hangs"
      [ "$error" != kill ] && [ $code != 0 ] && [ $code != 74 ] && fail "$what: exit $code"
      intact "$what"
    done
  done
  rm -f log.all
done <list
[ $failures = 0 ] && echo "all passed"
exit $((failures > 0))
