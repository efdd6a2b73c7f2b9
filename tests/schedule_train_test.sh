#!/bin/bash
# label: mpi
# Runs whose batch, learning rate and bias speed change on the way: what metrics.jsonl says of each step, and that a resumed
# run is the one that never stopped, on other ranks too. $1: folder of the executables. Not here: the values themselves
# (schedule_test.cpp).
# shellcheck source=tests/shell_test_parts.sh
. "$(dirname "$0")/shell_test_parts.sh"
train=$1/moe-train
digest() { grep -m1 '^ "digest"' "$1/manifest.json"; }
values() { grep -v '"event"' "$1/metrics.jsonl" | grep -o "\"$2\":[-0-9.e]*" | cut -d: -f2 | tr '\n' ' '; }
is() { [ "$(values "$1" "$2")" = "$3 " ] || fail "$1: $2: expected $3, found $(values "$1" "$2")"; }

for i in $(seq 400); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
# 12 steps of 2 2 2 4 4 6 7 7 7 7 7 7 sequences of 16 tokens, 62 in all: 18 sequences (288 tokens) grow in three parts of 6.
plan="--batch 7 --batch-ramp 2:288K:2 --schedule phases --lr-phases constant@0.5,linear:0 --warmup 2 --lr 0.01"
plan=${plan/288K/0.288K}
model="--layers 2 --d-model 16 --heads 2 --kv-heads 2 --head-dim 8 --experts 4 --expert-ffn 16 --seq 16 --data text.txt -q"
model="$model --router-score sigmoid --router-bias --bias-update-speed 0.01,0@0.6K"

expect 0 "$train" $model $plan --steps 12 --save-every 4 --keep-last 9 -o whole
is whole batch "2 2 2 4 4 6 7 7 7 7 7 7"
is whole tokens "32 64 96 160 224 320 432 544 656 768 880 992"
u=0.009999999776482582
is whole bias_update_speed "$u $u $u $u $u $u $u $u $u 0.0 0.0 0.0"
for step in 4 8; do
  expect 0 "$train" --data text.txt -q --resume whole/step-0000000$step -o half$step
  [ "$(digest whole/step-00000012)" = "$(digest half$step/step-00000012)" ] || fail "resumed at $step is another run"
done
is half4 batch "4 6 7 7 7 7 7 7"
is half4 tokens "224 320 432 544 656 768 880 992"

# Micro-batches and ranks cut every size; the samples are the same.
expect 0 "$train" $model $plan --steps 12 --micro-batch 2 -o micro
is micro tokens "32 64 96 160 224 320 432 544 656 768 880 992"
if command -v mpirun >/dev/null; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  expect 0 mpirun --bind-to none -n 3 "$train" --data text.txt -q --threads 1 --shard 3 --resume whole/step-00000004 -o ranks
  is ranks batch "4 6 7 7 7 7 7 7"
  is ranks tokens "224 320 432 544 656 768 880 992"
  grep -o '"consumed_samples": *[0-9]*' ranks/step-00000012/manifest.json | grep -q '62$' || fail "consumed samples on 3 ranks"
  a=$(values half4 loss) b=$(values ranks loss)
  paste -d' ' <(tr ' ' '\n' <<<"$a") <(tr ' ' '\n' <<<"$b") |
    awk 'NF == 2 { n++; if (!(($1 - $2)^2 < 1e-8)) bad++ } END { exit !(n == 8 && bad == 0) }' || fail "losses on 3 ranks: $a; $b"
fi

# The ramp decides which samples come next: it may not change.
expect 2 "$train" --data text.txt -q --resume whole/step-00000004 --batch-ramp 2:1K -o other
grep -q "batch-ramp: checkpoint 2:0.288K:2, now 2:1K:2" err || fail "batch-ramp: $(cat err)"
expect 0 "$train" --data text.txt -q --resume whole/step-00000004 --batch-ramp 2:1K --allow-change batch-ramp -o other

# Passes over the data and a batch that grows.
expect 0 "$train" $model --batch 8 --batch-ramp 2:1K:2 --epochs 1 --dry-run --json -
steps=$(grep -o "\"planned_steps\": [0-9]*" out | tr -dc 0-9) tokens=$(grep -o "\"planned_tokens\": [0-9]*" out | tr -dc 0-9)
# 11 steps of 2, 5 of 4 and 4 of 6 sequences instead of 20 of 8: 94 sequences fewer.
{ [ "$tokens" -le "$(stat -c %s text.txt)" ] && [ "$tokens" = $((steps * 8 * 16 - 94 * 16)) ]; } ||
  fail "epochs: $steps steps, $tokens tokens"
expect 0 "$train" $model $plan --steps 12 --router-trace trace.h5 --router-trace-steps 0 -o traced

finish
