#!/usr/bin/env bash
# label: mpi
# moe-eval as a user starts it: the same table on 1, 2, 4 and 7 ranks, what it writes, what it says when something is wrong.
# $1: folder of the executables. MOE_TEST_MPIEXEC: the launcher. Not here: what losses are (eval_test.cpp), tasks
# (eval_tasks_test).
set -u
bin=$1
eval=$bin/moe-eval
launcher=${MOE_TEST_MPIEXEC:-mpirun}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
failures=0
fail() {
  echo "FAILED: $1"
  tail -n 4 err | sed 's/^/  | /'
  failures=$((failures + 1))
}
# RANKS OPTION...: leaves out, err, code. 0 ranks: without a launcher.
run() {
  local ranks=$1
  shift
  if [ "$ranks" = 0 ]; then
    "$eval" "$@" -q --threads 1 >out 2>err </dev/null
  else
    timeout -k 5 100 "$launcher" -n "$ranks" "$eval" "$@" -q --threads 1 >out 2>err </dev/null
  fi
  code=$?
}
expect() {  # CODE RANKS OPTION...
  local want=$1
  shift
  run "$@"
  [ "$code" = "$want" ] || fail "exit $code, expected $want: $*"
}
refuse() {  # CODE WORDS RANKS OPTION...
  local want=$1 words=$2
  shift 2
  expect "$want" "$@"
  grep '^moe-eval: error:' err | grep -qF -- "$words" || fail "'$words' is not in the error of: $*"
  [ "$(grep -c '^moe-eval: error:' err)" = 1 ] || fail "$(grep -c '^moe-eval: error:' err) lines of error: $*"
}
value() { sed -n "s/^ *\"$1\": \([-0-9.e+]*\),*\$/\1/p" "$2" | head -n 1; }  # KEY FILE

for i in $(seq 150); do echo "line $i: the quick brown fox jumps over $((i * i * 7919 % 1000))"; done >text.txt
head -c 2500 text.txt >held.txt
"$bin/moe-train" --data text.txt --eval-data held.txt --layers 2 --heads 2 --kv-heads 2 --head-dim 8 --experts 4 --expert-ffn 16 \
  --d-model 16 --seq 24 --batch 4 --steps 20 --save-every 10 --lr 0.01 --warmup 2 --threads 1 \
  --sample 'line 1' --sample-tokens 40 --temperature 0 -o run --json train.json -q >sample.out 2>err || fail "no run"

# The loss is that of the evaluation of moe-train, and the table does not know the ranks.
expect 0 0 perplexity run --data held.txt --json one.json
table() { grep -E '^  (nats|perplexity|bits|byte|word)' out; }
table >one.table
awk -v a="$(value nats_per_token one.json)" -v b="$(value eval_loss train.json)" 'BEGIN { d = a - b; exit !(a > 0 && b > 0 && d * d < 1e-12) }' ||
  fail "nats per token $(value nats_per_token one.json), moe-train's evaluation $(value eval_loss train.json)"
for ranks in 1 2 4 7; do
  expect 0 "$ranks" perplexity run --data held.txt
  cmp -s <(table) one.table || fail "another table on $ranks ranks: $(table)"
done
expect 0 4 perplexity run --data held.txt --ep 2 --shard 2 --batch 1
cmp -s <(table) one.table || fail "another table on shard 2 x ep 2, one window at a time"
expect 0 0 perplexity run --data held.txt --stride 8
[ "$(table | wc -l)" = 5 ] || fail "--stride: no table"
cmp -s <(table) one.table && fail "--stride: more context changes nothing"
tr -s '\n ' ' ' <out | grep -q 'at least 16 before it' || fail "the protocol is not said"
expect 0 2 perplexity run --data held.txt --dry-run --ep 2
grep -q '^mesh of 2 ranks' out || fail "--dry-run: no mesh"

# A run against itself and against an earlier checkpoint; the exit code is 0 whatever it finds.
expect 0 0 compare run run/step-00000020 --data held.txt
grep -q 'the two are equal' out || fail "compare with itself: $(cat out)"
expect 0 2 compare run/step-00000010 run --data held.txt --json compare.json
grep -q 'B is better' out || fail "compare with an earlier one: $(cat out)"
awk -v p="$(value p_t compare.json)" 'BEGIN { exit !(p < 0.05) }' || fail "p_t $(value p_t compare.json)"

