#!/bin/bash
# Bad input to moe-train: the exit code, one line with the right words, nothing half-written; and the results that scripts
# read. $1: folder of the executables. Not here: damage inside checkpoints (checkpoint_test.cpp).
set -u
train=$1/moe-train
dir=$(mktemp -d)
trap 'umount "$dir/disk" 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
refuse() {  # CODE WORDS COMMAND...
  local want=$1 words=$2 got
  shift 2
  "$@" >out 2>err
  got=$?
  [ $got = "$want" ] || fail "exit $got, expected $want: $*"
  grep -q -- "$words" err || fail "'$words' is not in the error of $*: $(tail -n 2 err)"
  [ "$(grep -c 'error:' err)" = 1 ] || fail "not one error: $*"
  [ -e run ] && { fail "something was written: $*"; rm -rf run; }
}
for i in $(seq 300); do echo "line $i of a text that is long enough $((i * i * 7919 % 1000))"; done >text.txt
small="--layers 1 --d-model 16 --heads 2 --kv-heads 2 --head-dim 8 --expert-ffn 16 --batch 2"
tiny="$small --experts 4 --seq 16 --steps 2 --data text.txt -q"
go="$train -o run --steps 2"

refuse 2 "steps" $train --data text.txt -o run --stepz 3
refuse 2 "steps" $train --data text.txt -o run --steps many
refuse 2 "top-k" $go --data text.txt --top-k 9 --experts 8
refuse 2 "head-dim" $go --data text.txt --head-dim 7
refuse 2 "micro-batch" $go --data text.txt --batch 4 --micro-batch -1
refuse 2 "aux-loss" $go --data text.txt --aux-loss=-1
refuse 2 "bias-update-speed" $go --data text.txt --bias-update-speed 0.1
refuse 2 "--data" $go
refuse 2 "tiny" $go --data text.txt --preset tnyi
refuse 2 "deepseek-v3" $go --data text.txt --preset deepseek-v4
refuse 66 "missing.h5" $go --data missing.h5
refuse 66 "missing.txt" $go --data text.txt --eval-data missing.txt
printf '\211HDF\r\n\032\ntruncated' >short.h5
refuse 65 "short.h5" $go --data short.h5
if [ -x "$1/moe-data" ]; then
  "$1/moe-data" encode text.txt -o good.h5 -q >out 2>err || fail "moe-data: $(cat err)"
  head -c $(($(stat -c %s good.h5) / 2)) good.h5 >half.h5
  refuse 65 "half.h5" $go --data half.h5
fi
: >empty.txt
refuse 65 "empty.txt" $go --data empty.txt
printf abc >abc.txt
refuse 65 "abc.txt" $go --data abc.txt
printf a >a.txt
refuse 65 "a.txt" $go --data text.txt --eval-data a.txt
refuse 65 "vocab-size" $go --data text.txt --vocab-size 100

# What must not be overwritten, and where nothing can be written.
$train $tiny -o mine >out 2>err || fail "a small run: $(cat err)"
before=$(cat mine/metrics.jsonl mine/step-00000002/manifest.json | cksum)
refuse 73 "mine" $train $tiny --resume never -o mine
[ "$(cat mine/metrics.jsonl mine/step-00000002/manifest.json | cksum)" = "$before" ] || fail "a refused run changed its output"
$train $tiny --seed 5 --force -o mine >out 2>err || fail "--force: $(cat err)"
: >file
refuse 73 "file" $train $tiny -o file/run

# A full disk while a checkpoint is written: a small tmpfs where that is allowed, else a planned fault.
mkdir disk
wide="--layers 1 --d-model 256 --heads 2 --kv-heads 2 --head-dim 8 --expert-ffn 256 --batch 2 --experts 4 --seq 16"
if mount -t tmpfs -o size=2m none disk 2>/dev/null; then
  refuse 74 "disk" $train $wide --steps 2 --data text.txt -q -o disk/run
else
  refuse 74 "disk" env MOE_FAULT=op=write,n=8,err=ENOSPC $train $wide --steps 2 --data text.txt -q -o disk/run
fi
ls -d disk/run/step-* disk/run/.tmp-* 2>/dev/null && fail "a full disk left half a checkpoint"

# The keys that scripts rely on.
keys="params_total params_active params_active_no_embedding flop_per_token"
$train --preset olmoe-1b-7b --dry-run --json - -q >out 2>err || fail "--dry-run: $(cat err)"
for key in $keys; do grep -q "\"$key\"" out || fail "--dry-run --json: no $key"; done
grep -q '"params_total": 6919161856' out || fail "--dry-run: params_total"
$train $tiny --eval-data text.txt --json - >out 2>err || fail "--json: $(cat err)"
for key in $keys steps train_loss eval_loss train_seconds tokens_per_second; do grep -q "\"$key\"" out || fail "--json: no $key"; done
[ "$(head -c 1 out)" = "{" ] || fail "--json -: standard output is more than JSON"
$train --data text.txt --dry-run -o run >out 2>err || fail "--dry-run: $(cat err)"
[ -e run ] && fail "--dry-run wrote something"

[ $failures = 0 ] && echo "all passed"
exit $((failures > 0))
