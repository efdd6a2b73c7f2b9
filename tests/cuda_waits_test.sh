#!/bin/bash
# label: mpi
# What a training step on a GPU costs the host, counted by the plugin for machines without one (tests/cuda_on_host/counts.h):
# waits, copies that are waits, memory and events that are made. Two runs that differ by steps differ by what steps cost, so
# the numbers are exact. $1: folder of the executables. Not here: times, and what is computed (cuda_train_test.sh).
# shellcheck source=tests/shell_test_parts.sh
. "$(dirname "$0")/shell_test_parts.sh"
train=$1/moe-train
export MOE_CUDA_PLUGIN=$1/../tests/libmoe_cuda_on_host.so
export MOE_CUDA_ON_HOST_COUNTS_FROM=step  # before it the speed of products is measured, by the clock
[ -e "$MOE_CUDA_PLUGIN" ] || { fail "expected $MOE_CUDA_PLUGIN"; exit 1; }
for i in $(seq 400); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
small="--d-model 32 --heads 2 --seq 16 --experts 8 --top-k 2 --expert-ffn 16 --data text.txt --device cuda -q --threads 1"

counted() {  # FILE COMMAND...
  local file=$1
  shift
  MOE_CUDA_ON_HOST_COUNTS=$file expect 0 "$@"
}
of() { awk -v name="$2" '$1 == name { print $2 }' "$1"; }
# steps NAME OPTION...: NAME.counts is what the fourth and the fifth step cost.
steps() {
  local name=$1
  shift
  counted "$name.3" "$train" $small --batch 4 --steps 3 -o "$name-3" "$@"
  counted "$name.5" "$train" $small --batch 4 --steps 5 -o "$name-5" "$@"
  paste "$name.3" "$name.5" | awk '{ print $1, $4 - $2 }' >"$name.counts"
}
same() {  # FILE NAME NUMBER
  [ "$(of "$1" "$2")" = "$3" ] || fail "$1: expected $3 $2, found $(of "$1" "$2"): $(tr '\n' ' ' <"$1")"
}

# One wait a step: for loss, norm and counts, which come in four copies. However many layers and micro-batches there are,
# whatever keeps the experts busy, with latent attention and a module that predicts one token more.
check() {  # NAME OPTION...
  local name=$1 what
  shift
  steps "$name" "$@"
  same "$name.counts" waits 2
  same "$name.counts" to_host 8
  for what in copy_waits allocations frees made; do same "$name.counts" $what 0; done
}
kv="--kv-heads 2 --head-dim 16"
check olmoe --preset olmoe-mini --layers 2 $kv
check layers --preset olmoe-mini --layers 5 $kv
check micro --preset olmoe-mini --layers 2 $kv --micro-batch 1
check documents --preset qwen3-mini --layers 2 $kv --document-mask
check latent --preset deepseek-v3-mini --layers 3 --micro-batch 2
check muon --preset olmoe-mini --layers 2 $kv --optimizer muon --dtype bf16 --grad-clip 0.01
# A layer puts the same kernels into the stream whatever its depth, a micro-batch too.
[ "$(of olmoe.counts launches)" -lt "$(of layers.counts launches)" ] || fail "launches: $(cat olmoe.counts layers.counts)"

# The moving average goes to the GPU and back, in one piece here, and nobody waits for it.
steps average --preset olmoe-mini --layers 2 $kv --ema 0.9
same average.counts waits 2
same average.counts to_host 10
same average.counts to_device $(($(of olmoe.counts to_device) + 2))
same average.counts launches $(($(of olmoe.counts launches) + 2))
for what in copy_waits allocations frees made; do same average.counts $what 0; done

# Capacity decides on the host how many rows are kept: one wait a layer and step more.
steps capacity --preset olmoe-mini --layers 2 $kv --capacity-factor 1.5
same capacity.counts waits 6

# With experts on other ranks the lane waits: for ids and gates of a plan, for messages (through memory of the host here). No
# more than it did, and no copy is a wait, because all of them are from and to pinned memory.
if command -v mpirun >/dev/null; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  for n in 3 5; do
    # shellcheck disable=SC2016 # the rank's own
    expect 0 mpirun --bind-to none -n 2 bash -c 'MOE_CUDA_ON_HOST_COUNTS=ep$OMPI_COMM_WORLD_RANK.'$n' exec "$@"' rank \
      "$train" $small --steps $n -o ep-$n --preset olmoe-mini --layers 3 $kv --batch 8 --ep 2
  done
  for rank in 0 1; do
    paste ep$rank.3 ep$rank.5 | awk '{ print $1, $4 - $2 }' >ep$rank.counts
    same ep$rank.counts copy_waits 0
    [ "$(of ep$rank.counts waits)" -le 160 ] || fail "--ep 2, rank $rank: $(tr '\n' ' ' <ep$rank.counts)"
  done
fi

finish
