#!/bin/bash
# label: mpi
# moe-reshard IN -o OUT on real tiny runs: any layout there and back with one digest, alone and on ranks; a run that resumes
# from a resharded checkpoint is the run that resumes from the first; what the options change is exact; bad input and bad
# outputs are refused; memory is bounded. $1: folder of the executables. Not here: plans (reshard_plan_test.cpp), what is in
# each tensor after a change of content (reshard_content_test.cpp).
# shellcheck source=tests/shell_test_parts.sh
. "$(dirname "$0")/shell_test_parts.sh"
bin=$1
train=$bin/moe-train
reshard=$bin/moe-reshard
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
ranks() { local n=$1; shift; "${MOE_TEST_MPIEXEC:-mpirun}" --bind-to none -n "$n" "$@"; }
digest() { grep -m1 '^ "digest"' "$1/step-00000004/manifest.json"; }
same() { [ -n "$(digest "$1")" ] && [ "$(digest "$1")" = "$(digest "$2")" ] || fail "$1 and $2 differ"; }
differ() { [ -n "$(digest "$1")" ] && [ "$(digest "$1")" != "$(digest "$2")" ] || fail "$1 and $2 are the same"; }
shards() { find "$1/step-00000004" -name 'shard-*.h5' | wc -l; }
says() { grep -q -- "$1" "$2" || { fail "expected '$1' in $2"; head -n 5 "$2"; }; }

for i in $(seq 200); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
small="--layers 2 --d-model 16 --heads 2 --kv-heads 2 --head-dim 8 --experts 6 --expert-ffn 12 --data text.txt --seq 16 --batch 4
  --warmup 2 --steps 4 -q --threads 1"
bias="--router-score sigmoid --router-bias --bias-update-speed 0.01"
expect 0 "$train" $small $bias -o a
expect 0 "$train" $small --dtype bf16 -o half

# Every mesh and number of files there and back: the digest stays, a file for each rank.
last=a
for how in "--ep 2 --shard 2" "--ep 4" "--ep 3 --shard 2" "--shard 5" "--files 3" "--files 1" "--ep 6 --shard 1 --replicate 2"; do
  next=to$(echo "$how" | tr -dc a-z0-9)
  expect 0 "$reshard" $last -o "$next" $how
  says ", the same" out
  same a "$next"
  last=$next
done
[ "$(shards toep2shard2) $(shards toep4) $(shards toep3shard2) $(shards toshard5) $(shards tofiles3)" = "4 8 6 15 3" ] || fail "files: $(ls -d to*/step*/*)"
expect 0 "$reshard" $last -o back --ep 1 --shard 1
same a back
[ "$(cat back/latest)" = step-00000004 ] || fail "latest: $(cat back/latest)"

# On ranks: each writes files of its own; the same as alone.
for n in 1 2 4; do
  expect 0 ranks $n "$reshard" toep3shard2 -o ranks$n --ep 2 --shard 2
  same a ranks$n
  [ "$(shards ranks$n)" = 4 ] || fail "ranks$n: $(shards ranks$n) files"
done
# Nothing given: the layout of the input.
expect 0 "$reshard" toep2shard2 -o kept
says "4 files, mesh shard 2 x ep 2 -> 4 files, mesh shard 2 x ep 2" out
# What a mesh writes itself and what is resharded for it are the same slices in the same files.
layout() { sed -n '/"tensors"/,$p' "$1/step-00000004/manifest.json" | grep -E '"(dataset|file|name|role)":|^ +[0-9]+,?$|"(offset|extent)"'; }
expect 0 ranks 4 "$train" $small $bias --ep 2 --shard 2 -o mesh
expect 0 "$reshard" mesh -o unmeshed --ep 1 --shard 1
expect 0 "$reshard" unmeshed -o remeshed --ep 2 --shard 2
same mesh remeshed
[ -n "$(layout mesh)" ] && [ "$(layout mesh)" = "$(layout remeshed)" ] || fail "remeshed: other slices than the ranks write"

# Going on from a resharded checkpoint is going on from the first, bit for bit on the same mesh.
more="--data text.txt -q --threads 1 --steps 7"
end() { grep -m1 '^ "digest"' "$1/step-00000007/manifest.json"; }
expect 0 "$train" $more --resume a -o more1
expect 0 "$train" $more --resume back -o more2
expect 0 "$train" $more --resume tofiles3 -o more3
[ -n "$(end more1)" ] && [ "$(end more1)$(end more1)" = "$(end more2)$(end more3)" ] || fail "resumed runs differ"
expect 0 ranks 2 "$train" $more --ep 2 --resume a -o more4
expect 0 ranks 2 "$train" $more --ep 2 --resume toep2shard2 -o more5
[ -n "$(end more4)" ] && [ "$(end more4)" = "$(end more5)" ] || fail "resumed runs on a mesh differ"

# dtype there and back: masters are the weights of fp32, so nothing is lost; the result goes on.
expect 0 "$reshard" a -o a16 --dtype bf16
expect 0 "$train" $more --resume a16 -o more16
expect 0 "$reshard" a16 -o a32 --dtype fp32
same a a32
expect 0 "$reshard" half -o half32 --dtype fp32 --ep 2
expect 0 "$train" $more --resume half32 -o more32
expect 0 "$reshard" half32 -o half16 --dtype bf16
same half half16
expect 0 "$reshard" a -o a-keep --dtype keep
same a a-keep

