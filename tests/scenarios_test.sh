#!/usr/bin/env bash
# label: mpi
# What can happen to checkpoints, one function a scenario: full and broken disks, kills, leftovers, damage, foreign and mixed
# files, other meshes. Invariant I1 after every failure: the newest complete checkpoint is unchanged and loads.
# $1: folder of the executables, $2: source tree. MOE_TEST_MPIEXEC: the launcher. Scenarios of the readers and of tensors
# (11, 14, 20 to 23) are in checkpoint_scenarios_test.cpp. Not here: every single operation (fault_loop_test.cpp, fault_mpi_test.sh).
set -u
train=$1/moe-train
reshard=$1/moe-reshard
place=$1/moe-place
launcher=${MOE_TEST_MPIEXEC:-mpirun}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
failures=0
scenario=setup
fail() {
  echo "FAILED: $scenario: $1"
  tail -n 3 err | cut -c1-300 | sed 's/^/  | /'
  failures=$((failures + 1))
}
expect() {  # CODE COMMAND...
  local want=$1 got
  shift
  timeout -k 5 120 "$@" >out 2>err </dev/null
  got=$?
  [ $got = "$want" ] || fail "exit $got, expected $want: $*"
}
said() { grep -qE -- "$1" err || fail "'$1' is not said"; }
digest_in() { grep -m1 '^ "digest"' "$1/manifest.json"; }
same() { [ -n "$(digest_in "$1")" ] && [ "$(digest_in "$1")" = "$(digest_in "$2")" ] || fail "$1 and $2 differ"; }
newest() { (cd "$1" && ls -d step-* | tail -n 1); }
no_leftovers() { [ -z "$(ls -d "$1"/.tmp-* 2>/dev/null)" ] || fail "leftovers in $1: $(ls -A "$1" | tr '\n' ' ')"; }
copy() { rm -rf "$2" && cp -r "$1" "$2"; }
# I1: the newest complete checkpoint of RUN is the one of base, or the one that the undisturbed run has at that step; it loads.
intact() {  # RUN
  local step
  step=$(cat "$1/latest")
  same "$1/$step" "whole/$step"
  rm -rf loaded && expect 0 "$train" -q --data text.txt --resume "$1" --steps "$((10#${step#step-}))" -o loaded
}
flip() {  # FILE OFFSET: one bit
  local byte
  byte=$(od -An -tu1 -j "$2" -N 1 "$1")
  printf "\\x$(printf %x $((byte ^ 4)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
size_of() { stat -c %s "$1"; }
shard="shard-00000.h5"

for i in $(seq 200); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
: >err
small="--preset tiny --layers 1 --heads 2 --kv-heads 2 --head-dim 8 --experts 4 --expert-ffn 16 --d-model 16 --data text.txt --seq 16 --batch 4 --warmup 1 --schedule constant --threads 1 -q"
go_on="$train --data text.txt --threads 1 -q"
expect 0 "$train" $small --steps 10 --save-every 2 --keep-last 9 -o whole      # never disturbed
mkdir base && cp -r whole/step-0000000[24] base && echo step-00000004 >base/latest  # stopped after step 4
grep -E '"step":[1-4][,}]' whole/metrics.jsonl >base/metrics.jsonl
expect 0 "$launcher" -n 4 "$train" $small --ep 2 --shard 2 --steps 4 --save-every 2 -o base4  # four shards

scenario_01_disk_full_in_save() {
  copy base run
  expect 74 env MOE_FAULT=op=write,path=.tmp-step,n=1+,err=ENOSPC $go_on --resume run --steps 10 --save-every 2 -o run
  said "shard-00000.h5: cannot write at byte [0-9]+: No space left on device"
  said "hint: the disk is full"
  no_leftovers run
  [ "$(newest run)" = step-00000004 ] || fail "there is $(newest run)"
  intact run
}

scenario_02_quota_io_error_read_only_stale() {
  for error in EDQUOT EIO EROFS ESTALE; do
    copy base run
    expect 74 env MOE_FAULT=op=write,path=.tmp-step,n=1+,err=$error $go_on --resume run --steps 10 --save-every 2 -o run
    said "cannot write at byte"
    no_leftovers run
    same run/step-00000004 whole/step-00000004
  done
  intact run
  expect 74 env MOE_FAULT=op=read,path=$shard,n=3,err=EIO $go_on --resume base --steps 4 -o elsewhere
  said "$shard: cannot read at byte [0-9]+: Input/output error"
  said "moe-reshard verify"
}

scenario_03_sigkill_in_save() {
  local k count=1
  for part in 0 1 2 4 5 6 7 8; do # eighths of the operations of the save; the first only counts
    copy base run
    k=$((1 + (count - 1) * part / 8))
    if [ $part = 0 ]; then
      expect 0 env MOE_FAULT=path=-00000006,err=count,log=$dir/log $go_on --resume run --steps 6 -o run
      count=$(wc -l <log)
    else
      expect 137 env MOE_FAULT=path=-00000006,err=kill,n=$k $go_on --resume run --steps 6 -o run
    fi
    intact run
    expect 0 $go_on --resume must --steps 6 -o run
    same run/step-00000006 whole/step-00000006
    no_leftovers run
  done
}

scenario_04_leftover_target_directory() {
  copy base run
  mkdir run/step-00000006 && echo partial >run/step-00000006/$shard
  mkdir run/.tmp-step-00000006-elsewhere-1-abc
  expect 0 $go_on --resume run/step-00000004 --steps 6 -o run
  same run/step-00000006 whole/step-00000006
  [ -d run/.tmp-step-00000006-elsewhere-1-abc ] || fail "the temporary directory of another host is gone"
  stamp=$(stat -c %Y.%i run/step-00000006/manifest.json)
  expect 0 $go_on --resume run/step-00000004 --steps 6 -o run # the same tensors again
  [ "$(stat -c %Y.%i run/step-00000006/manifest.json)" = "$stamp" ] || fail "what was there with the same digest was written again"
  expect 73 $go_on --resume run/step-00000004 --steps 6 --lr 1e-4 -o run
  said "step-00000006: expected no checkpoint or the same one, found one with other tensors"
  same run/step-00000006 whole/step-00000006
}

scenario_05_latest_missing_empty_dangling_incomplete() {
  for how in "rm run/latest" ": >run/latest" "echo step-00000099 >run/latest" "rm run/step-00000004/manifest.json"; do
    copy base run
    eval "$how"
    expect 0 $go_on --resume must --steps 6 -o run
    same run/step-00000006 whole/step-00000006
  done
  said "step-00000004/manifest.json: expected a manifest, found none" # what was passed over
  copy base run
  rm run/step-*/manifest.json
  before=$(cat run/metrics.jsonl)
  for how in must auto; do
    expect 66 "$train" $small --steps 6 --resume $how -o run
    said "manifest.json: expected a manifest, found none"
    [ "$(cat run/metrics.jsonl)" = "$before" ] || fail "--resume $how began anew"
  done
}

scenario_06_shards_missing() {
  copy base4 run
  rm run/step-00000004/shard-0000[13].h5
  expect 66 $go_on --resume run/step-00000004 --steps 6 -o elsewhere
  said "missing: shard-00001.h5, shard-00003.h5"
  [ ! -e elsewhere ] || fail "a refused resume made its output"
}

scenario_07_shard_truncated_or_longer() {
  for change in -1 +1 -4096 +4096; do
    copy base run
    truncate -s "$change" run/step-00000004/$shard
    expect 65 $go_on --resume run/step-00000004 --steps 6 -o elsewhere
    said "$shard: expected [0-9]+ bytes, found $(size_of run/step-00000004/$shard)"
  done
}

scenario_08_bit_flip_in_payload() {
  copy base run
  flip run/step-00000004/$shard $(($(size_of run/step-00000004/$shard) / 2))
  expect 65 $go_on --resume run/step-00000004 --steps 6 -o elsewhere
  said "$shard: tensor .* \(.*\), slice at \[.*\]: expected digest [0-9a-f]{32}, found [0-9a-f]{32}"
  expect 0 ${go_on/ -q/} --steps 6 -o run # --resume auto: the one before, and it says so
  said "warning: going back from .*step-00000004 to .*step-00000002"
  same run/step-00000006 whole/step-00000006
  expect 0 $go_on --lr 1e-4 --steps 8 -o run # options that only the damaged one has are not used for another
  flip run/step-00000008/$shard $(($(size_of run/step-00000008/$shard) / 2))
  expect 2 $go_on -o run
  said "step-00000006: expected the options of the damaged checkpoint, found others: lr: 0\.003.* there, .* in .*step-00000008; steps: 6"
  expect 0 $go_on --lr 1e-4 --steps 8 -o run
}

scenario_09_hostile_hdf5() {
  for at in 8 9 20 28 40 48 60 100 200 300; do
    copy base/step-00000004 one
    head -c 64 /dev/zero | tr '\0' '\377' | dd of=one/$shard bs=1 seek=$at conv=notrunc status=none
    expect 65 timeout 20 $go_on --resume one --steps 6 -o elsewhere
    [ ! -e elsewhere ] || fail "a refused resume made its output"
  done
}

scenario_10_shards_of_two_saves() {
  copy base run
  cp run/step-00000002/$shard run/step-00000004/$shard
  expect 65 $go_on --resume run/step-00000004 --steps 6 -o elsewhere
  said "expected a file of save .*, found one of save|expected [0-9]+ bytes, found"
}

scenario_12_output_exists() {
  copy base run
  expect 73 "$train" $small --steps 6 --resume never -o run
  said "run: holds the checkpoints of a run"
  said "hint: .*--force"
  expect 73 $go_on --resume base --steps 6 -o run # another's output
  same run/step-00000004 whole/step-00000004
}

scenario_14_slow_metadata() {
  copy base run
  expect 0 env MOE_FAULT=op=stat,n=5,err=delay:700 $go_on --resume run --steps 6 -o run
  same run/step-00000006 whole/step-00000006
  expect 0 env MOE_FAULT=op=mkdir,n=1,rank=0,err=delay:700 "$launcher" -n 2 "$train" $small --ep 2 --steps 2 -o slow
  intact_step=slow/$(cat slow/latest)
  [ -e "$intact_step/manifest.json" ] || fail "no checkpoint"
}

scenario_15_odd_names() {
  long=$(printf 'x%.0s' $(seq 200))
  mkdir -p "real place" && ln -s "real place" link
  for out in "a b/ünï ☃/$long" "link/run" "./x/../y/z"; do
    mkdir -p "$(dirname "$out")" x
    expect 0 "$train" $small --steps 4 --save-every 2 -o "$out"
    same "$out/step-00000004" whole/step-00000004
    (cd "$out" && expect 0 "$train" --data "$dir/text.txt" --threads 1 -q --resume "$PWD" --steps 6 -o .) || fail "$out"
    same "$out/step-00000006" whole/step-00000006
    grep -qE '"name": "[^"]*/' "$out/step-00000006/manifest.json" && fail "a path in the manifest of $out"
  done
}

scenario_16_failed_write_is_everybodys() {
  copy base4 run
  expect 74 env MOE_FAULT=op=write,path=.tmp-step,rank=2,n=1+,err=ENOSPC "$launcher" -n 4 $go_on --resume run --steps 12 --save-every 2 -o run
  said "rank 2.*shard-00002.h5: cannot write at byte [0-9]+: No space left"
  [ "$(grep -c '^moe-train: error:' err)" = 1 ] || fail "expected one line of error"
  no_leftovers run
  same run/step-00000004 base4/step-00000004
}

scenario_18_other_meshes() {
  same base4/step-00000004 base4/step-00000004
  losses() { grep -v '"event"' "$1/metrics.jsonl" | sed -n 's/.*[{,]"loss":\([^,]*\),.*"step":\([0-9]*\),.*/\2 \1/p'; }
  rm -rf other
  expect 0 $go_on --resume base4/step-00000004 --steps 6 -o other
  expect 0 "$launcher" -n 2 $go_on --shard 2 --ep 1 --resume base4/step-00000004 --steps 6 -o other2
  for run in other other2; do
    join <(losses whole | sort) <(losses $run | sort) | awk '{ n++; d = $2 - $3; if (d < 0) d = -d; if (!(d <= 1e-5 * $2)) bad = 1 }
      END { exit bad || n != 2 }' || fail "losses of $run are not those of the run that never stopped"
  done
}

scenario_19_experts_do_not_divide() {
  expect 0 "$launcher" -n 3 $go_on --ep 3 --shard 1 --resume base4/step-00000004 --steps 6 -o uneven
  expect 0 $go_on --resume uneven --steps 7 -o uneven # and back on one
}

scenario_21_other_model() {
  expect 2 "$train" ${small/--d-model 16/--d-model 32} --resume base --steps 6 -o elsewhere
  said "d-model: checkpoint 16, now 32"
  [ ! -e elsewhere ] || fail "a refused resume made its output"
}

# Of saving in the background, reshard and verify.

scenario_01_disk_full_in_one_save_of_many() {
  copy base run
  expect 0 env MOE_FAULT=op=write,path=step-00000006,n=1,err=ENOSPC ${go_on/ -q/} --resume run --steps 10 --save-every 2 -o run
  said "warning: .*No space left on device"
  [ ! -e run/step-00000006 ] || fail "a failed save left a checkpoint"
  same run/step-00000010 whole/step-00000010
  no_leftovers run
}

scenario_01_disk_full_in_reshard() {
  expect 74 env MOE_FAULT=op=write,n=2,err=ENOSPC "$reshard" base -o resharded
  said "No space left on device"
  [ -z "$(ls -A resharded 2>/dev/null)" ] || fail "there is an output: $(ls -A resharded)"
}

scenario_03_sigkill_in_reshard() {
  for k in 20 40 60; do
    rm -rf resharded
    MOE_FAULT=op=any,n=$k,err=kill "$reshard" base -o resharded >out 2>err
    [ ! -e resharded/step-00000004 ] || same resharded/step-00000004 base/step-00000004
  done
  rm -rf resharded
  expect 0 "$reshard" base -o resharded
  same resharded/step-00000004 base/step-00000004
}

scenario_08_verify_lists_all_bad_slices() {
  copy base4 run
  for n in 0 2; do flip run/step-00000004/shard-0000$n.h5 $(($(size_of run/step-00000004/shard-0000$n.h5) / 2)); done
  expect 3 "$reshard" verify run/step-00000004
  for n in 0 2; do cat out err | grep -q "shard-0000$n.h5" || fail "shard-0000$n.h5 is not named"; done
}

scenario_12_reshard_onto_or_into_its_input() {
  copy base run
  for out in run run/step-00000004 run/step-00000004/inside; do
    expect 73 "$reshard" run -o $out
    same run/step-00000004 base/step-00000004
    [ "$(ls run/step-00000004 | wc -l)" = 2 ] || fail "something was written into the input"
  done
}

scenario_13_two_jobs_of_one_run() {
  "$train" ${small/--seq 16/--seq 64} --steps 100000 --save-every 10 -o busy >first 2>&1 </dev/null &
  local first=$!
  for _ in $(seq 200); do [ -e busy/latest ] && break; sleep 0.05; done
  expect 73 "$train" ${small/--seq 16/--seq 64} --steps 100000 -o busy
  said "busy.*$(hostname)"
  said "\b$first\b"
  kill -KILL $first
  wait $first 2>/dev/null
  expect 0 $go_on --resume busy --steps "$((10#$(sed 's/step-//' busy/latest)))" -o elsewhere
}

scenario_16_final_exit_waits_for_the_last_save() {
  copy base run
  expect 0 env MOE_FAULT=op=sync,path=.tmp-step,n=1,err=delay:1500 $go_on --resume run --steps 6 -o run
  same run/step-00000006 whole/step-00000006
}

scenario_17_removed_while_it_is_read() {
  copy base4 run
  MOE_FAULT=op=open,path=shard-00001,n=2,err=delay:3000 $go_on --resume run/step-00000004 --steps 4 -o elsewhere >out 2>err </dev/null &
  local reader=$!
  sleep 1.5
  mv run/step-00000004 run/.tmp-delete-x && rm -rf run/.tmp-delete-x
  wait $reader
  local code=$?
  [ $code = 75 ] || fail "exit $code, expected 75"
  said "removed while"
}

scenario_18_old_and_new_layout_are_told() {
  expect 0 "$train" --data text.txt --threads 1 --resume base4/step-00000004 --steps 4 -o elsewhere
  said "ep 2.*->"
}

scenario_20_weights_alone_are_no_state() {
  expect 0 "$reshard" base -o weights --weights-only
  expect 65 $go_on --resume weights --steps 6 -o elsewhere
  [ ! -e elsewhere ] || fail "a refused resume made its output"
}

# Nothing is read under a plan of other experts, layers or ranks.
scenario_24_plan_of_another_model() {
  expect 0 "$place" init linear --experts 8 --layers 1 --topology rank:2 -o other.h5 --force
  expect 65 "$launcher" -n 2 $go_on --resume base --steps 6 --plan other.h5 -o elsewhere
  said "other.h5: expected a plan for 4 experts a layer, found one for 8"
  expect 65 "$reshard" base -o elsewhere --plan other.h5
  said "other.h5: expected a plan for the MoE layers and experts of the checkpoint"
  expect 0 "$place" init linear --experts 4 --layers 1 --topology rank:4 -o other.h5 --force
  expect 65 "$launcher" -n 2 $go_on --resume base --steps 6 --ep 2 --plan other.h5 -o elsewhere
  said "other.h5: expected a plan for 2 ranks \\(--ep\\), found one for 4"
  expect 0 "$place" init linear --experts 4 --layers 2 --topology rank:2 -o other.h5 --force
  expect 65 "$launcher" -n 2 $go_on --resume base --steps 6 --plan other.h5 -o elsewhere
  [ ! -e elsewhere ] || fail "a refused plan made an output"
}

# An expert that is nowhere, one twice on a rank, one that does not exist; more bytes than a rank has.
scenario_25_plan_that_is_none() {
  local fault
  expect 0 "$place" init linear --experts 4 --layers 1 --topology rank:2 -o good.h5 --force
  for fault in 's/^0,3,1,0,3,0/0,3,1,0,0,0/' 's/^0,3,1,0,3,0/0,3,1,0,2,0/' 's/^0,3,1,0,3,0/0,3,1,0,9,0/'; do
    "$place" export good.h5 -o - --format csv 2>err | sed "$fault" >bad.csv
    expect 0 "$place" import bad.csv --experts 4 --topology rank:2 --allow-faults -o bad.h5 --force
    expect 3 "$place" check bad.h5
    expect 65 "$launcher" -n 2 $go_on --resume base --steps 6 --plan bad.h5 -o elsewhere
    expect 65 "$reshard" base -o elsewhere --plan bad.h5
    [ ! -e elsewhere ] || fail "a refused plan made an output ($fault)"
  done
  expect 3 "$place" check good.h5 --expert-bytes 1000000 --memory-per-rank 1M
}

for scenario in $(declare -F | awk '$3 ~ /^scenario_/ { print $3 }'); do
  [[ $scenario =~ ${MOE_SCENARIO:-.} ]] || continue
  rm -rf elsewhere loaded
  $scenario
done
[ $failures = 0 ] && echo "all passed"
exit $((failures > 0))
