#!/usr/bin/env bash
# label: slow
# moe-bench as a user calls it: every row passes its check on a small model, JSON and table agree, refusals have the right
# exit code. No figure is judged. $1: folder of the executables.
set -euo pipefail
bench=$1/moe-bench
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
fail() {
  echo "moe_bench_test: $1" >&2
  exit 1
}
expect_code() {
  local want=$1 code=0
  shift
  "$@" >out 2>err || code=$?
  [ "$code" -eq "$want" ] || fail "expected exit code $want, found $code: $*: $(cat err)"
}

small="--layers 1 --d-model 48 --heads 3 --kv-heads 3 --head-dim 16 --experts 5 --top-k 2 --expert-ffn 40 --seq 37 --batch 3"
# shellcheck disable=SC2086 # a list of options
run_kernels() { "$bench" kernels $small --seconds 0.0001 --json rows.json; }

run_kernels >table || { cat table; fail "a row failed"; }
rows=$(grep -vc '^#' table)
[ "$rows" -gt 40 ] || fail "expected more than 40 rows, found $rows"
for name in gemm/square gemm/qkv grouped/gate_up grouped/down/backward_weight attention/backward rmsnorm/forward rope swiglu \
  router/forward permute/combine embedding/backward cross_entropy adamw/step; do
  grep -q "^$name" table || fail "no row of $name"
done
grep -q '^# peaks of this run: in registers [0-9]' table || fail "the table does not name the peaks"
! grep -v '^#' table | grep -q FAILED || fail "a row says FAILED"
[ "$(grep -c '"passed": true' rows.json)" -eq "$rows" ] || fail "table and JSON have different rows"
grep -q '"schema_version": 1' rows.json || fail "no schema version in the JSON"

"$bench" kernels --filter rmsnorm --isa generic --seconds 0.0001 --json - >json 2>table
[ "$(grep -vc '^#' table)" -eq 3 ] || fail "--filter rmsnorm: expected 3 rows"
grep -q 'generic kernels' table || fail "--isa generic is not what ran"
head -c 1 json | grep -q '{' || fail "--json -: standard output is not JSON"
"$bench" kernels --dry-run | grep -q '^gemm/head/forward *2048x256x256$' || fail "--dry-run does not list the head of S"

# A row that needs more memory than there is costs no other one. Shapes select rows as names do.
expect_code 3 "$bench" kernels --filter rmsnorm/forward,adamw/sum --batch 4000000 --seq 200000 --seconds 0.0001 --json big.json
grep -q '^rmsnorm/forward .* FAILED: ' out || fail "a row without memory: expected FAILED and why"
grep -q '^adamw/sum_of_squares .* GB/s' out || fail "a row without memory: expected the next one"
grep -q '"why"' big.json || fail "a row without memory: expected why in the JSON"
"$bench" kernels --dry-run --filter 2048x256 | grep -q '^rmsnorm/forward' || fail "--filter does not look at shapes"

# shellcheck disable=SC2086
"$bench" step $small --seconds 0.01 --json step.json >table || { cat table; fail "a check of step failed"; }
for word in attention_gemm expert_gemm optimizer other tokens_per_second gflops_causal gflops_full peak_rss_mb; do
  grep -q "^$word " table || fail "step: no line of $word"
done
grep -q '"passed": true' step.json || fail "step.json does not say that it passed"
# The same tokens in parts: the same loss and rows, two sequences and then the third.
# shellcheck disable=SC2086
"$bench" step $small --micro-batch 2 --seconds 0.01 --json parts.json >table || { cat table; fail "a check of step in parts failed"; }
grep -q '"micro_batches_per_step": 2' parts.json || fail "step --micro-batch: $(grep micro parts.json)"
grep -q ': 111 tokens in 2 micro-batches, the optimizer' table || fail "step --micro-batch: $(grep '^step_ms' table)"
first_loss() { grep '^# check first_loss' "$1"; }
"$bench" step $small --seconds 0.01 >whole
[ "$(first_loss table)" = "$(first_loss whole)" ] || fail "step in parts: $(first_loss table), whole: $(first_loss whole)"
# Weights that are too large make the first loss wrong: the figure is withheld.
# shellcheck disable=SC2086
expect_code 3 "$bench" step $small --init-std 1 --seconds 0.01
grep -q FAILED out || fail "a failed step does not say FAILED"
! grep -q '^tokens_per_second' out || fail "a failed step shows its figure"

# Files: figures appear only with what was read or written proved equal.
for command in checkpoint reshard; do
  "$bench" $command --bytes 4M --directory . --json $command.json >table || { cat table; fail "$command failed"; }
  grep -q '"passed": true' $command.json || fail "$command.json does not say that it passed"
  grep -q ' GB/s' table || fail "$command shows no figure"
done
[ -z "$(find . -name '.tmp-*' -o -name 'shard-*')" ] || fail "checkpoint or reshard left files"

# The same of another device, where the build has the stand-in for one: its memory faults when the host touches it.
plugin=$1/../tests/libmoe_cuda_on_host.so
if [ -e "$plugin" ]; then
  tiny="--layers 1 --d-model 24 --heads 2 --kv-heads 1 --head-dim 8 --experts 3 --top-k 2 --expert-ffn 16 --vocab-size 32 --seq 5"
  # shellcheck disable=SC2086
  on_device() { MOE_CUDA_PLUGIN=$plugin "$bench" "$@" --device cuda $tiny --batch 2 --seconds 0.0001; }
  on_device kernels --dtype bf16 --filter gemm/qkv,down/backward,permute/,rmsnorm,bias/backward_weight --json rows.json >table ||
    { cat table; fail "a row on a device failed"; }
  grep -q '^# ceilings of this run on it: bf16 GEMM' table || fail "device: the table does not name the ceilings"
  grep -q '^permute/combine .* GB/s ' table || fail "device: no row of permute/combine"
  grep -q '"unit": "TFLOP/s"' rows.json || fail "device: no TFLOP/s in the JSON"
  on_device step --micro-batch 1 --json step.json >table || { cat table; fail "a step on a device failed"; }
  # Times of the device: phases within the step, kernels within theirs.
  number() { tr -d ' \n' <step.json | grep -o "\"$1\":{[^}]*}" | grep -o "\"$2\":[-0-9.e]*" | cut -d: -f2; }
  tr -d ' \n' <step.json | grep -q '"other_ms":[0-9]' || fail "device: the parts of a step are longer than the step"
  awk -v f="$(number phases forward_ms)" -v b="$(number phases backward_ms)" -v u="$(number phases update_ms)" \
    -v s="$(number step_us max)" 'BEGIN { exit !(f > 0 && b > 0 && u > 0 && f + b + u <= s / 1e3 + 1e-3) }' ||
    fail "device: phases of a step: $(tr -d ' \n' <step.json | grep -o '"\(phases\|step_us\)":{[^}]*}')"
  grep -q 'model-FLOP utilisation' table || fail "device: step shows no utilisation"
  expect_code 2 on_device kernels --isa generic
  expect_code 69 on_device checkpoint
fi

expect_code 2 "$bench"
expect_code 2 "$bench" kernels --filter no-such-row
expect_code 2 "$bench" kernels --shape XL
expect_code 2 "$bench" step --isa sse
expect_code 2 "$bench" step --batch 0
expect_code 2 "$bench" step --micro-batch -1
echo "moe-bench: $rows rows checked"
