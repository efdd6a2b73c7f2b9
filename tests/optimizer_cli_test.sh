#!/bin/bash
# --moments, --ema, --optimizer of moe-train as a user meets them: what the tools say, which differences resume, what a
# checkpoint's average can become. $1: folder of the executables. Not here: the arithmetic (optimizer_test.cpp).
# shellcheck source=tests/shell_test_parts.sh
. "$(dirname "$0")/shell_test_parts.sh"
bin=$1
number() { grep -o "\"$1\": *[0-9.e+-]*" "$2" | head -1 | sed 's/.*: *//'; }
says() { grep -q -- "$1" "$2" || fail "$2 does not say '$1': $(cat "$2")"; }

for i in $(seq 200); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
model="--layers 2 --d-model 16 --heads 2 --kv-heads 2 --head-dim 8 --experts 4 --expert-ffn 16 --seq 24 --batch 4 --warmup 2"
train="$bin/moe-train $model --data text.txt"

# Moments and the average in the memory that --dry-run predicts.
expect 0 $train --dry-run --json plain.json
expect 0 $train --dry-run --moments bf16 --ema 0.9 --json both.json
[ "$(number moments both.json)" = $(($(number moments plain.json) / 2)) ] || fail "memory of bf16 moments: $(number moments both.json)"
[ "$(number ema both.json)" = $(($(number moments plain.json) / 2)) ] || fail "memory of the average: $(number ema both.json)"
expect 0 $train --dry-run --optimizer muon --json muon.json
[ "$(number moments muon.json)" -lt "$(number moments plain.json)" ] || fail "Muon keeps as much as AdamW"
[ "$(number checkpoint_bytes muon.json | cut -d. -f1)" -lt "$(number checkpoint_bytes plain.json | cut -d. -f1)" ] || fail "checkpoint of Muon"
expect 2 $train --ema 1 --steps 1
expect 2 $train --moments fp16 --steps 1

# The average's loss is told at the end, and moe-eval, moe-reshard and an export give the same.
expect 0 $train --steps 6 --eval-data text.txt --ema 0.5 --moments bf16 --optimizer muon -o run --json run.json
says "moving average" out
says '"ema_ms"' run/metrics.jsonl
ema=$(number ema_eval_loss run.json)
[ -n "$ema" ] && [ "$ema" != "$(number eval_loss run.json)" ] || fail "no loss of the average: $(cat run.json)"
expect 0 "$bin/moe-reshard" verify run --deep
near() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && (a - b) ^ 2 < 1e-9) }' || fail "$3: $1 and $2"; }
expect 0 "$bin/moe-eval" perplexity run --data text.txt --weights ema --json ema.json
near "$(grep -o '"\(loss\|nats_per_token\)": *[0-9.]*' ema.json | head -1 | sed 's/.*: *//')" "$ema" "moe-eval --weights ema"
says '"weights": *"ema"' ema.json
expect 0 "$bin/moe-reshard" run -o cut --files 3
expect 0 "$bin/moe-reshard" diff run cut
expect 0 "$bin/moe-reshard" cut -o averaged --weights ema --shard 2
expect 0 "$bin/moe-reshard" show averaged
expect 0 "$bin/moe-eval" perplexity averaged --data text.txt --json averaged.json
near "$(grep -o '"\(loss\|nats_per_token\)": *[0-9.]*' averaged.json | head -1 | sed 's/.*: *//')" "$ema" "moe-reshard --weights ema"
expect 65 "$bin/moe-eval" perplexity averaged --data text.txt --weights ema
says "role ema" err
expect 65 "$bin/moe-reshard" averaged -o none --weights ema
expect 65 $train --steps 8 --resume averaged -o none
expect 0 $train --steps 2 --init-from averaged -o anew
expect 2 "$bin/moe-reshard" run -o none --weights mean

# Which differences resume: moments and average do, told; the optimizer does not.
expect 0 $train --steps 8 --resume run --moments fp32 --ema 0 -o other
says "moments: checkpoint bf16, now fp32" err
says "moving average of the checkpoint is left out" err
expect 0 $train --steps 10 --resume other --ema 0.5 -o again
says "moving average begins" err
expect 2 $train --steps 8 --resume run --optimizer adamw -o none
says "optimizer: checkpoint muon, now adamw" err

# What was saved with an average is exported with it.
expect 0 "$bin/moe-reshard" export run -o hf-model
expect 0 "$bin/moe-reshard" export run -o hf-average --weights ema
cmp -s hf-model/model.safetensors hf-average/model.safetensors && fail "the export of the average is that of the weights"
expect 65 "$bin/moe-reshard" export averaged -o none --weights ema

finish
