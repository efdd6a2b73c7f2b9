#!/bin/bash
# label: mpi
# The moving average (--ema) of a run on a GPU, which is in memory of the host and made beside the next step, through the plugin for
# machines without one (tests/cuda_on_host): that of the CPU's run, the same bits however fast the streams come on, resumed,
# killed and resumed, on four ranks, while experts move, evaluated; where its memory is counted. $1: folder of the
# executables. Not here: the average alone (moving_average_test.cpp), what a step costs the host (cuda_waits_test.sh).
# shellcheck source=tests/shell_test_parts.sh
. "$(dirname "$0")/shell_test_parts.sh"
train=$1/moe-train reshard=$1/moe-reshard plugin=$1/../tests/libmoe_cuda_on_host.so
digest() { grep -m1 '^ "digest"' "$1/manifest.json"; }
same_digest() {  # A B WHAT
  [ -n "$(digest "$1")" ] && [ "$(digest "$1")" = "$(digest "$2")" ] || fail "$3: $1 $(digest "$1"), $2 $(digest "$2")"
}
# Every tensor of the two averages is close.
same_averages() {  # A B STEP
  "$reshard" diff "$1/step-0000000$3" "$2/step-0000000$3" 2>&1 | awk '$2 == "ema" { print $1, $3 }' >ema.rows
  awk 'NF == 2 { ++n; if (!($2 < 1e-4)) bad++ } END { exit !(n > 10 && bad == 0) }' ema.rows || fail "averages of $1 and $2: $(cat ema.rows)"
}
number() { grep -o "\"$1\": *[0-9.]*" "$2" | head -1 | sed 's/.*: *//'; }
near() { awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; exit !(a > 0 && b > 0 && d < 1e-4 && d > -1e-4) }' || fail "$3: $1 and $2"; }

[ -e "$plugin" ] || { fail "expected $plugin"; exit 1; }
export MOE_CUDA_PLUGIN=$plugin
for i in $(seq 200); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
model="--layers 2 --d-model 32 --heads 2 --kv-heads 1 --head-dim 16 --experts 8 --top-k 2 --expert-ffn 16 --seq 16 --batch 4"
common="-q --threads 1 --data text.txt"
plain="$model $common --lr 0.01 --warmup 0 --schedule constant"
all="$plain --ema 0.7"
head -n 8 text.txt >held-out.txt
eval="--eval-data held-out.txt"

# Streams that come on when somebody waits for them, and by chance before.
expect 0 "$train" $all --device cpu --steps 5 --save-every 3 $eval -o cpu --json cpu.json
expect 0 "$train" $all --device cuda --steps 5 --save-every 3 $eval -o late --json late.json
same_averages cpu late 3
same_averages cpu late 5
near "$(number ema_eval_loss cpu.json)" "$(number ema_eval_loss late.json)" "losses of the averages"
near "$(number eval_loss cpu.json)" "$(number eval_loss late.json)" "losses"
{ grep -q '"ema_ms"' cpu/metrics.jsonl && ! grep -q '"ema_ms"' late/metrics.jsonl; } || fail "ema_ms"
for pace in 1 2; do
  MOE_CUDA_ON_HOST_PACE=$pace expect 0 "$train" $all --device cuda --steps 5 --save-every 3 $eval -o "pace-$pace" --json pace.json
  same_digest late/step-00000003 "pace-$pace/step-00000003" "pace $pace"
  same_digest late/step-00000005 "pace-$pace/step-00000005" "pace $pace"
  [ "$(number ema_eval_loss pace.json)" = "$(number ema_eval_loss late.json)" ] || fail "pace $pace: another loss of the average"
done
expect 0 "$train" $all --device cuda --steps 5 $eval --json alone.json # nothing is saved
[ "$(number ema_eval_loss alone.json)" = "$(number ema_eval_loss late.json)" ] || fail "without a save: another loss of the average"
expect 0 "$train" $all --device cuda --steps 4 --dtype bf16 --optimizer muon --grad-clip 0.1 -o bf16
MOE_CUDA_ON_HOST_PACE=4 expect 0 "$train" $all --device cuda --steps 4 --dtype bf16 --optimizer muon --grad-clip 0.1 -o bf16-pace
same_digest bf16/step-00000004 bf16-pace/step-00000004 "bf16 at another pace"

# Resumed is never stopped; so is killed in the middle of a save.
expect 0 "$train" $common --device cuda --steps 5 --resume late/step-00000003 -o resumed
same_digest late/step-00000005 resumed/step-00000005 "resumed"
MOE_FAULT=err=count,log=$dir/operations expect 0 "$train" $all --device cuda --steps 5 --save-every 2 --save sync -o whole
k=$(awk '$1 == 0 { ++n } /step-00000004/ { ++at } at == 2 { print n; exit }' operations)
MOE_FAULT=err=kill,n=${k:-0} "$train" $all --device cuda --steps 5 --save-every 2 --save sync -o killed >out 2>err
[ "$(cat killed/latest 2>&1)" = step-00000002 ] || fail "expected a run that was killed after its save of step 2, found $(ls killed)"
MOE_CUDA_ON_HOST_PACE=5 expect 0 "$train" $common --device cuda --steps 5 --resume killed -o killed
same_digest whole/step-00000005 killed/step-00000005 "killed and resumed"
same_digest whole/step-00000005 late/step-00000005 "other saves"

# What is on the host is counted there, and what is taken for it on the GPU.
expect 0 "$train" $all --device cuda --dry-run --json with.json
expect 0 "$train" $plain --device cuda --dry-run --json without.json
average=$(number ema with.json)
{ [ "$(number host_memory_bytes with.json)" = "$average" ] && [ "$(number host_memory_bytes without.json)" = 0 ]; } ||
  fail "memory of the host: $(grep memory_bytes with.json without.json)"
rooms=$(($(number memory_bytes with.json) - $(number memory_bytes without.json)))
{ [ "$rooms" -ge $((2 * average)) ] && [ "$rooms" -le $((2 * average + 65536)) ]; } || fail "rooms of $rooms bytes for an average of $average"

if command -v mpirun >/dev/null; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  ranks() { expect 0 mpirun --bind-to none -n "$@"; }  # COUNT COMMAND...
  ranks 4 "$train" $all --device cuda --steps 5 --save-every 3 --ep 2 --shard 2 -o mesh
  same_averages cpu mesh 5
  export MOE_CUDA_ON_HOST_PACE=1
  ranks 4 "$train" $all --device cuda --steps 5 --ep 2 --shard 2 -o mesh-pace
  same_digest mesh/step-00000005 mesh-pace/step-00000005 "four ranks at another pace"
  ranks 4 "$train" $common --device cuda --steps 5 --resume mesh/step-00000003 -o mesh-resumed
  same_digest mesh/step-00000005 mesh-resumed/step-00000005 "four ranks, resumed"
  ranks 3 "$train" $common --device cuda --steps 5 --resume mesh/step-00000003 --shard 3 --zero 1 -o other
  same_averages cpu other 5
  move="--ep 4 --replan-every 2 --replicas 4"
  ranks 4 "$train" $all --device cuda --steps 5 $move -o moved-pace
  unset MOE_CUDA_ON_HOST_PACE
  ranks 4 "$train" $all --device cuda --steps 5 $move -o moved
  grep -q '"event":"replan"' moved/metrics.jsonl || fail "expected experts to move"
  same_averages cpu moved 5
  same_digest moved/step-00000005 moved-pace/step-00000005 "experts that move at another pace"
fi

finish
