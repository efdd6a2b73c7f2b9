#!/usr/bin/env bash
# label: mpi
# moe-train on ranks that are MPI processes, as a user starts it: the loss of one process on any mesh, resumption on other
# meshes, a killed rank, signals, and what is said when something is wrong. $1: folder of the executables.
# MOE_TEST_MPIEXEC: the launcher of the MPI that was built with. Not here: the ways jobs fail (mpi_test.sh), most meshes
# (train_mesh_test.cpp).
set -u
train=$1/moe-train
launcher=${MOE_TEST_MPIEXEC:-mpirun}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
# More ranks than processors, also as root: OpenMPI asks for permission.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
case $("$launcher" --version 2>&1) in
  *"Open MPI"* | *OpenRTE*) openmpi=1 ;;
  *) openmpi= ;;
esac
failures=0
fail() {
  echo "FAILED: $1"
  tail -n 4 err | sed 's/^/  | /'
  failures=$((failures + 1))
}
# RANKS OPTION...: runs moe-train; leaves out, err, code.
run() {
  local ranks=$1
  shift
  timeout -k 5 200 "$launcher" -n "$ranks" "$train" "$@" >out 2>err </dev/null
  code=$?
}
expect() {  # CODE RANKS OPTION...
  local want=$1
  shift
  run "$@"
  [ "$code" = "$want" ] || fail "exit $code, expected $want: $*"
}
# One line of error of all that the ranks wrote, with these words.
refuse() {  # CODE WORDS RANKS OPTION...
  local want=$1 words=$2
  shift 2
  expect "$want" "$@"
  grep '^moe-train: error:' err | grep -qF -- "$words" || fail "'$words' is not in the error of: $*"
  # MPICH's launcher lets the other ranks live on after an error before MPI starts, and they say it too.
  [ -z "$openmpi" ] || [ "$(grep -c '^moe-train: error:' err)" = 1 ] || fail "$(grep -c '^moe-train: error:' err) lines of error, expected one: $*"
  [ -e run ] && { fail "something was written: $*"; rm -rf run; }
}
losses() { grep -v '"event"' "$1/metrics.jsonl" | sed -n 's/.*[{,]"loss":\([^,]*\),.*"step":\([0-9]*\),.*/\2 \1/p' | sort -n; }
# The losses of steps [FIRST, LAST] of two runs are the same to 1e-5, each step is there once.
same_losses() {  # RUN OTHER FIRST LAST
  join <(losses "$1" | sort -k1,1) <(losses "$2" | sort -k1,1) | awk -v first="$3" -v last="$4" '
    $1 >= first && $1 <= last { n++; d = $2 - $3; if (d < 0) d = -d; if (!(d <= 1e-5 * $2)) { print "step " $1 ": " $2 " and " $3; bad = 1 } }
    END { if (n != last - first + 1) { print n + 0 " steps in common"; bad = 1 } exit bad }' || fail "losses of $1 and $2 differ"
}

for i in $(seq 400); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
model="--preset tiny --layers 2 --heads 2 --kv-heads 2 --head-dim 8 --experts 4 --expert-ffn 16 --d-model 16 --shared-experts 1"
router="--router-score sigmoid --router-bias --bias-update-speed 0.01 --seq-aux-loss 0.01 --global-aux-loss 0.01"
loud="$model $router --data text.txt --seq 24 --batch 8 --warmup 3 --threads 1"
small="$loud -q"

# The loss does not know how many ranks there are; stdout is rank 0's.
"$train" $small --steps 20 -o one >out 2>err || fail "one process"
expect 0 1 $small --steps 20 -o ranks1
cmp -s <(losses one) <(losses ranks1) || fail "a job of one rank is not one process"
expect 0 2 $small --steps 20 --eval-data text.txt -o ranks2
[ "$(grep -c 'train loss' out)" = 1 ] || fail "2 ranks: the result came $(grep -c 'train loss' out) times"
expect 0 4 $small --steps 20 --ep 2 --shard 2 --ranks-per-node 2 -o ranks4
expect 0 4 $small --steps 20 --ep 4 --ranks-per-node 2 --dispatch two-level --zero 1 --json - -o nodes2
[ "$(head -c 1 out)" = "{" ] && [ "$(grep -c '"params_total"' out)" = 1 ] || fail "--json -: expected one object alone on stdout"
grep -q '"ep": 4' out || fail "--json: expected the mesh"
expect 0 7 $small --steps 20 --ep 7 --ranks-per-node 3 --overlap on -o ranks7
expect 0 7 $small --steps 20 --replicate 7 --zero 2 -o replicas7
for r in ranks2 ranks4 nodes2 ranks7 replicas7; do same_losses one $r 1 20; done

# A checkpoint of one mesh goes on with another.
expect 0 4 $small --steps 20 --ep 2 --shard 2 --save-every 10 -o first
same_losses one first 1 20
for ranks in 1 3; do
  expect 0 $ranks --data text.txt -q --threads 1 --resume first/step-00000010 --ep 0 --shard 0 --replicate 0 -o on$ranks
  same_losses one on$ranks 11 20
done

