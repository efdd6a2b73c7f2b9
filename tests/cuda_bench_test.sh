#!/bin/bash
# label: mpi
# moe-bench on ranks of GPUs as a user meets it, through the plugin for machines without one (tests/cuda_on_host): dispatch,
# collectives and step pass their checks, --device auto takes the GPUs, a step has the CPU's first loss and says "-" where the
# host's clock sees nothing, refusals come once. No figure is judged. $1: folder of the executables. Not here: NCCL
# (bench_device_test.cpp), a GPU (scripts/gpu-check).
# shellcheck source=tests/shell_test_parts.sh
. "$(dirname "$0")/shell_test_parts.sh"
bench=$1/moe-bench plugin=$1/../tests/libmoe_cuda_on_host.so
command -v mpirun >/dev/null || { echo "no mpirun here: nothing was tested"; exit 77; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
on_ranks() { # CODE RANKS WORD...
  local want=$1 ranks=$2
  shift 2
  expect "$want" timeout -k 5 300 mpirun --bind-to none -n "$ranks" "$bench" "$@" --threads 1
}
# value KEY FILE: all values of a key, one a line.
value() { grep -o "\"$1\": [^,}]*" "$2" | sed 's/.*: //'; }
has() { grep -qF -- "$1" "$2" || fail "$2: expected $1: $(cat "$2")"; }
once() { [ "$(grep -c '^moe-bench: error:' err)" = 1 ] || fail "expected one line of error: $(cat err)"; }

rows="--tokens 17 --d-model 24 --experts 13 --top-k 3 --seconds 0.01 --ranks-per-node 2"
export MOE_CUDA_PLUGIN=$dir/nothing.so
on_ranks 69 2 dispatch $rows --device cuda
once
has "expected a CUDA device, found no CUDA plugin" err

[ -e "$plugin" ] || { fail "expected $plugin"; exit 1; }
export MOE_CUDA_PLUGIN=$plugin
on_ranks 0 4 dispatch $rows --device cuda --gpu-comm staged --link-gbits 10 --json rows.json
[ "$(grep -c ' ok$' out)" = 16 ] || fail "dispatch: expected 8 workloads, flat and two-level: $(cat out)"
has "# rows in memory of stand-in on the host, GPUs staged through the host" out
[ "$(value percent_of_link rows.json | wc -l)" = 16 ] || fail "dispatch: no share of the link"
[ "$(value gpu_comm rows.json)" = '"staged"' ] || fail "dispatch: $(value gpu_comm rows.json) is how GPUs reach each other"
# What nobody chose is a GPU; on the CPU the same bytes go between nodes. A replay of what was recorded sends them too.
for device in auto cpu; do
  on_ranks 0 4 dispatch $rows --workload W1 --dispatch two-level --device $device --record $device.h5 --json $device.json
done
[ "$(value device auto.json)" = '"stand-in on the host"' ] || fail "--device auto: $(cat auto.json)"
[ -z "$(value device cpu.json)" ] || fail "--device cpu: $(cat cpu.json)"
on_ranks 0 4 dispatch --replay auto.h5 --d-model 24 --seconds 0.01 --ranks-per-node 2 --dispatch two-level --dtype bf16 --device cuda \
  --json replay.json
has "# all layers two-level" out
for file in cpu replay; do
  [ "$(value inter_node_rows_per_token auto.json)" = "$(value inter_node_rows_per_token $file.json | tail -n 1)" ] ||
    fail "rows between nodes: $(value inter_node_rows_per_token auto.json), $(value inter_node_rows_per_token $file.json)"
done

for ranks in 1 3; do
  on_ranks 0 $ranks collectives --min-bytes 4 --max-bytes 20000 --seconds 0.005 --device cuda --json collectives.json
  for name in barrier all_reduce_one exchange gather reduce_scatter all_reduce_sum broadcast; do
    grep -q "^$name .* ok$" out || fail "collectives of $ranks: no row of $name that passed: $(cat out)"
  done
  [ "$(value memory collectives.json | sort | uniq -c | tr -s ' ' | tr '\n' ',')" = ' 35 "device", 2 "host",' ] ||
    fail "collectives of $ranks: where they are: $(value memory collectives.json)"
done

model="--layers 2 --d-model 32 --heads 2 --kv-heads 1 --head-dim 16 --experts 5 --top-k 2 --expert-ffn 16 --vocab-size 64 --seq 9 --batch 5"
for device in cpu cuda; do
  on_ranks 0 4 step $model --ep 2 --shard 2 --seconds 0.01 --device $device --json $device.json
  [ "$(grep -c '^# check .* ok$' out)" = 4 ] || fail "step, $device: expected four checks that passed: $(cat out)"
  grep '^# check first_loss' out | awk '{ print $4 }' >$device.loss
done
awk 'NR == FNR { a = $1; next } { d = a - $1; exit !(a > 0 && d < 1e-5 && d > -1e-5) }' cpu.loss cuda.loss ||
  fail "first losses: $(cat cpu.loss cuda.loss)"
for name in pre dispatch experts combine ends; do
  grep -q "^$name  *-" out || fail "step: expected - for $name: $(cat out)"
done
for name in update all_computation exposed_communication compute_only_ms step_over_compute exposed_ms imbalance_ms; do
  grep -q "^$name  *[0-9]" out || fail "step: expected a value of $name: $(cat out)"
done
for name in dispatch combine gather reduce; do
  grep -q "^$name  *[0-9.]* *[0-9.]* *[0-9.]* *[0-9.]* *[0-9.]*$" out || fail "step: expected times of $name: $(cat out)"
done
[ "$(value memory_measured_bytes cuda.json)" = null ] || fail "step: expected no memory of the process: $(cat cuda.json)"
has '"device_grown_bytes":' cuda.json

# One GPU for all: NCCL cannot be had; ranks that find a GPU and ranks that find none are told apart.
on_ranks 69 2 collectives --device cuda --gpu-comm nccl
once
has "ranks 0 and 1 on one GPU" err
on_ranks 69 2 collectives --device cpu --gpu-comm nccl
once
expect 69 mpirun --bind-to none -n 1 "$bench" dispatch $rows : -n 1 env MOE_CUDA_PLUGIN=/nothing.so "$bench" dispatch $rows
has "expected a CUDA device, which 1 of 2 ranks have" err
on_ranks 69 1 checkpoint --device cuda
has "expected a command that computes, found checkpoint" err

finish
