#!/bin/bash
# moe-reshard ls, show, verify, diff, digest: what they say of good checkpoints and of damaged ones, and with which exit code.
# $1: folder of the executables. Not here: damage by the thousand (fuzz_readers_test.cpp), hostile HDF5 (hostile_h5_test.cpp).
set -u
train=$1/moe-train
look=$1/moe-reshard
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
  grep -qF -- "$text" out || { fail "'$text' is not in the output of $*"; head -n 8 out; }
}
flip() { printf '\x55' | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

for i in $(seq 60); do echo "line $i: the quick brown fox $((i * i * 7919 % 1000))"; done >text.txt
"$train" --data text.txt -q --layers 2 --heads 2 --kv-heads 2 --head-dim 8 --experts 4 --expert-ffn 16 --d-model 16 --seq 24 \
  --batch 2 --steps 2 --save-every 1 --threads 1 -o "a run" >/dev/null || fail "no run"
first="a run/step-00000001" second="a run/step-00000002"

# Good ones.
expect 0 "step-00000002" "$look" ls "a run"
grep -q "step-00000002 .* complete, latest" out || fail "ls: $(cat out)"
expect 0 "layers.{0-1}.experts.down.weight" "$look" show "a run"
grep -q "4 x 16 x 16" out || fail "show: no shape"
grep -q "came from .* moe-train" out || fail "show: no provenance"
[ "$(awk '{ if (length > n) n = length } END { print n }' out)" -le 100 ] || fail "show: a line is over 100 columns"
expect 0 "whole" "$look" verify "$first" "a run"
grep -q "checked.*latest of 2 in a run; --all" out || fail "verify of a run: which one is not said"
[ "$(grep -c whole out)" = 2 ] || fail "verify: $(cat out)"
expect 0 "step-00000001: whole" "$look" verify --all "a run"
[ "$(grep -c ': whole' out)" = 2 ] || fail "verify --all: $(cat out)"
expect 0 "whole" "$look" verify --deep --sandbox "a run"
expect 0 "\"faults\": []" "$look" verify "a run" --json -
expect 0 "  a run/step-00000002" "$look" digest "a run"
[ "$(cut -c1-32 out)" = "$(grep -m1 '^ "digest"' "$second/manifest.json" | cut -d'"' -f4)" ] || fail "digest: $(cat out)"
expect 0 "The same:" "$look" diff "$second" "a run"
expect 3 "4 of 4, most" "$look" diff "$first" "$second"
grep -Eq "consumed_samples +2 +4" out || fail "diff: counters are not compared"
[ "$(awk '{ if (length > n) n = length } END { print n }' out)" -le 100 ] || fail "diff: a line is over 100 columns"
expect 3 '"largest":' "$look" diff "$first" "$second" --json - --memory 64K
expect 2 "expected 2 paths" "$look" diff "$first"
expect 66 "found nothing" "$look" verify nowhere
expect 66 "found none" "$look" verify .
expect 0 "no checkpoint" "$look" ls .

# A name with spaces and a directory that is reached by a link (scenario 15).
ln -s "a run" linked
expect 0 "whole" "$look" verify linked
(mkdir deep && cd deep && "$look" verify ../linked >/dev/null) || fail "a relative path"

# Damage: all faults are listed (scenarios 6-8, 10).
cp -r "a run" bad
shard=bad/step-00000002/shard-00000.h5
for at in 20000 90000 200000; do flip $shard $at; done
expect 3 "fault" "$look" verify bad
[ "$(grep -c "expected digest" out)" -ge 3 ] || fail "not all faults are listed: $(cat out)"
expect 3 "fault" "$look" verify --sandbox bad
cp "$second"/shard-00000.h5 $shard && echo x >>$shard
expect 3 "bytes, found" "$look" verify bad
expect 0 "BROKEN" "$look" ls bad
cp "$first"/shard-00000.h5 $shard
expect 3 "found" "$look" verify bad
rm $shard
expect 3 "No such file" "$look" verify bad
expect 66 "missing: shard-00000.h5" "$look" digest bad
expect 0 "missing: shard-00000.h5" "$look" show bad
ln -s "../../a run/step-00000002/shard-00000.h5" $shard
expect 3 "symbolic link" "$look" verify bad
expect 65 "symbolic link" "$look" digest bad

# A manifest of a newer version (scenario 11), a damaged one, and what a killed save left behind.
flip bad/step-00000002/manifest.json 2000
expect 3 "expected digest" "$look" verify bad
expect 0 "passed over" "$look" show bad
mkdir "a run/.tmp-step-00000003-$(hostname | tr '-' '_')-99999999-0123"
expect 0 "left over" "$look" verify "a run"
expect 0 "left over" "$look" ls "a run"

[ $failures = 0 ] && echo "all passed"
exit $((failures > 0))