# On as many ranks it goes on with the mesh that it was saved by, or was cut for, and every bit; what is given wins.
"$1/moe-reshard" first/step-00000010 -o recut --shard 4 --ep 1 -q >out 2>err || fail "recut"
digest() { grep -m1 '^ "digest"' "$1/step-00000020/manifest.json"; }
resumed_on() {  # NAME MESH RANKS FROM OPTION...
  local name=$1 mesh=$2 ranks=$3 from=$4
  shift 4
  expect 0 "$ranks" --data text.txt --threads 1 --resume "$from" "$@" -o "$name"
  grep -q "resumed .* -> $mesh (" err || fail "$name: expected $mesh, found: $(grep resumed err)"
  same_losses one "$name" 11 20
}
resumed_on again "replicate 1 x shard 2 x ep 2" 4 first/step-00000010
[ "$(digest again)" = "$(digest first)" ] || fail "resumed on the same mesh: other bits"
resumed_on wide "replicate 1 x shard 1 x ep 4" 4 first/step-00000010 --ep 4
resumed_on inferred "replicate 1 x shard 1 x ep 4" 4 first/step-00000010 --ep 0
resumed_on fewer "replicate 1 x shard 1 x ep 2" 2 first/step-00000010
resumed_on sharded "replicate 1 x shard 4 x ep 1" 4 recut

# A killed rank ends the job; what was saved goes on, on fewer ranks.
cat >ranked <<'SH'
#!/bin/sh
echo $$ >pid.${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}
exec "$@"
SH
chmod +x ranked
long="$loud --steps 120"
"$train" $long -o calm >out 2>err || fail "120 steps of one process"
start() {  # RUN OPTION...: 4 ranks in the background; returns when it has done 10 steps
  local name=$1 rows
  shift
  rm -f pid.*
  "$launcher" -n 4 ./ranked "$train" $long --ep 4 -o "$name" "$@" >out 2>err </dev/null &
  job=$!
  for _ in $(seq 6000); do
    rows=()
    [ -e "$name/metrics.jsonl" ] && mapfile -t rows <"$name/metrics.jsonl"
    [ ${#rows[@]} -ge 12 ] && return
    sleep 0.01
  done
  fail "$name: no 10 steps in 60 s"
}
start killed --save-every 5
kill -KILL "$(cat pid.2)"
wait $job
code=$?
[ $code != 0 ] && [ $code != 75 ] || fail "a killed rank: exit $code"
expect 0 3 $long --resume must --ep 0 --shard 0 --replicate 0 --save-every 100 -o killed
same_losses calm killed 1 120
ls -d killed/.tmp-* 2>/dev/null && fail "leftovers of killed saves"

# SIGUSR1 to the launcher: 75 and a checkpoint.
start stopped
kill -USR1 $job
wait $job
code=$?
[ $code = 75 ] || fail "SIGUSR1: exit $code, expected 75"
grep -q 'stopped by a signal at step' err || fail "SIGUSR1: nothing was said"
expect 0 2 $long --resume must --ep 0 --shard 0 --replicate 0 -o stopped
same_losses calm stopped 1 120

# What is wrong is said once.
refuse 2 "--ep 3: expected a product" 4 $small --steps 2 --ep 3 -o run
grep -q -- '--replicate 1 --shard 2 --ep 2' err || fail "--ep 3 on 4 ranks: no mesh that would work"
refuse 66 "nowhere.txt" 4 --data nowhere.txt --steps 2 -o run
refuse 66 "nowhere.txt" 3 $small --eval-data nowhere.txt --steps 2 -o run
refuse 2 "--data: expected" 2 --steps 2 -o run
refuse 66 "nowhere" 2 $small --steps 2 --resume nowhere -o run
refuse 73 "one" 2 $small --steps 2 --resume never -o one
sed 's/fox/cat/' text.txt >other.txt
refuse 65 "expected the data of the checkpoint" 3 --data other.txt -q --resume one -o run
refuse 76 "not finite" 3 $small --steps 8 --lr 3e38 --grad-clip 0 --weight-decay 1 --nonfinite stop
refuse 2 "--zero" 2 $small --steps 2 --zero 4 -o run

# The picture of a mesh: of the job, and of a job that is not there.
expect 0 4 $small --steps 2 --ep 2 --dry-run
grep -q '^mesh of 4 ranks on 1 node: replicate 1 x shard 2 x ep 2, ZeRO-3, dispatch flat, overlap on$' out || fail "--dry-run on 4 ranks: no picture"
[ "$(grep -c '^mesh of' out)" = 1 ] || fail "--dry-run on 4 ranks: several pictures"
"$train" $small --steps 2 --ep 4 --shard 2 --ranks-per-node 4 --dry-run >out 2>err || fail "--dry-run alone"
grep -q '^mesh of 8 ranks on 2 nodes: replicate 1 x shard 2 x ep 4, ZeRO-3, dispatch flat, overlap on$' out || fail "--dry-run alone: no picture"
[ "$(grep -cE '^  (0|1|\|) +[0-7] +0 +[01] +[0-3] +[0-3] +[0-9.]+ KiB$' out)" = 8 ] || fail "--dry-run alone: $(cat out)"

"$train" $small --steps 2 --ep 4 --shard 2 --ranks-per-node 3 --dry-run 2>err | grep -q 'on 3 nodes: .*, dispatch two-level, overlap on$' || fail "--dry-run: dispatch on 3 nodes"

[ $failures = 0 ] && echo "moe-train on 1, 2, 3, 4 and 7 ranks does what it should under $launcher"
exit $((failures > 0))
