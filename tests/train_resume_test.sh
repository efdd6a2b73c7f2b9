#!/bin/bash
# A resumed run is the run that never stopped, bit for bit: from a checkpoint, after SIGUSR1, after SIGKILL at any instant;
# its metrics follow. $1: folder of the executables. Not here: what one checkpoint holds (checkpoint_test.cpp).
# shellcheck source=tests/shell_test_parts.sh
. "$(dirname "$0")/shell_test_parts.sh"
train=$1/moe-train
digest() { grep -m1 '^ "digest"' "$1/manifest.json"; }  # of all tensors, however they are cut into files
same() { [ -n "$(digest "$1")" ] && [ "$(digest "$1")" = "$(digest "$2")" ] || fail "$3: $1 and $2 differ"; }
steps_of() { grep -v '"event"' "$1/metrics.jsonl" | grep -o '"step":[0-9]*' | cut -d: -f2; }
rising() { steps_of "$1" | sort -n -u -c || fail "$1/metrics.jsonl: a step is missing its order or there twice"; }
wait_for_step() { for _ in $(seq 500); do [ "$(grep -c loss "$1/metrics.jsonl" 2>/dev/null)" -ge "$2" ] 2>/dev/null && return; sleep 0.01; done; }

for i in $(seq 400); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
model="--layers 2 --heads 2 --kv-heads 2 --head-dim 8 --experts 4 --expert-ffn 16 --data text.txt"
batch="--seq 24 --batch 4 --warmup 3"
small="$model --d-model 16 $batch -q"
steps=1500 # enough to be stopped and killed in between
sanitized "$train" && steps=300
last=$(printf 'step-%08d' $steps)
long="$model --d-model 16 --seq 64 --batch 4 --warmup 3 --steps $steps -q"
bias="--router-score sigmoid --router-bias --bias-update-speed 0.01 --seq-aux-loss 0.01"

# 2N steps against N, stop, N: fp32, bf16, router bias, accumulation, recomputation, another number of threads.
n=0
for how in "" "--dtype bf16 --recompute light" "$bias --micro-batch 2" "--dtype bf16 $bias --micro-batch 1 --recompute full"; do
  n=$((n + 1))
  expect 0 "$train" $small $how --steps 12 --save-every 6 --threads 2 -o whole$n
  expect 0 "$train" --data text.txt -q --resume whole$n/step-00000006 --threads 1 -o half$n
  same whole$n/step-00000012 half$n/step-00000012 "resume with '$how'"
  [ "$(steps_of half$n | tr '\n' ' ')" = "7 8 9 10 11 12 " ] || fail "half$n: steps $(steps_of half$n)"
done
expect 0 "$train" $small --steps 12 --eval-data text.txt --eval-every 2 --eval-tokens 200 -o evaluated
same whole1/step-00000012 evaluated/step-00000012 "evaluation in between"

# The words of --resume.
expect 66 "$train" $small --steps 4 --resume must -o none
expect 66 "$train" $small --steps 4 --resume nowhere -o none
[ -e none ] && fail "a refused resume made its output"
expect 73 "$train" $small --steps 4 --resume never -o whole1
expect 73 "$train" --data text.txt -q --resume whole1 -o half1
expect 0 "$train" $small --steps 12 -o whole1
same whole1/step-00000012 half1/step-00000012 "resume auto of a run that is over"
cp -r whole1 longer
expect 0 "$train" -q --data text.txt --resume ./longer/ --steps 14 -o longer
[ "$(steps_of longer | sort -u | wc -l)" = 14 ] || fail "longer: an output spelled in another way lost its metrics"

# What may not change, and what may.
expect 2 "$train" $model $batch --steps 12 --d-model 32 --resume must -o whole1
grep -q "d-model: checkpoint 16, now 32" err || fail "d-model: $(cat err)"
expect 2 "$train" $small --steps 12 --seed 5 --resume must -o whole1
expect 0 "$train" --data text.txt --resume whole1/step-00000006 --lr 1e-4 -o slower
grep -q "lr: checkpoint 0.003.*, now" err || fail "lr: $(cat err)"
sed 's/fox/cat/' text.txt >other.txt
expect 65 "$train" -q --data other.txt --resume whole1/step-00000006 -o other
[ -e other ] && fail "a refused resume made its output"
expect 0 "$train" -q --data other.txt --resume whole1/step-00000006 --allow-data-change -o other

