#!/usr/bin/env bash
# label: mpi
# From a training run to real traffic: moe-train --router-trace writes the same trace on one rank and on four, moe-bench
# dispatch --replay sends it, refusals have the right exit code. Bytes are judged by bench_replay_test.cpp. $1: folder of the
# executables. MOE_TEST_MPIEXEC: the launcher of the MPI that was built with.
set -euo pipefail
bin=$1
launcher=${MOE_TEST_MPIEXEC:-mpirun}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
fail() {
  echo "replay_test: $1" >&2
  cat out err >&2
  exit 1
}
# run CODE RANKS TOOL WORD...: 1 rank without a launcher.
run() {
  local want=$1 ranks=$2 tool=$3 code=0
  shift 3
  local -a start=()
  [ "$ranks" -eq 1 ] || start=("$launcher" -n "$ranks")
  timeout -k 5 120 "${start[@]}" "$bin/$tool" "$@" --threads 1 >out 2>err </dev/null || code=$?
  [ "$code" -eq "$want" ] || fail "expected exit code $want, found $code: $ranks ranks: $tool $*"
}
digest() { grep -o 'digest [0-9a-f]*' err | head -1; }

for i in $(seq 200); do echo "line $i says $((i * 7919 % 101)) and $((i * 31 % 17))"; done >text.txt
model="--data text.txt --layers 2 --d-model 16 --heads 2 --kv-heads 2 --head-dim 8 --experts 6 --top-k 2 --expert-ffn 16 --batch 6 --seq 16"
# shellcheck disable=SC2086 # a list of options
run 0 1 moe-train $model --steps 5 --router-trace one.h5 --router-trace-steps 3
one=$(digest)
[ -n "$one" ] || fail "no digest is told"
# shellcheck disable=SC2086
run 0 4 moe-train $model --steps 5 --router-trace four.h5 --router-trace-steps 3 --ep 2 --shard 2 --ranks-per-node 2
[ "$(digest)" = "$one" ] || fail "four ranks: expected $one, found $(digest)"
[ "$(find . -name '.tmp*' | wc -l)" -eq 0 ] || fail "a temporary file is left"
# shellcheck disable=SC2086
run 73 1 moe-train $model --steps 5 --router-trace one.h5
# A run that is resumed records its own last steps.
# shellcheck disable=SC2086
run 0 1 moe-train $model -o run --steps 4
# shellcheck disable=SC2086
run 0 1 moe-train $model -o run --steps 5 --resume must --router-trace one.h5
# shellcheck disable=SC2086
run 2 1 moe-train $model --steps 5 --router-trace-steps -1

run 0 4 moe-bench dispatch --replay four.h5 --ranks-per-node 2 --d-model 24 --seconds 0.01 --json rows.json
[ "$(grep -c ' ok$' out)" -eq 4 ] || fail "expected two layers by two ways of exchange"
[ "$(grep -c '^# all layers' out)" -eq 2 ] || fail "expected two lines of totals"
for key in inter_node_bytes inter_node_bytes_min inter_node_rows_per_token rows_received_max_over_mean; do
  grep -q "\"$key\"" rows.json || fail "no $key in the JSON"
done
run 0 1 moe-bench dispatch --replay one.h5 --layer 1 --d-model 24 --seconds 0.01
grep -q '^# 1 steps of 96 tokens' out || fail "the resumed run's trace: expected its one step"
# A plan with copies of experts, by either rule.
run 0 1 moe-place init linear --like four.h5 --topology "node:2 rank:2" -o one-each.h5
run 0 1 moe-place add one-each.h5 all 0 3 -o copies.h5
for choice in spread nearest; do
  run 0 4 moe-bench dispatch --replay four.h5 --plan copies.h5 --replica-choice $choice --ranks-per-node 2 --d-model 24 \
    --seconds 0.01 --json copies.json
  [ "$(grep -c ' ok$' out)" -eq 4 ] || fail "$choice: expected two layers by two ways of exchange"
  grep -q "\"replica_choice\": \"$choice\"" copies.json || fail "$choice is not in the JSON"
done
run 2 1 moe-bench dispatch --replay four.h5 --experts 6
run 65 1 moe-bench dispatch --replay four.h5 --layer 7
run 65 1 moe-bench dispatch --replay text.txt
run 66 1 moe-bench dispatch --replay none.h5
run 66 2 moe-bench dispatch --plan none.h5
[ "$(grep -c '^moe-bench: error:' err)" -eq 1 ] || fail "a missing plan: expected one line of error"
echo "traces of one rank and of four are one; they are replayed"
