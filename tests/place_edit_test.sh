#!/bin/bash
# moe-place init, move, swap, add, remove, pin, unpin, set, check, diff, export, import as a user types them: what each does to
# a plan, what each refuses and with which exit code. $1: folder of the executables. Not here: the text forms one by one
# (place_text_test.cpp), damaged plan files (plan_file_test.cpp, fuzz_readers_test.cpp).
set -u
place=$1/moe-place
train=$1/moe-train
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
expect() {  # CODE TEXT-IN-OUTPUT COMMAND...
  local want=$1 text=$2 got
  shift 2
  "$@" >out 2>&1
  got=$?
  [ $got = "$want" ] || { fail "exit $got, expected $want: $*"; tail -n 3 out; }
  [ -z "$text" ] || grep -qF -- "$text" out || { fail "'$text' is not in the output of $*"; head -n 8 out; }
}
refuse() {  # CODE TEXT COMMAND...: the same, and the error is one line, with a hint at most
  expect "$@"
  [ "$(grep -vc "^  hint: " out)" = 1 ] || fail "more than one line: ${*:3}: $(cat out)"
}
lists() {  # PLAN LAYER EXPECTED: the experts of the ranks
  local got
  got=$("$place" export "$1" --format json | grep "\"layer\":$2," | sed 's/.*"ranks":\(.*\)}.*/\1/')
  [ "$got" = "$3" ] || fail "$1, layer $2: expected $3, found $got"
}

# init.
expect 0 "4 layers x 8 experts in 8 slots on 4 ranks of 2 nodes" \
  "$place" init linear --experts 8 --layers 4 --topology "node:2 rank:2" -o plan.h5
lists plan.h5 3 '[[0,1],[2,3],[4,5],[6,7]]'
refuse 73 "plan.h5" "$place" init linear --experts 8 --layers 4 --topology "node:2 rank:2" -o plan.h5
expect 0 "on 3 ranks" "$place" init round-robin --experts 7 --layers 1-2,5 --topology rank:2,1 -o rr.h5
lists rr.h5 5 '[[0,3,6],[1,4],[2,5]]'
expect 0 "wrote" "$place" init random --like plan.h5 -o random.h5 --seed 3
expect 0 "wrote" "$place" init random --like plan.h5 -o again.h5 --seed 3
expect 0 "The same." "$place" diff random.h5 again.h5
expect 0 "wrote" "$place" init random --like plan.h5 -o other.h5 --seed 4
expect 3 "between nodes" "$place" diff random.h5 other.h5
expect 0 "no fault" "$place" check random.h5 --like plan.h5
refuse 2 "expected a topology" "$place" init linear --experts 8 --layers 4 -o x.h5
refuse 2 "expected a number of experts" "$place" init linear --layers 4 --topology rank:2 -o x.h5
refuse 2 "expected layers" "$place" init linear --experts 8 --topology rank:2 -o x.h5
refuse 2 "expected linear, round-robin or random" "$place" init best --like plan.h5 -o x.h5
refuse 2 "did you mean move?" "$place" mov plan.h5 0 1 2

# Single changes.
expect 0 "1 change in 1 layer" "$place" move plan.h5 0 3 2 -o a.h5
lists a.h5 0 '[[0,1],[2],[4,5,3],[6,7]]'
expect 0 "8 changes in 4 layers" "$place" swap plan.h5 all 0 7 -o b.h5
lists b.h5 2 '[[7,1],[2,3],[4,5],[6,0]]'
expect 0 "2 changes in 2 layers" "$place" add plan.h5 1-2 0 3 -o c.h5
lists c.h5 2 '[[0,1],[2,3],[4,5],[6,7,0]]'
expect 0 "in 8 to 9 slots" "$place" remove c.h5 1 0 0 -o d.h5
lists d.h5 1 '[[1],[2,3],[4,5],[6,7,0]]'
expect 0 "4 changes" "$place" set plan.h5 0 0 0,3 1 2,1 -o e.h5
lists e.h5 0 '[[0,3],[2,1],[4,5],[6,7]]'
expect 0 "wrote plan.h5" "$place" move plan.h5 3 0-1 3 --force
lists plan.h5 3 '[[],[2,3],[4,5],[6,7,0,1]]'
expect 0 "wrote plan.h5" "$place" move plan.h5 3 0-1 3 0 --force
expect 0 "nothing written" "$place" move plan.h5 3 0 3 --dry-run -o no.h5
[ ! -e no.h5 ] || fail "--dry-run wrote a plan"
grep -q moe-place <("$place" export plan.h5 --format json | tail -n 1) || fail "no provenance"