# Less of it.
roles() { grep -o '"role": "[a-z]*"' "$1/step-00000004/manifest.json" | sort -u | cut -d'"' -f4 | tr '\n' ' '; }
expect 0 "$reshard" half -o weights --weights-only
[ "$(roles weights)" = "weight " ] || fail "weights-only: $(roles weights)"
expect 0 "$reshard" half -o frozen --drop-optimizer
[ "$(roles frozen)" = "master weight " ] || fail "drop-optimizer: $(roles frozen)"
expect 0 "$reshard" a -o weights-a --weights-only
[ "$(roles weights-a)" = "bias weight " ] || fail "weights-only with biases: $(roles weights-a)"
expect 2 "$reshard" a -o none --drop-mtp
says "expected modules of multi-token prediction" err

# The mean of a checkpoint and itself is itself.
expect 0 "$reshard" a -o mean --average toep4
same a mean
expect 0 "$reshard" --average half half half16 -o mean16 --ep 2
same half mean16
expect 0 "$train" $small $bias --seed 7 -o b
expect 0 "$reshard" a -o ab --average b
expect 0 "$reshard" b -o ba --average a --ep 2
same ab ba
differ a ab
expect 65 "$reshard" a -o none --average half

# Experts: a part of them, in another order and back.
expect 0 "$reshard" a -o turned --experts 5,0-4
differ a turned
expect 0 "$reshard" turned -o unturned --experts 1-5,0
same a unturned
expect 0 "$reshard" a -o two --experts 1,4
expect 0 "$train" $more --resume two -o more-two
expect 0 ranks 2 "$reshard" a -o two2 --experts 1,4 --ep 2
same two two2
for list in 6 0,0 3-1 a 1- ","; do expect 2 "$reshard" a -o none --experts $list; done

# Upcycling: every layer has experts, the result trains.
dense="--layers 2 --d-model 16 --heads 2 --kv-heads 2 --head-dim 8 --dense-layers 2 --dense-ffn 12 --data text.txt --seq 16 --batch 4
  --warmup 2 --steps 4 -q --threads 1"
expect 0 "$train" $dense -o dense
expect 0 "$reshard" dense -o up --upcycle 4
says "4 experts of each dense layer" out
expect 0 "$train" $more --resume up -o more-up
expect 0 ranks 2 "$reshard" dense -o up2 --upcycle 4 --ep 2
same up up2
expect 2 "$reshard" a -o none --upcycle 4

# Outputs that are refused, and where nothing may appear.
expect 73 "$reshard" a -o toep4
expect 0 "$reshard" a -o toep4 --force --ep 2
mkdir empty && expect 0 "$reshard" a -o empty
for to in a ./a a/step-00000004 a/sub "$dir/a/../a"; do expect 73 "$reshard" a -o "$to" --force; done
expect 73 "$reshard" a/step-00000004 -o a --force
ln -s a link && expect 73 "$reshard" a -o link --force
same a back
expect 2 "$reshard" a
expect 2 "$reshard" a -o none --files 2 --ep 2
expect 2 "$reshard" a -o none --dtype fp8
expect 2 "$reshard" a -o none --memory 1K
expect 66 "$reshard" nowhere -o none
[ -e none ] && fail "a refused call made its output"
expect 0 "$reshard" a -o none --dry-run --ep 2 --json plan.json
[ -e none ] && fail "a dry run wrote"
says '"new_layout": "2 files, mesh shard 1 x ep 2"' plan.json
expect 0 "$reshard" a -o j --json -
says '"same_digest": true' out

# Damage is found and named, whether the tensor is only moved or changed; nothing is published.
cp -r a hurt
printf 'x' | dd of=hurt/step-00000004/shard-00000.h5 bs=1 seek=20000 conv=notrunc status=none
cmp -s a/step-00000004/shard-00000.h5 hurt/step-00000004/shard-00000.h5 && fail "no damage was done"
for how in "--ep 2" "--dtype bf16" "--average a"; do
  expect 65 "$reshard" hurt/step-00000004 -o none $how
  says "tensor .*slice at" err
done
expect 65 ranks 2 "$reshard" hurt/step-00000004 -o none --ep 2
[ -e none/step-00000004 ] && fail "a damaged checkpoint was resharded"
ls -d none/.tmp-* 2>/dev/null && fail "leftovers"

# Buffers stay within --memory: 24 MiB of tensors under 1 MiB.
expect 0 "$train" --layers 1 --d-model 256 --heads 2 --kv-heads 2 --head-dim 8 --experts 8 --expert-ffn 256 --data text.txt \
  --seq 8 --batch 1 --steps 4 -q --threads 1 -o large
expect 0 "$reshard" large -o large1 --ep 2 --shard 2 --memory 1M --threads 2
same large large1
expect 0 "$reshard" large -o large2 --files 3 --memory 64K --threads 1
same large large2

finish
