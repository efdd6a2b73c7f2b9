#!/usr/bin/env bash
# label: mpi
# moe-bench on the ranks of a job: every row passes its check, bytes between nodes are the least where they must be, a tool
# that reads JSON understands it, refusals have the right exit code and come once. No figure is judged. $1: folder of the
# executables. MOE_TEST_MPIEXEC: the launcher of the MPI that was built with.
set -euo pipefail
bench=$1/moe-bench
launcher=${MOE_TEST_MPIEXEC:-mpirun}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
fail() {
  echo "bench_ranks_test: $1" >&2
  cat out err >&2
  exit 1
}
# run CODE RANKS WORD...
run() {
  local want=$1 ranks=$2 code=0
  shift 2
  timeout -k 5 120 "$launcher" -n "$ranks" "$bench" "$@" --threads 1 >out 2>err </dev/null || code=$?
  [ "$code" -eq "$want" ] || fail "expected exit code $want, found $code: $ranks ranks: $*"
}
# value KEY FILE: all values of a key, one a line.
value() { grep -o "\"$1\": [^,}]*" "$2" | sed 's/.*: //'; }
check_json() {
  ! command -v python3 >/dev/null || python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$1" || fail "$1 is not JSON"
}

rows="--tokens 33 --d-model 24 --experts 13 --top-k 3 --seconds 0.01 --ranks-per-node 2"
for ranks in 1 2 4 7; do
  # shellcheck disable=SC2086 # a list of options
  run 0 $ranks dispatch $rows --json rows.json
  check_json rows.json
  modes=1
  [ $ranks -le 2 ] || modes=2
  [ "$(grep -c ' ok$' out)" -eq $((8 * modes)) ] || fail "$ranks ranks: expected $((8 * modes)) rows that passed"
  [ "$(grep -c '^# moe-bench dispatch' out)" -eq 1 ] || fail "$ranks ranks: expected one table"
  [ "$(grep -c '"inter_node_bytes":' rows.json)" -eq $((8 * modes)) ] || fail "$ranks ranks: rows in JSON"
done
# Two levels send what cannot be spared; flat sends more.
# shellcheck disable=SC2086
run 0 7 dispatch $rows --workload W0 --dispatch two-level --link-gbits 10 --json rows.json
[ "$(value inter_node_bytes rows.json)" = "$(value inter_node_bytes_min rows.json)" ] || fail "two-level: more than the least"
[ "$(value inter_node_bytes rows.json)" -gt 0 ] || fail "nothing between nodes"
[ -n "$(value percent_of_link rows.json)" ] || fail "no share of the link"
# shellcheck disable=SC2086
run 0 7 dispatch $rows --workload W0 --dispatch flat --json rows.json
[ "$(value inter_node_bytes rows.json)" -gt "$(value inter_node_bytes_min rows.json)" ] || fail "flat: expected more than the least"
# Groups, a node limit, bf16, JSON on standard output.
# shellcheck disable=SC2086
run 0 4 dispatch $rows --ep 2 --workload W6 --dtype bf16 --json -
head -c 1 out | grep -q '{' || fail "--json -: standard output is not JSON"
# shellcheck disable=SC2086
run 0 4 dispatch $rows --workload W0 --max-nodes-per-token 1 --json rows.json
[ "$(value max_nodes_per_token rows.json)" -eq 1 ] || fail "the node limit is not in the JSON"

run 0 3 collectives --min-bytes 4 --max-bytes 20000 --seconds 0.005 --json collectives.json
check_json collectives.json
for name in barrier all_reduce_one exchange gather reduce_scatter all_reduce_sum broadcast; do
  grep -q "^$name .* ok$" out || fail "collectives: no row of $name that passed"
done

model="--layers 2 --d-model 48 --heads 3 --kv-heads 3 --head-dim 16 --experts 5 --top-k 2 --expert-ffn 40 --seq 37 --batch 5"
for overlap in on off; do
  # shellcheck disable=SC2086
  run 0 4 step $model --ep 2 --overlap $overlap --seconds 0.05 --json step.json
  check_json step.json
  for word in pre experts all_computation exposed_communication step dispatch tokens_per_second step_over_compute memory_total; do
    grep -q "^$word " out || fail "step: no line of $word"
  done
  for key in compute_only_seconds memory_predicted_bytes memory_measured_bytes tokens_per_second; do
    [ -n "$(value $key step.json)" ] || fail "step: no $key in the JSON"
  done
  [ "$(grep -c '^# check' out)" -eq 4 ] || fail "step: expected four checks, once"
done
# shellcheck disable=SC2086
run 0 3 step $model --zero 1 --replicate 3 --micro-batch 1 --seconds 0.05
# shellcheck disable=SC2086
run 3 2 step $model --init-std 1 --seconds 0.05
grep -q FAILED out || fail "a failed step does not say FAILED"
! grep -q '^tokens_per_second' out || fail "a failed step shows its figure"

run 2 2 kernels
[ "$(grep -c '^moe-bench: error:' err)" -eq 1 ] || fail "kernels: expected one line of error"
run 2 2 dispatch --ep 3
[ "$(grep -c '^moe-bench: error:' err)" -eq 1 ] || fail "a wrong mesh: expected one line of error"
run 2 2 dispatch --dtype bf16 --d-model 1
grep -q -- '--d-model: expected at least' err || fail "too few columns: expected the name of the option"
run 2 2 collectives --filter no-such
echo "moe-bench runs on 1, 2, 3, 4 and 7 ranks"
