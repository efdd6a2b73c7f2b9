#!/usr/bin/env bash
# label: mpi
# scripts/scaling-ladder on rungs that train in a second: table, JSON and picture; a ladder that is killed goes on and ends as one
# that was not; what is wrong is refused. moe-eval scaling on results that follow a known law. $1: folder of the
# executables, $2: source tree. MOE_TEST_MPIEXEC: the launcher of the MPI that was built with. Not here: the fit (scaling_test).
set -euo pipefail
bin=$1 source_dir=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
export MPIEXEC=${MOE_TEST_MPIEXEC:-mpirun} PATH="$bin:$PATH"
fail() {
  echo "scaling_ladder_test: $1" >&2
  tail -n 30 out >&2
  exit 1
}
expect() { # CODE WORDS COMMAND...: the words are in the output
  local want=$1 words=$2 code=0
  shift 2
  timeout -k 5 300 "$@" >out 2>&1 </dev/null || code=$?
  [ "$code" -eq "$want" ] || fail "expected exit code $want, found $code: $*"
  grep -qF -- "$words" out || fail "expected the words '$words': $*"
}
ladder() { expect "$1" "$2" "$source_dir/scripts/scaling-ladder" "${@:3}"; }

# --- moe-eval scaling: L(C) = 1.5 + 40 C^-0.15
result() { # NAME FLOP [KEY: VALUE]
  awk -v c="$2" -v more="${3:-}" 'BEGIN {
    printf "{\"params_total\": 2000, \"params_active_no_embedding\": 1000, \"tokens_per_step\": 100, \"steps\": 10, \"planned_steps\": 10,\n" \
      " \"flop_per_token\": %.17g, \"train_loss\": 9, \"eval_loss\": %.17g%s}\n", c / 1000, 1.5 + 40 * c ^ -0.15, more }' >"$1.json"
}
i=0
for flop in 1e12 3e12 1e13 4e13; do result run-$((++i)) $flop; done
expect 0 'L(C) = 1.5000 + 40 C^-0.1500' moe-eval scaling run-{3,1,4,2}.json --predict 1e15 --json law.json --svg law.svg
grep -q '^  prediction    1.7249 at 1.000e+15 FLOP; 80 %: 1.72' out || fail "prediction: expected 1.7249"
grep -q '^  check         run-4 from the runs before: ' out || fail "no check of the last run"
[ "$(awk '/^  run-/ { print $1 }' out | paste -sd ' ')" = 'run-1 run-2 run-3 run-4' ] || fail "expected runs by compute"
grep -q '"free_residuals": 1' law.json || fail "law.json: expected one free residual"
grep -q '</svg>' law.svg || fail "law.svg is not whole"
expect 73 'law.svg: expected no such file' moe-eval scaling run-{1,2,3}.json --svg law.svg
expect 0 'no interval: no run is left over' moe-eval scaling run-{1,2}.json
expect 2 'scaling: expected results of two runs or more, found 1' moe-eval scaling run-1.json
expect 2 '--probability: expected above 0 and below 1, found 1' moe-eval scaling run-{1,2,3}.json --probability 1
expect 2 '--predict: expected FLOP above 0, or 0, found -1' moe-eval scaling run-{1,2,3}.json --predict -1
expect 66 'none.json' moe-eval scaling run-1.json none.json
echo text >text.json
expect 65 'text.json: expected a JSON object, found none' moe-eval scaling run-1.json text.json
result early 2e12 ', "steps": 4'
expect 65 'early.json: expected a run of 10 steps, found 4 of them' moe-eval scaling run-1.json early.json
result odd 2e12 ', "flop_per_token": "x"'
expect 65 'odd.json: flop_per_token: expected a number above 0, found "x"' moe-eval scaling run-1.json odd.json
sed 's/eval_loss/other/' run-2.json >train.json
expect 65 'train.json: expected a loss of the kind of run-1.json, found the training loss' moe-eval scaling run-1.json train.json
cp run-2.json same.json
expect 65 'expected other compute than run-2.json, found the same' moe-eval scaling run-1.json run-2.json same.json
result worse 1e15 ', "eval_loss": 5'
expect 3 'the losses do not fall with compute' moe-eval scaling run-4.json worse.json

# --- moe-eval curves: means of the last tenth of the steps
mkdir a b
for s in $(seq 20); do
  echo "{\"step\": $s, \"loss\": $((30 - s)), \"layers\": [{\"max_vio\": 0.5}, {\"max_vio\": 1.5}]}"