# What cannot be meant.
refuse 2 "expected -o PLAN for the changed plan" "$place" move plan.h5 0 3 2
refuse 2 "expected move PLAN LAYER EXPERT [FROM] TO, found 2 words" "$place" move plan.h5 0
refuse 2 "expected set PLAN LAYER RANK LIST" "$place" set plan.h5 0 1 2 3 -o x.h5
refuse 2 "layer: expected one of 0-3 or all, found 9" "$place" move plan.h5 9 3 2 -o x.h5
refuse 2 "rank: expected a number from 0 to 3, found '4'" "$place" move plan.h5 0 3 4 -o x.h5
refuse 2 "experts: expected a number from 0 to 7, found '8'" "$place" move plan.h5 0 8 2 -o x.h5
refuse 2 "layer 0: expected no expert 3 on rank 1 yet, found it there" "$place" move plan.h5 0 3 1 -o x.h5
refuse 2 "expected expert 3 on rank 0, found it on rank 1" "$place" move plan.h5 0 3 0 2 -o x.h5
refuse 2 "expected expert 0 on one rank, found it on rank 0,3" "$place" move c.h5 1 0 2 -o x.h5
refuse 2 "expected two experts on two ranks, found both on rank 0" "$place" swap plan.h5 0 0 1 -o x.h5
refuse 65 "expert 3 is on no rank" "$place" remove plan.h5 0 3 -o x.h5
refuse 65 "several pairs RANK LIST change at once" "$place" set plan.h5 0 0 0,3 -o x.h5
refuse 66 "nowhere.h5" "$place" check nowhere.h5
[ ! -e x.h5 ] || fail "a refused change wrote a plan"

# Pins hold against the hand as well.
expect 0 "2 changes in 2 layers" "$place" pin plan.h5 0-1 3 -o pinned.h5
refuse 2 "unpin it first" "$place" move pinned.h5 0 3 2 -o x.h5
refuse 2 "unpin it first" "$place" set pinned.h5 0 1 2 -o x.h5
expect 0 "wrote" "$place" unpin pinned.h5 all 3 -o free.h5
expect 0 "The same." "$place" diff plan.h5 free.h5
expect 3 "2 differ" "$place" diff plan.h5 pinned.h5
expect 3 "layer 0: expected expert 3 on rank 1, where pinned.h5 pins it" "$place" check a.h5 --like pinned.h5

# check: all faults, in any form; exit 3.
expect 0 "no fault" "$place" check a.h5
grep -qE "not checked +memory" out || fail "check does not say what it left out: $(cat out)"
expect 0 "wrote" "$place" set a.h5 1 0 3 --allow-faults -o bad.h5
expect 3 "2 faults" "$place" check bad.h5
grep -qF "layer 1: expert 0 is on no rank" out || fail "check: $(cat out)"
grep -qF "layer 1: expert 1 is on no rank" out || fail "check: $(cat out)"
expect 3 '"layer 1: expert 1 is on no rank"' "$place" check bad.h5 --json -
expect 3 "rank 2: expected at most 11.00 KiB of experts, found 12.00 KiB (9 copies)" \
  "$place" check a.h5 --memory-per-rank 11K --expert-bytes 1365