# A run directory whose name is the beginning of another's is another directory.
expect 0 "$train" -q --data text.txt --resume whole1/step-00000006 -o whole
[ "$(head -n 1 whole/metrics.jsonl | grep -c resume)" = 0 ] || fail "whole took over the metrics of whole1"

# SIGUSR1: exit 75 with a checkpoint; going on reaches the same end.
expect 0 "$train" $long -o calm
"$train" $long -o stopped 2>err &
pid=$!
wait_for_step stopped 20
kill -USR1 $pid
wait $pid
code=$?
[ $code = 75 ] || fail "SIGUSR1: exit $code, expected 75"
expect 0 "$train" $long --resume must -o stopped
same "calm/$last" "stopped/$last" "SIGUSR1"
rising stopped
grep -q '"event":"resume"' stopped/metrics.jsonl || fail "no marker of the resumption"

# SIGKILL at any instant: the newest complete checkpoint loads; in the end nothing shows.
for i in $(seq 10); do
  "$train" $long --save-every 1 -o killed 2>err &
  pid=$!
  sleep 0.$((RANDOM % 30 + 10))
  kill -KILL $pid 2>/dev/null
  wait $pid 2>/dev/null
done
expect 0 "$train" $long --save-every 500 -o killed
same "calm/$last" "killed/$last" "ten kills"
rising killed
[ "$(steps_of killed | wc -l)" = $steps ] || fail "killed: $(steps_of killed | wc -l) rows of $steps"
ls -d killed/.tmp-* 2>/dev/null && fail "leftovers of killed saves"

# Which checkpoints stay.
expect 0 "$train" $small --steps 10 --save-every 1 --keep-last 2 --keep-every 4 -o kept
[ "$(cd kept && echo step-*)" = "step-00000004 step-00000008 step-00000009 step-00000010" ] || fail "kept: $(ls kept)"
[ "$(cat kept/latest)" = step-00000010 ] || fail "latest: $(cat kept/latest)"

# Not finite: skip goes on and counts, the limit and the other policies end in 76; the checkpoint from before stays.
hot="$model --d-model 16 --seq 24 --batch 4 -q --lr 3e38 --warmup 0 --grad-clip 0 --weight-decay 1 --steps 12"
expect 76 "$train" $hot --nonfinite stop --save-every 1 -o stop
expect 76 "$train" $hot --nonfinite skip --nonfinite-limit 3 -o skip
[ "$(grep -c '"updated":false' skip/metrics.jsonl)" = 3 ] || fail "skip: not three skipped updates before the end"
expect 76 "$train" $hot --nonfinite rollback -o rollback
grep -q "expected a checkpoint of this run" err || fail "rollback without a checkpoint: $(cat err)"
expect 0 "$train" $hot --nonfinite skip --nonfinite-limit 100 -o through
expect 0 "$train" -q --data text.txt --resume through --steps 13 --nonfinite-limit 100 -o through

# An update may make parameters that are not finite out of a gradient that is: these are not saved.
expect 0 "$train" $model --d-model 16 --seq 24 --batch 4 -q --steps 2 --save-every 1 -o poisoned
expect 76 "$train" -q --data text.txt --resume poisoned --lr 3.4e38 --warmup 0 --weight-decay 1e3 --steps 3 -o poisoned
grep -q "tensor .*, element .*: parameters are not finite" err || fail "poisoned: $(cat err)"
[ "$(cat poisoned/latest) $(cd poisoned && echo step-*)" = "step-00000002 step-00000001 step-00000002" ] || fail "poisoned: $(ls -a poisoned)"
ls -d poisoned/.tmp-* 2>/dev/null && fail "leftovers of a refused save"

finish
