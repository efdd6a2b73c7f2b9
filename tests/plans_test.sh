#!/usr/bin/env bash
# label: mpi
# Placement plans in a user's hands: training under a plan, with copies of experts, resuming with and without it, resharding
# for it, moving experts while training, and what is said when a plan does not fit. The loss never changes.
# $1: folder of the executables. MOE_TEST_MPIEXEC: the launcher. Not here: making plans (place_edit_test.sh), most meshes
# (train_plan_test.cpp, replan_test.cpp).
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
fail() {
  echo "FAILED: $1"
  tail -n 4 err | cut -c1-300 | sed 's/^/  | /'
  failures=$((failures + 1))
}
# CODE RANKS ARGUMENTS... -> out, err
expect() {
  local code=$1 ranks=$2
  shift 2
  timeout 120 "$launcher" -n "$ranks" "$train" "$@" >out 2>err </dev/null
  local got=$?
  [ "$got" = "$code" ] || fail "moe-train on $ranks ranks $*: expected exit $code, found $got"
}
expect_tool() { # CODE TOOL ARGUMENTS... -> out, err
  local code=$1
  shift
  "$@" >out 2>err </dev/null
  local got=$?
  [ "$got" = "$code" ] || fail "$*: expected exit $code, found $got"
}
digest() { grep -m1 '^ "digest"' "$1/$(cat "$1/latest")/manifest.json"; }
# Losses of the (last) steps that two runs both made agree within 1e-5, relative.
same_losses() { # RUN RUN WHAT
  paste <(losses "$1" | tail -n "$(losses "$2" | wc -l)") <(losses "$2") | awk '{ d = $1 - $2; if (d < 0) d = -d; if (NF != 2 || !(d <= 1e-5 * $1)) bad = 1; ++n } END { exit bad || n == 0 }' ||
    fail "$3: the loss is not that of the run without a plan"
}
losses() { grep '"loss"' "$1/metrics.jsonl" | sed 's/.*"loss":\([0-9.e+-]*\).*/\1/'; }

for i in $(seq 300); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
small="--preset tiny --layers 2 --heads 2 --kv-heads 2 --head-dim 8 --experts 8 --expert-ffn 16 --d-model 16 --aux-loss 0 --data text.txt --seq 16 --batch 8 --warmup 1 --schedule constant --threads 1 -q"
topology="node:2 rank:2"

expect 0 4 $small --steps 12 --ep 4 -o bare
expect_tool 0 "$place" init random --experts 8 --layers 2 --topology "$topology" -o random.h5
expect_tool 0 "$place" add random.h5 0 3 "$("$place" export random.h5 -o - --format csv | awk -F, '$1 == 0 && $5 == 3 { print ($3 + 1) % 4; exit }')" -o copies.h5
expect_tool 0 "$place" check copies.h5

# Whatever the plan, the run is the same; the mesh is the plan's, and the picture tells of it.
expect 0 4 $small --steps 12 --plan random.h5 -o planned
same_losses bare planned "a random plan"
expect 0 4 $small --steps 12 --plan copies.h5 --ranks-per-node 2 --replica-choice nearest -o copied
same_losses bare copied "a plan with a copy"
expect_tool 0 "$reshard" verify copied
expect 0 1 $small --steps 12 --plan copies.h5 --dry-run
grep -q 'a plan of 2 layers with 1 copy of experts' out || fail "--dry-run: the plan is not told"

# A resumption goes on under the checkpoint's plan, bit for bit; with none it is linear; on another mesh the plan is left.
expect 0 4 $small --steps 12 --plan copies.h5 --save-every 6 -o first
expect 0 4 --data text.txt --threads 1 --resume first/step-00000006 -o again
grep -q 'resumed .*a plan of 2 layers with 1 copy of experts) -> .*a plan of 2 layers with 1 copy of experts)' err || fail "resumed: the plan is not told"
[ "$(digest again)" = "$(digest first)" ] || fail "resumed under the same plan: other bits"
expect 0 4 --data text.txt --threads 1 --resume first/step-00000006 --plan none -o linear
grep -q -- '-> replicate 1 x shard 1 x ep 4 ([^)]*)$' err && grep -q -- '-> .*plan' err && fail "--plan none: there is a plan"
expect 0 2 --data text.txt --threads 1 --resume first/step-00000006 -o two
same_losses bare two "resumed on two ranks"

# Cut for a plan: the same content, files of the plan's ranks, and the run goes on under it.
expect_tool 0 "$reshard" first/step-00000006 -o cut --plan random.h5
[ "$(digest cut)" = "$(grep -m1 '^ "digest"' first/step-00000006/manifest.json)" ] || fail "resharded for a plan: other content"
"$reshard" show cut | grep -q 'a plan of 2 layers' || fail "show: no plan"
expect 0 4 --data text.txt --threads 1 --resume cut -o from-cut
grep -q 'resumed .*-> .*a plan of 2 layers)' err || fail "resumed from what was cut: no plan"
expect_tool 0 "$reshard" cut -o uncut --plan none --ep 4
"$reshard" show uncut | grep -q 'a plan of' && fail "--plan none: there is a plan"
expect_tool 65 "$reshard" cut -o wrong --plan random.h5 --ep 2
expect_tool 2 "$reshard" cut -o wrong --plan random.h5 --files 2

# Experts that move while the run trains, and a run that goes on from there.
expect 0 4 $small --steps 12 --ep 4 --replan-every 3 --replicas 2 --save-every 4 -o moving
grep -q '"event":"replan"' moving/metrics.jsonl || fail "--replan-every: nothing moved"
same_losses bare moving "--replan-every"
expect_tool 0 "$reshard" verify moving
expect 0 4 --data text.txt --threads 1 --replan-every 3 --replicas 2 --resume moving/step-00000008 -o moved
grep -q 'resumed .*copies of experts' err || fail "resumed after a move: no plan"
[ "$(digest moved)" = "$(digest moving)" ] || fail "resumed between two looks: other decisions than undisturbed"
expect 0 4 $small --steps 12 --ep 4 --ranks-per-node 2 --replan-every 4 --objective traffic -o fewer
same_losses bare fewer "--objective traffic"

# What does not fit.
expect 65 2 $small --steps 2 --ep 2 --plan random.h5
grep -q 'random.h5: expected a plan for 2 ranks (--ep), found one for 4' err || fail "other ranks: the error does not say"
expect 65 4 ${small/--layers 2/--layers 3} --steps 2 --plan random.h5
grep -q 'expected a plan for 3 layers from layer 0 to 2, found one for 2 layers' err || fail "other layers: the error does not say"
expect 65 4 ${small/--experts 8/--experts 16} --steps 2 --plan random.h5
expect 66 4 $small --steps 2 --plan nothing.h5
head -c 1000 random.h5 >damaged.h5
expect 65 4 $small --steps 2 --plan damaged.h5
[ $failures = 0 ] && echo "all passed"
exit $((failures > 0))