done >a/metrics.jsonl
echo '{"step": 20, "eval_loss": 7.5}' >>a/metrics.jsonl
sed 's/"layers.*/"x": 0}/' a/metrics.jsonl | grep -v eval >b/metrics.jsonl
expect 0 'wrote curves.svg' moe-eval curves a b/metrics.jsonl --svg curves.svg --json curves.json
[ "$(awk '$1 == "a" || $1 == "b"' out | tr -s ' ')" = $' a 20 10.5000 7.5000 1.0000\n b 20 10.5000 - -' ] || fail "another table of curves"
grep -q '</svg>' curves.svg && grep -q '"max_vio": null' curves.json || fail "no picture or JSON of curves"
expect 73 'curves.svg: expected no such file' moe-eval curves a --svg curves.svg
expect 66 'none/metrics.jsonl' moe-eval curves none/metrics.jsonl
expect 2 'curves: expected run directories, found none' moe-eval curves
echo '{"event": "end"}' >b/metrics.jsonl
expect 65 'expected rows of steps, found none' moe-eval curves a b

# --- refusals of the script
head -c 30000 "$source_dir/README.md" >half.txt
cat half.txt half.txt >text.txt
ladder 0 'usage: scripts/scaling-ladder' --help
ladder 2 'scaling-ladder: error: unknown option --rung' --rung 3
ladder 2 '--data needs a value' --data
ladder 2 'expected --data, found none' --rungs 3
ladder 2 "--rungs: expected 2 to 99, found '1'" --data text.txt --rungs 1
ladder 2 "--step: expected more than 1, found '1'" --data text.txt --step 1
ladder 2 "--grow: expected a list of width, layers, experts, found 'depth'" --data text.txt --grow depth
ladder 2 "--budget: expected minutes above 0, found 'x'" --data text.txt --budget x
ladder 2 "--tokens-per-param: expected more than 0, found '0'" --data text.txt --tokens-per-param 0
ladder 2 "--preset" --data text.txt --preset tinny
ladder 66 "$PWD/none.txt: no such data" --data none.txt
mkdir full
touch full/something
ladder 73 "$PWD/full: expected an empty folder or a ladder" --data text.txt full

# --- plans: the rungs grow in what was asked for, the family stays as it is
ladder 0 'family    30,532,122,624   3,041,867,776' --preset qwen3-30b-a3b --dry-run --grow width,layers,experts
[ -z "$(find . -name 'rung-*')" ] || fail "--dry-run wrote something"

# --- a ladder; then the same killed in its second rung
family=(--layers 2 --d-model 32 --heads 2 --kv-heads 2 --head-dim 8 --experts 4 --expert-ffn 16 --batch 8 --seq 32 --threads 1)
tiny=(--data text.txt --rungs 3 --tokens-per-param 3)
ladder 0 '== law' "${tiny[@]}" whole -- "${family[@]}"
for name in rung-1 rung-2 rung-3; do
  grep -Eq "^  $name +[0-9,]+ +[0-9,]+ +[0-9,]+ +[0-9.e+]+ +[0-9.]+ +[0-9.]+ +[-+0-9.]+ %$" out || fail "no line of $name in the table"
done
grep -q '^  prediction    [0-9.]* at ' out || fail "no prediction"
[ -s whole/ladder.svg ] && [ -s whole/ladder.json ] || fail "no picture or no JSON"
loss() { sed -n 's/^  "eval_loss": \(.*\),$/\1/p' "$1"; }

"$source_dir/scripts/scaling-ladder" "${tiny[@]}" killed -- "${family[@]}" >out 2>&1 </dev/null &
job=$!
for ((k = 0; k < 600; ++k)); do
  ! grep -q '"step":' killed/rung-2/metrics.jsonl 2>/dev/null || break
  sleep 0.05
done
pkill -9 -P $job || true
kill -9 $job
wait $job 2>/dev/null || true
ladder 0 '== law' "${tiny[@]}" killed -- "${family[@]}"
! grep -q '^== rung-1' out || fail "a rung that was done is trained again"
grep -q '^== rung-3' out || fail "expected the last rung to be trained"
for r in 1 2 3; do
  [ "$(loss whole/rung-$r.json)" = "$(loss killed/rung-$r.json)" ] || fail "rung-$r: the loss of the killed ladder differs"
done
ladder 73 "$PWD/killed: expected this ladder, found another" "${tiny[@]}" --step 2 killed -- "${family[@]}"

# --- on two ranks, with held-out data of its own
tail -c 9000 text.txt >held-out.txt
ladder 0 '== law' --data text.txt --eval-data held-out.txt --rungs 2 --tokens-per-param 2 --budget 1 --ranks 2 ranks -- --ep 2 "${family[@]}"
grep -q '"loss": "held-out"' ranks/ladder.json || fail "expected the loss on held-out text"
echo "ladders go on where they were and predict the next model"