# Texts: the same of any mesh; JSONL in, JSONL out.
printf '{"task_id":"a/1","prompt":"line 3: the"}\n\n{"task_id":"a/2","prompt":"fox"}\n{"task_id":"a/3","prompt":"jumps over 1"}\n' >prompts.jsonl
expect 0 0 generate run --prompts prompts.jsonl --tokens 9 --temperature 0.9 --top-k 30 --seed 4 -o one.jsonl
[ "$(grep -c '"completion"' one.jsonl)" = 3 ] && grep -q '"task_id":"a/3"' one.jsonl || fail "generate: $(cat one.jsonl)"
expect 0 4 generate run --prompts prompts.jsonl --tokens 9 --temperature 0.9 --top-k 30 --seed 4 -o four.jsonl
cmp -s one.jsonl four.jsonl || fail "other texts on 4 ranks"
refuse 73 "one.jsonl" 0 generate run --prompts prompts.jsonl -o one.jsonl
expect 0 0 generate run --prompt "line" --tokens 5
[ "$(head -c 4 out)" = line ] || fail "generate --prompt: $(cat out)"
expect 0 2 generate run --prompt "line 1" --tokens 40 --seq 24
[ -s out ] && grep -qFx -- "$(head -n 1 out)" sample.out || fail "generate: $(cat out), moe-train --sample: $(cat sample.out)"

# Statistics that moe-place reads; the same file of any mesh, but for its history.
expect 0 0 routing run --data held.txt --data text.txt -o one.h5
expect 0 4 routing run --data held.txt --data text.txt -o four.h5 --json routing.json
grep -q '"distances"' routing.json || fail "routing: no distances"
"$bin/moe-place" show one.h5 --json one.json >/dev/null 2>err || fail "moe-place does not read it"
"$bin/moe-place" show four.h5 --json four.json >/dev/null 2>err || fail "moe-place does not read it"
cmp -s <(sed 's/one\.h5//g' one.json) <(sed 's/four\.h5//g' four.json) || fail "other statistics on 4 ranks"
refuse 73 "one.h5" 2 routing run --data held.txt -o one.h5

# Tasks, through the same scores: the same table of any mesh.
printf '{"prompt":"line 3: the quick","choices":["brown fox","blue cat"],"answer":0}\n{"prompt":"jumps","choices":["1","over","z z"],"answer":1}\n' >tasks.jsonl
expect 0 0 tasks run --task choices=tasks.jsonl
grep -v ' s$' out >one.table
[ -s one.table ] || fail "tasks: no table"
expect 0 4 tasks run --task choices=tasks.jsonl --ep 2 --shard 2
cmp -s <(grep -v ' s$' out) one.table || fail "tasks: another table on 4 ranks"

# What is wrong is said once.
refuse 66 "nowhere" 2 perplexity nowhere --data held.txt
refuse 66 "nowhere.txt" 2 perplexity run --data nowhere.txt
refuse 2 "--data: expected one" 0 perplexity run
refuse 2 "found 'perplexty'" 2 perplexty run --data held.txt
refuse 2 "expected 2 checkpoints" 0 compare run --data held.txt
refuse 2 "--stride: expected at most --seq, 24, found 25" 2 perplexity run --data held.txt --stride 25
refuse 2 "--top-p: expected above 0" 0 generate run --prompt a --top-p 0
refuse 2 "either --prompt or --prompts" 2 generate run
printf 'a' >tiny.txt
refuse 65 "at least 2 tokens" 0 perplexity run --data tiny.txt
head -c 4000 text.txt | tr -c 'A-Za-z' 'e' >ids.bin
"$bin/moe-data" import nanogpt ids.bin --dtype u16 --vocab-size 50257 -o other.h5 >/dev/null 2>&1 || fail "import"
refuse 65 "a vocabulary of at most 256" 2 perplexity run --data other.h5
printf '{"prompt":"a"}\n{"prompt":\n{"prompt":"\377"}\n' >bad.jsonl
refuse 65 "bad.jsonl:2" 2 generate run --prompts bad.jsonl
refuse 65 "bad.jsonl:3" 0 generate run --prompts bad.jsonl --skip-bad 1
expect 0 0 generate run --prompts bad.jsonl --skip-bad 2 --tokens 2 --json bad.json
[ "$(value bad_lines bad.json)" = 2 ] || fail "--skip-bad: not counted"
printf '{"prompt":"%s"}\n' "$(head -c 60 text.txt | tr -d '\n')" >long.jsonl
refuse 65 "expected at most 24 tokens" 2 generate run --prompts long.jsonl --strict
expect 0 0 generate run --prompts long.jsonl --tokens 2 --json long.json
[ "$(value cut_prompts long.json)" = 1 ] || fail "a prompt that was cut is not counted"
cp -r run/step-00000020 broken
head -c 100000 /dev/zero | dd of=broken/shard-00000.h5 bs=1000 seek=8 conv=notrunc status=none
refuse 65 "broken" 2 perplexity broken --data held.txt

[ $failures = 0 ] && echo "moe-eval: all as expected"
exit $((failures > 0))
