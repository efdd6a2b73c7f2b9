#!/bin/bash
# label: mpi
# Modules of multi-token prediction as a user meets them: training tells their losses and the second tokens that are
# accepted, a resumed run is the run that never stopped, on the same mesh bit for bit; moe-eval tells the same main loss with
# and without them; --drop-mtp leaves a model that goes on. $1: folder of the executables. Not here: what a module computes
# (model_test.cpp, model_golden_test.cpp), meshes of thread ranks (train_mesh_test.cpp).
# shellcheck source=tests/shell_test_parts.sh
. "$(dirname "$0")/shell_test_parts.sh"
bin=$1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
ranks() { local n=$1; shift; "${MOE_TEST_MPIEXEC:-mpirun}" --bind-to none -n "$n" "$@"; }
digest() { grep -m1 '^ "digest"' "$1/$(cat "$1/latest")/manifest.json"; }
says() { grep -q -- "$1" "$2" || { fail "expected '$1' in $2"; head -n 5 "$2"; }; }
nats() { sed -n 's/.*"nats_per_token":\s*\([0-9.]*\).*/\1/p' "$1"; }

for i in $(seq 200); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
small="--layers 2 --mtp-depth 2 --d-model 16 --heads 2 --kv-heads 2 --head-dim 8 --experts 6 --expert-ffn 12 --data text.txt
  --seq 16 --batch 4 --warmup 2 --threads 1 --router-score sigmoid --router-bias --bias-update-speed 0.01"
expect 0 "$bin/moe-train" $small --dry-run
says "prediction .*2 modules of" out
expect 0 "$bin/moe-train" $small --steps 4 --eval-data text.txt --eval-tokens 400 -o whole
says "MTP loss" out
says "second tokens" out
says '"mtp_loss":\[[0-9.]*,[0-9.]*\]' whole/metrics.jsonl
says '"second_token_acceptance"' whole/metrics.jsonl
for layer in 0 1 2 3; do says "\"layer\":$layer," whole/metrics.jsonl; done

# Stopped and resumed, alone and on a mesh: the same bits; on another mesh the same losses.
for n in 1 2; do
  mesh="--ep $n"
  expect 0 ranks $n "$bin/moe-train" $small $mesh --steps 4 --schedule constant -q -o never$n
  expect 0 ranks $n "$bin/moe-train" $small $mesh --steps 2 --schedule constant -q -o part$n
  expect 0 ranks $n "$bin/moe-train" --data text.txt $mesh --threads 1 --steps 4 --resume must -q -o part$n
  [ -n "$(digest never$n)" ] && [ "$(digest never$n)" = "$(digest part$n)" ] || fail "resumed on $n: other bits"
done
loss_of() { sed -n 's/.*"grad_norm".*"loss":\([0-9.]*\).*/\1/p' "$1/metrics.jsonl" | tail -n 1; }
close() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > 0 && (a - b) * (a - b) <= 1e-8 * a * a) }' || fail "$3: $1 and $2"; }
close "$(loss_of never1)" "$(loss_of never2)" "one rank and two"
expect 0 ranks 2 "$bin/moe-train" --data text.txt --ep 1 --shard 2 --threads 1 --steps 6 --resume part1 -q -o other
expect 0 "$bin/moe-train" --data text.txt --threads 1 --steps 6 --resume part1 -q -o same
close "$(loss_of other)" "$(loss_of same)" "resumed on another mesh"

# The modules take no part in the model's loss; without them it is the same model.
expect 0 "$bin/moe-eval" perplexity never1 --data text.txt --max-tokens 600 --threads 1 --json with.json
says "second-token acceptance" out
expect 0 "$bin/moe-reshard" show never1
says "2 modules of multi-token prediction from block 2" out
expect 0 "$bin/moe-reshard" never2 -o dropped --drop-mtp
expect 0 "$bin/moe-reshard" verify dropped --deep
grep -q '"layers\.[23]\.' dropped/step-*/manifest.json && fail "dropped: tensors of modules"
expect 2 "$bin/moe-reshard" dropped -o twice --drop-mtp
expect 0 "$bin/moe-reshard" never1 -o dropped1 --drop-mtp
expect 0 "$bin/moe-eval" perplexity dropped1 --data text.txt --max-tokens 600 --threads 1 --json without.json
[ -n "$(nats with.json)" ] && [ "$(nats with.json)" = "$(nats without.json)" ] || fail "perplexity with and without modules"
grep -q "acceptance" without.json && fail "acceptance of a model without modules"
expect 0 "$bin/moe-train" --data text.txt --threads 1 --steps 6 --resume dropped -q -o further
expect 0 "$bin/moe-eval" generate never1 --prompt line --tokens 4 --threads 1

# Drafts: the same greedy texts, on a mesh too; what they brought is told.
for i in 1 2 3 4 5; do echo "{\"prompt\": \"line $i: the quick\"}"; done >prompts.jsonl
generate="generate never1 --prompts prompts.jsonl --tokens 30 --threads 1"
expect 0 "$bin/moe-eval" $generate -o plain.jsonl
for drafts in 0 1 3; do
  expect 0 "$bin/moe-eval" $generate -o drafted$drafts.jsonl --speculate --drafts $drafts --json told$drafts.json
  cmp plain.jsonl drafted$drafts.jsonl || fail "other greedy texts with --drafts $drafts"
  for what in '"acceptance"' '"tokens_per_pass"' '"speed_up"' '"differing_texts": *0'; do says "$what" told$drafts.json; done
done
says "tokens a pass of the model" err
expect 0 ranks 2 "$bin/moe-eval" $generate -o ranks.jsonl --speculate --ep 2
cmp plain.jsonl ranks.jsonl || fail "other greedy texts on two ranks"
expect 0 "$bin/moe-eval" $generate -o sampled.jsonl --speculate --temperature 0.9 --top-p 0.9
expect 65 "$bin/moe-eval" generate dropped1 --prompt line --speculate
says "expected a model with modules of multi-token prediction" err
expect 2 "$bin/moe-eval" generate never1 --prompt line --drafts 2
expect 0 "$bin/moe-eval" routing never1 --data text.txt --max-tokens 200 --threads 1 --output routing.h5

finish
