#!/bin/bash
# Presets as a user meets them: listed, printed as a file to edit, told without the memory for them, and small ones trained
# for a few steps. $1: folder of the executables. Not here: their sizes (presets_test.cpp), traffic (traffic_test.cpp).
# shellcheck source=tests/shell_test_parts.sh
. "$(dirname "$0")/shell_test_parts.sh"
train=$1/moe-train

"$train" --list-presets >list 2>err || fail "--list-presets: $(cat err)"
"$train" --list-presets --json - >list.json 2>err || fail "--list-presets --json: $(cat err)"
names=$(awk 'NR > 1 { print $1 }' list)
[ "$(wc -w <<<"$names")" -ge 20 ] || fail "--list-presets: $names"
for name in $names; do grep -q "\"preset\": \"$name\"" list.json || fail "--list-presets --json: no $name"; done

# A file to edit: printed, and read back with another value, which wins over the preset.
for name in deepseek-v3 gpt-oss-120b deepseek-moe-mini; do
  "$train" --preset $name --print-config >my.conf 2>err || fail "$name --print-config: $(cat err)"
  "$train" --config my.conf --print-config 2>err | sed 's/ *#.*//' >again || fail "$name --config: $(cat err)"
  sed 's/ *#.*//' my.conf | grep -v '^config =' | cmp -s - <(grep -v '^config =' again) || fail "$name: the file read back is another"
  sed -i 's/^layers = [0-9]*/layers = 5/' my.conf
  "$train" --config my.conf --print-config 2>err | grep -q '^layers = 5 ' || fail "$name: an edited value is lost"
done

# 2,048 ranks on a laptop. The address sanitizer maps terabytes.
(
  sanitized "$train" || ulimit -v 4000000
  "$train" --preset deepseek-v3 --dry-run --ep 64 --shard 32 --ranks-per-node 8 --json v3.json >v3 2>err
) || fail "dry run of deepseek-v3: $(cat err)"
for line in "671,026,419,200" "256 nodes" "rows to experts" "rows home" "weights " "gradients "; do
  grep -q -- "$line" v3 || fail "dry run: no '$line'"
done
for key in '"params_total": 671026419200' '"params_mtp"' '"dispatch"' '"gather"' '"inter_node_bytes_per_rank"' '"checkpoint_bytes"'; do
  grep -q -- "$key" v3.json || fail "dry run --json: no $key"
done

# A few steps of every family.
for i in $(seq 400); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
for name in $(grep -- -mini <<<"$names"); do
  "$train" --preset "$name" --data text.txt --steps 2 --batch 2 --batch-ramp "" --seq 32 --layers 2 -q --json result >out 2>err ||
    fail "$name: $(cat err)"
  grep -q '"train_loss": [1-9]' result || fail "$name: no loss"
done

finish
