#!/bin/bash
# label: mpi
# moe-train and moe-eval on a GPU as a user meets them, through the plugin for machines without one (tests/cuda_on_host):
# the same losses as on the CPU, on one rank and on meshes over the staged path, checkpoints that go both ways and resume bit
# for bit, the same texts, what is said when there is no GPU or a small one. $1: folder of the executables. Not here: kernels
# (X_on_host_test), a GPU (scripts/gpu-check).
# shellcheck source=tests/shell_test_parts.sh
. "$(dirname "$0")/shell_test_parts.sh"
train=$1/moe-train eval=$1/moe-eval plugin=$1/../tests/libmoe_cuda_on_host.so
digest() { grep -m1 '^ "digest"' "$1/manifest.json"; }
losses() { grep -v '"event"' "$1/metrics.jsonl" | grep -o '"loss":[-0-9.e]*' | cut -d: -f2; }
same_losses() {  # A B STEPS BOUND
  paste -d' ' <(losses "$1") <(losses "$2") |
    awk -v n="$3" -v b="$4" 'NF == 2 { ++k; d = $1 - $2; if (!(d < b && d > -b)) bad++ } END { exit !(k == n && bad == 0) }' ||
    fail "losses of $1 and $2: $(paste -d' ' <(losses "$1") <(losses "$2"))"
}

# No device: an error for cuda, the CPU for auto.
model="--layers 2 --d-model 32 --heads 2 --kv-heads 1 --head-dim 16 --experts 8 --top-k 2 --expert-ffn 16 --seq 16 --batch 4"
for i in $(seq 200); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
export MOE_CUDA_PLUGIN=$dir/nothing.so
expect 69 "$train" $model --data text.txt --steps 1 --device cuda -q
grep -q "expected a CUDA device, found no CUDA plugin" err || fail "no plugin: $(cat err)"
expect 0 "$train" $model --device cuda --dry-run
expect 0 "$train" $model --data text.txt --steps 3 -q --threads 1 -o cpu

[ -e "$plugin" ] || { fail "expected $plugin"; exit 1; }
export MOE_CUDA_PLUGIN=$plugin
gpu="--device cuda -q --threads 1 --data text.txt"
expect 0 "$train" $model $gpu --steps 3 --save-every 2 -o one
same_losses cpu one 3 1e-5
{ grep -q device_memory_gib one/metrics.jsonl && ! grep -q device_memory_gib cpu/metrics.jsonl; } || fail "device_memory_gib"
expect 0 "$train" $gpu --resume one/step-00000002 -o again
[ "$(digest one/step-00000003)" = "$(digest again/step-00000003)" ] || fail "a run that was resumed is another run"
expect 0 "$train" $model $gpu --steps 3 --dtype bf16 -o bf16
same_losses cpu bf16 3 2e-2
MOE_CUDA_ON_HOST_BYTES=100000 expect 1 "$eval" generate one --prompt line --device cuda
grep -q "memory of the GPU (.*): expected .* free, found 97.66 KiB of 97.66 KiB" err || fail "a small GPU: $(cat err)"
MOE_CUDA_ON_HOST_BYTES=100000 expect 1 "$train" $model $gpu --steps 1
grep -q "out of memory of the GPU" err || fail "a GPU without room for a workspace: $(cat err)"

# What the GPU wrote the CPU reads, and says the same of it.
for device in cpu cuda; do
  expect 0 "$eval" perplexity one --data text.txt --max-tokens 512 --device $device --json $device.json
  grep -o '"nats_per_token": [0-9.]*' $device.json | cut -c1-24 >$device.loss
done
{ [ -s cpu.loss ] && cmp -s cpu.loss cuda.loss; } || fail "perplexity: $(cat cpu.loss cuda.loss)"

# The same texts as the CPU's, longer than the window: greedy and drawn, several at a time and one by one, with drafts.
printf '{"prompt":"line 3"}\n{"prompt":"the quick brown fox"}\n{"prompt":"j"}\n' >prompts.jsonl
expect 0 "$train" $model --mtp-depth 1 --data text.txt --steps 60 --warmup 5 --lr 0.01 --device cpu -q --threads 1 -o text
texts() {  # NAME RANKS OPTION...: NAME.jsonl
  local name=$1 launch=()
  [ "$2" = 1 ] || launch=(mpirun --bind-to none -n "$2")
  shift 2
  expect 0 "${launch[@]}" "$eval" generate text --prompts prompts.jsonl -q --threads 1 --force -o "$name.jsonl" "$@"
}
drafts() { tr -d ' \n' <"$1" | grep -o '"\(accepted\|drafts\|passes\)":[^],]*'; }
same_texts() {  # NAME OPTION...: on both devices; what became of drafts too
  local name=$1
  shift
  texts "$name-cpu" 1 --device cpu --json cpu.json "$@"
  texts "$name-cuda" 1 --device cuda --json cuda.json "$@"
  { [ -s "$name-cpu.jsonl" ] && cmp -s "$name-cpu.jsonl" "$name-cuda.jsonl"; } ||
    fail "texts of $name: $(cat "$name"-*.jsonl)"
  cmp -s <(drafts cpu.json) <(drafts cuda.json) || fail "drafts of $name: $(cat cpu.json cuda.json)"
}
same_texts greedy --tokens 14
same_texts drawn --tokens 6 --temperature 0.8 --top-k 30 --batch 2
same_texts drafts --tokens 10 --speculate

if command -v mpirun >/dev/null; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  texts ranks 2 --device cuda --tokens 14 --ep 2
  cmp -s greedy-cpu.jsonl ranks.jsonl || fail "texts of two ranks: $(cat ranks.jsonl)"
  # Ranks that find a GPU and ranks that find none are told apart, and stop.
  score=("$eval" perplexity one --data text.txt -q)
  expect 69 mpirun --bind-to none -n 1 "${score[@]}" : -n 1 env MOE_CUDA_PLUGIN=/nothing.so "${score[@]}"
  grep -q "rank 1 .*--device auto: expected a CUDA device, which 1 of 2 ranks have, found no CUDA plugin" err ||
    fail "two kinds of devices: $(cat err)"
  expect 0 mpirun --bind-to none -n 4 "$train" $model $gpu --steps 3 --ep 2 --shard 2 -o mesh
  same_losses cpu mesh 3 1e-5
  expect 0 mpirun --bind-to none -n 4 "$train" $model $gpu --steps 2 --ep 4 --ranks-per-node 2 --optimizer muon -o nodes
  expect 0 "$train" $model --data text.txt --device cpu -q --threads 1 --steps 2 --optimizer muon -o muon
  same_losses muon nodes 2 1e-5
  expect 0 mpirun --bind-to none -n 3 "$train" $model $gpu --steps 2 --shard 3 --zero 1 --ema 0.9 -o zero
  expect 0 "$train" --data text.txt --device cpu -q --threads 1 --resume mesh/step-00000003 --steps 4 -o back
fi

finish
