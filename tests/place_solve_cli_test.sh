#!/usr/bin/env bash
# moe-place solve as a user types it: EPLB's published example, every form of loads, options one by one, the JSON's members, what
# the plan file keeps, refusals. $1: folder of the executables. Not here: how good plans are (place_solve_test.cpp), EPLB on
# other instances (eplb_test.cpp).
set -u
place=$1/moe-place train=$1/moe-train
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
expect() { # CODE TEXT-IN-OUTPUT COMMAND...
  local want=$1 text=$2 got=0
  shift 2
  "$@" >out 2>&1 || got=$?
  [ $got = "$want" ] || { fail "exit $got, expected $want: $*"; tail -n 3 out; }
  [ -z "$text" ] || grep -qF -- "$text" out || { fail "'$text' is not in the output of $*"; head -n 8 out; }
}
refuse() { # CODE TEXT WORD...: of solve; one line, with a hint at most, and no plan
  local code=$1 text=$2
  shift 2
  expect "$code" "$text" "$place" solve "$@" -o no.h5
  [ "$(grep -vc "^  hint: " out)" = 1 ] || fail "more than one line: $*: $(cat out)"
  [ ! -e no.h5 ] || fail "a plan was written: $*"
}
flat() { tr -d ' \n' <"$1"; }
has() { grep -qF -- "$2" <(flat "$1") || fail "$1: no $2"; } # FILE TEXT

# The example of EPLB's README, from CSV and from JSON, exactly.
cat >w.csv <<'CSV'
90,132,40,61,104,165,39,4,73,56,183,86
20,107,104,64,19,197,187,157,172,86,16,27
CSV
echo '{"weight": [[90,132,40,61,104,165,39,4,73,56,183,86], [20,107,104,64,19,197,187,157,172,86,16,27]]}' >w.json
example=(--policy eplb --replicas 4 --groups 4 --topology "node:2 rank:4")
for loads in w.csv w.json; do
  expect 0 "wrote eplb.h5" "$place" solve --loads $loads "${example[@]}" -o eplb.h5 --force
  "$place" export eplb.h5 --format vllm >map.json
  [ "$(flat map.json)" = '[[5,6,5,7,8,4,3,4,10,9,10,2,0,1,11,1],[7,10,6,8,6,11,8,9,2,4,5,1,5,0,3,1]]' ] ||
    fail "EPLB's example from $loads: found $(cat map.json)"
done
expect 0 "" "$place" solve --loads w.csv "${example[@]}" --expert-bytes 1000 --json solved.json
has solved.json '"phy2log":[5,6,5,7,8,4,3,4,10,9,10,2,0,1,11,1]'
for member in layers layer max_over_mean lower_bound moved_bytes inter_node_rows_per_token policy objective topology; do
  has solved.json "\"$member\":"
done
has solved.json '"moved_bytes":30000,' # 14 + 16 copies against the linear placement
expect 0 "no fault" "$place" check eplb.h5

# Two copies of an expert on a rank, as EPLB may leave them: written, and check says so.
echo '100,1,1,1' >hot.csv
expect 0 "wrote twice.h5" "$place" solve --loads hot.csv --policy eplb --replicas 4 --topology rank:2 -o twice.h5
expect 3 "expert 0 is there more than once" "$place" check twice.h5
expect 0 "wrote once.h5" "$place" solve --loads hot.csv --replicas 4 --topology rank:2 -o once.h5
expect 0 "no fault" "$place" check once.h5

# A run's routing file and its trace; what the plan keeps of them.
for i in $(seq 80); do echo "line $i: the quick brown fox $((i * i * 7919 % 1000))"; done >text.txt
"$train" --data text.txt -q --layers 2 --heads 2 --kv-heads 2 --head-dim 8 --experts 12 --top-k 2 --expert-ffn 16 --d-model 16 \
  --seq 24 --batch 4 --steps 3 --threads 1 --router-trace trace.h5 -o run >/dev/null 2>&1 || fail "no run"