expect 0 "(most: 9.00 KiB)" "$place" check a.h5 --memory-per-rank 11K --expert-bytes 1024
expect 0 "each of 2 routing groups in one node" "$place" check plan.h5 --groups 2
expect 3 "layer 0: expected group 0 (experts 0-3) in one node, found it in nodes 0-1" "$place" check a.h5 --groups 2
refuse 2 "expected a divisor of 8 experts, found 3" "$place" check plan.h5 --groups 3

# diff: copies, bytes, time; exit 3.
expect 0 "The same." "$place" diff plan.h5 plan.h5
expect 3 "1 copy, 1.00 MiB" "$place" diff plan.h5 a.h5 --expert-bytes 1048576 --inter-mbit 8.388608 -v
grep -qE "time +1 s on the busiest link" out || fail "diff: no time: $(cat out)"
grep -qE "^ +0 +3 +1 +2$" out || fail "diff: no list of moves: $(cat out)"
expect 3 '"bytes_between_nodes": 1048576' "$place" diff plan.h5 a.h5 --expert-bytes 1048576 --json -
refuse 65 "expected 8 experts as in plan.h5, found 7" "$place" diff plan.h5 rr.h5

# export, sed, import.
expect 0 "" "$place" export plan.h5 -o plan.csv
sed -i 's/^0,3,1,0,3,0$/0,3,2,1,3,0/' plan.csv
expect 3 "1 copy" "$place" diff plan.h5 plan.csv
expect 0 "import: 4 layers x 8 experts" "$place" import plan.csv -o edited.h5
lists edited.h5 0 '[[0,1],[2],[3,4,5],[6,7]]'
expect 3 "only the order of slots" "$place" diff a.h5 edited.h5
refuse 2 "expected a plan file to change, found a text" "$place" move plan.csv 0 3 1 --force
expect 0 "wrote" "$place" move plan.csv 0 3 1 -o back.h5
sed -i 's/^0,3,2,1,3,0$//' plan.csv
refuse 65 "plan.csv: layer 0: expert 3 is on no rank" "$place" import plan.csv -o x.h5
expect 3 "layer 0: expert 3 is on no rank" "$place" check plan.csv
for form in csv json eplb vllm sglang; do
  expect 0 "" "$place" export b.h5 --format $form -o b.$form
  expect 0 "wrote" "$place" import b.$form --format $form --topology "node:2 rank:2" -o "from $form.h5"
  expect 0 "The same." "$place" diff b.h5 "from $form.h5"
done
refuse 2 "expected 2 slots on every rank of every layer, found 3 on rank 3 of layer 1" "$place" export c.h5 --format vllm
refuse 73 "b.csv" "$place" export b.h5 -o b.csv
refuse 2 "expected a name that ends in .csv or .json" "$place" export b.h5 -o b.txt
refuse 65 "expected the number of ranks, found none in this form" "$place" import b.vllm --format vllm -o x.h5
expect 0 "pins are lost" "$place" export pinned.h5 --format sglang
refuse 2 "--format: expected csv, json" "$place" export b.h5 --format xml

# Layers and experts of a run: its checkpoint, its routing file.
for i in $(seq 60); do echo "line $i: the quick brown fox $((i * i * 7919 % 1000))"; done >text.txt
"$train" --data text.txt -q --layers 2 --heads 2 --kv-heads 2 --head-dim 8 --experts 4 --expert-ffn 16 --d-model 16 --seq 24 \
  --batch 2 --steps 1 --threads 1 -o "a run" >/dev/null || fail "no run"
expect 0 "2 layers x 4 experts" "$place" init linear --like "a run" --topology rank:2 -o run.h5
expect 0 "2 layers x 4 experts" "$place" init linear --like "a run/routing.h5" --topology rank:2 -o run2.h5
expect 0 "The same." "$place" diff run.h5 run2.h5
expect 0 "no fault" "$place" check run.h5 --like "a run"
expect 3 "expected layers 0-1 as in a run, found 0-3" "$place" check plan.h5 --like "a run"
refuse 65 "expected a file of kind 'moe-plan', found 'moe-routing'" "$place" check "a run/routing.h5"

[ $failures = 0 ] && echo "all passed"
exit $((failures > 0))
