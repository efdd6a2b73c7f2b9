#!/bin/bash
# A trained model goes to Hugging Face and back, and training starts from what was imported. $1: folder of the executables.
# Not here: bytes and logits (hf_test.cpp).
# shellcheck source=tests/shell_test_parts.sh
. "$(dirname "$0")/shell_test_parts.sh"
train=$1/moe-train reshard=$1/moe-reshard
weights() { expect 0 "$reshard" export "$1" -o "$2" "${@:3}"; }
same() { cmp "$1/model.safetensors" "$2/model.safetensors" || fail "$3"; }

for i in $(seq 300); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
model="--layers 2 --d-model 16 --heads 2 --kv-heads 1 --head-dim 12 --experts 4 --expert-ffn 16 --data text.txt"
batch="--seq 24 --batch 4 --warmup 2 -q"
expect 0 "$train" $model $batch --steps 6 -o run
weights run hf
expect 0 "$reshard" import hf -o imported --memory 64K
weights imported hf2 --memory 64K
same hf hf2 "export, import, export"

# It cannot be resumed, and says what can be done; a start from it has its weights, whatever the dtype of the run.
expect 65 "$train" --data text.txt --resume imported -o refused
grep -q "init-from" err || fail "no hint of --init-from: $(cat err)"
[ -e refused ] && fail "a refused resume made its output"
expect 0 "$train" --data text.txt $batch --init-from imported --steps 1 --lr 0 -o started
weights started hf3
same hf hf3 "a step with learning rate 0 changed the weights it started from"
[ "$(head -n 1 started/metrics.jsonl | grep -c '"step":1[,}]')" = 1 ] || fail "step: $(head -n 1 started/metrics.jsonl)"
grep -q '"moe-reshard"' started/latest/manifest.json 2>/dev/null || grep -q '"tool": "moe-reshard"' started/step-00000001/manifest.json ||
  fail "the import is not in the provenance of the run"

weights run hf16 --dtype bf16
expect 0 "$reshard" import hf16 -o imported16
expect 0 "$train" --data text.txt $batch --init-from imported16 --steps 1 --lr 0 -o started16
weights started16 hf17
same hf16 hf17 "bf16 from bf16"
expect 0 "$train" --data text.txt $batch --init-from imported --dtype bf16 --steps 1 --lr 0 -o narrow
weights narrow hf18
same hf16 hf18 "bf16 from fp32"
weights narrow hf19 --dtype fp32
same hf hf19 "masters of a bf16 run from fp32"
expect 0 "$train" --data text.txt $batch --init-from imported16 --dtype fp32 --steps 1 --lr 0 -o wide
weights wide hf20 --dtype bf16
same hf16 hf20 "fp32 from bf16"

# Another model is refused; a run that has begun goes on and does not start again.
expect 65 "$train" --data text.txt $batch --init-from imported --d-model 32 --steps 1 -o other
grep -q "different" err || fail "another model: $(cat err)"
expect 0 "$train" --data text.txt $batch --init-from imported --steps 2 --lr 0 -o started
[ -d started/step-00000002 ] || fail "the run did not go on: $(ls started)"
expect 66 "$train" --data text.txt $batch --init-from nowhere --steps 1 -o none
expect 66 "$reshard" import nowhere -o none
expect 2 "$reshard" import hf
expect 0 "$reshard" import hf -o dry --dry-run
[ -e dry ] && fail "--dry-run made its output"

# A model that no family has is refused by name.
expect 0 "$train" $model $batch --steps 1 --router-score sigmoid -o sigmoid
expect 65 "$reshard" export sigmoid -o none
grep -q "router-score sigmoid" err || fail "sigmoid: $(cat err)"

# DeepSeek-V3 with its router biases, which training moved, and gpt-oss: trained, there and back, and a start from them.
latent="--qk-norm none --attention mla --kv-lora-rank 8 --qk-nope-head-dim 4 --qk-rope-head-dim 4 --v-head-dim 4 --rope-interleaved"
v3="$latent --router-score sigmoid --router-bias --bias-update-speed 0.01 --shared-experts 1 --dense-layers 1 --dense-ffn 20"
oss="--qk-norm none --kv-heads 1 --head-dim 12 --attention-bias --attention-sinks --router-logit-bias --expert-bias --swiglu-limit 7
  --sliding-window 6 --layer-types sliding,full"
small="--layers 2 --d-model 16 --heads 2 --experts 4 --expert-ffn 16 --data text.txt"
there_and_back() {  # NAME MODEL_TYPE OPTIONS...
  expect 0 "$train" $small $batch --steps 4 -o "$1" "${@:3}"
  weights "$1" "$1-hf"
  grep -q "\"model_type\": \"$2\"" "$1-hf/config.json" || fail "$1: $(grep model_type "$1-hf/config.json")"
  expect 0 "$reshard" import "$1-hf" -o "$1-imported" --memory 64K
  expect 0 "$train" --data text.txt $batch --init-from "$1-imported" --steps 1 --lr 0 -o "$1-started"
  weights "$1-started" "$1-hf2"
  same "$1-hf" "$1-hf2" "$1: there, back and a step with learning rate 0"
}
there_and_back v3 deepseek_v3 $v3
grep -q e_score_correction_bias v3-hf/model.safetensors || fail "no router bias was exported"
there_and_back oss gpt_oss $oss

# Every file operation of an import and of an export fails once: nothing half done stays.
for command in "import hf -o faulty" "export run -o faulty"; do
  for n in $(seq 1 7 2000); do
    rm -rf faulty
    MOE_FAULT=op=any,n=$n,err=ENOSPC "$reshard" $command >out 2>err
    code=$?
    [ $code = 0 ] && break
    [ $code = 74 ] || [ $code = 73 ] || fail "$command, operation $n: exit $code: $(cat err)"
    [ -e faulty/config.json ] || [ -e faulty/latest ] && { "$reshard" $command --force >out 2>err || fail "$command, $n: not repeated"; }
    ls -d .tmp-* faulty/.tmp-* 2>/dev/null && fail "$command, operation $n: leftovers"
  done
  [ $code = 0 ] || fail "$command: never without a fault"
done

finish