two=(--topology "node:2 rank:2")
expect 0 "12 experts in 12 slots" "$place" solve run/routing.h5 "${two[@]}" -o balance.h5
expect 0 "12 experts in 14 slots" "$place" solve run/routing.h5 "${two[@]}" --replicas 2 -o copies.h5
expect 0 "objective traffic" "$place" solve --routing trace.h5 "${two[@]}" --objective traffic -o traffic.h5
expect 0 "ms a step" "$place" solve trace.h5 "${two[@]}" --objective time --tokens-per-step 96 --row-us 2 --row-bytes 256 --inter-mbit 100
expect 0 "nothing written" "$place" solve trace.h5 "${two[@]}" --dry-run -o none.h5
[ ! -e none.h5 ] || fail "--dry-run wrote a plan"
"$place" export copies.h5 --format json >copies.json
grep -Eq '"inputs":\[\{"digest":"[0-9a-f]{32}","path":"run/routing.h5"\}\]' <(flat copies.json) || fail "no input in the provenance"
for plan in balance copies traffic; do
  expect 0 "no fault" "$place" check $plan.h5 --like run
  expect 0 "rows per token" "$place" score $plan.h5 --routing trace.h5
done
# The same input gives the same plan, whatever the threads.
expect 0 "" "$place" solve run/routing.h5 "${two[@]}" --replicas 2 --threads 2 -o again.h5
expect 0 "The same." "$place" diff copies.h5 again.h5
expect 0 "slots, rank:3,1" "$place" solve run/routing.h5 --topology rank:3,1 -o uneven.h5

# From an old plan: its pins stay, and no more moves than the budget pays.
"$place" init linear --like run --topology "node:2 rank:2" -o linear.h5 >/dev/null
"$place" pin linear.h5 all 0-2 -o pinned.h5 >/dev/null
expect 0 "against pinned.h5" "$place" solve trace.h5 --from pinned.h5 --expert-bytes 1024 --move-budget 3K -o few.h5 --json few.json
expect 0 "no fault" "$place" check few.h5 --like pinned.h5
moved=$(flat few.json | grep -o '"moved_bytes":[0-9]*,"moved_copies":[0-9]*,"objective' | sed 's/,.*//' | tr -cd 0-9)
[ -n "$moved" ] && [ "$moved" -le 3072 ] || fail "--move-budget 3K: ${moved:-no} bytes moved"
"$place" export few.h5 --format json >few-plan.json
has few-plan.json '"path":"trace.h5"},{"digest"'

# What cannot be.
refuse 2 "expected --routing or --loads, found none" "${two[@]}"
refuse 2 "expected --topology" w.csv
refuse 2 "expected --routing or --loads, found both" run/routing.h5 --loads w.csv "${two[@]}"
refuse 2 "expected own, eplb or linear, found 'best'" w.csv "${two[@]}" --policy best
refuse 2 "EPLB: expected nodes of equal size" w.csv --topology rank:3,1 --policy eplb
refuse 2 "--objective time: expected a cost model" trace.h5 "${two[@]}" --objective time
refuse 2 "--move-budget: expected --from" trace.h5 "${two[@]}" --move-budget 1K
refuse 2 "--memory-per-rank: expected --expert-bytes" trace.h5 "${two[@]}" --memory-per-rank 1K
refuse 2 "--topology: expected the 4 ranks of linear.h5" trace.h5 --from linear.h5 --topology rank:3
refuse 65 "expected a plan of the model of the loads" hot.csv --from linear.h5
refuse 65 "found a file of kind 'moe-plan'" linear.h5 "${two[@]}"
echo '[[1, 2], [3, "x"]]' >bad.json
refuse 65 "bad.json, layer 1, expert 1: expected a load from 0" --loads bad.json "${two[@]}"
echo '1,2,-3' >bad.csv
refuse 65 "line 1, column 3" --loads bad.csv "${two[@]}"
refuse 66 "nowhere.h5" nowhere.h5 "${two[@]}"
expect 73 "balance.h5" "$place" solve run/routing.h5 "${two[@]}" -o balance.h5

[ $failures = 0 ] && echo "all passed"
exit $((failures > 0))
