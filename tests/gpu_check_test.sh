#!/usr/bin/env bash
# scripts/gpu-check without a GPU: its refusals, and the report made of results that were written by hand. $2: source tree.
# Not here: a run of it, which needs a GPU.
set -u
scripts=$2/scripts
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
failures=0
fail() {
  echo "gpu_check_test: $1" >&2
  failures=$((failures + 1))
}
if ! command -v python3 >/dev/null; then
  echo "gpu_check_test: no python3 here: nothing was tested"
  exit 77
fi

expect_refusal() { # WORDS OPTION...
  local words=$1 code=0
  shift
  "$scripts/gpu-check" "$@" >out 2>err || code=$?
  [ $code -eq 2 ] || fail "gpu-check $*: expected exit code 2, found $code"
  grep -qF -- "gpu-check: error: $words" err || fail "gpu-check $*: expected the words: $words"
}
expect_refusal 'unknown option --package' --package x
expect_refusal '--packages needs a value' --packages
expect_refusal '--seconds: expected a whole number above 0' --seconds 9m
expect_refusal '--only: unknown part tests' --only build,tests
"$scripts/gpu-check" --help | grep -q '^usage: scripts/gpu-check' || fail "--help: expected the usage"

# Results of a run in which everything is as it should be, at `percent` % of the ceilings.
make_results() {
  rm -rf results && mkdir results
  echo "NVIDIA H200, 580.1, 143771 MiB" >results/device
  echo "0 31 240" >results/build.part
  echo "0 50 150" >results/tests.part
  echo "0 9 40" >results/sanitizer-gemm-memcheck.part
  for name in cpu-fp32 cuda-fp32 cuda-fp32-again cpu-bf16 cuda-bf16 cuda-bf16-again cuda-fp32-ranks; do
    printf '{"step":1,"loss":5.5}\n{"step":2,"loss":5.25}\n' >results/$name.jsonl
  done
  python3 - "$1" <<'PY'
import json, sys
percent = float(sys.argv[1])
names = [f"grouped/{w}/{d}/{l}" for w in ("gate_up", "down") for d in ("forward", "backward_input", "backward_weight")
         for l in ("balanced", "zipf")] + ["permute/gather", "permute/combine", "attention/forward", "attention/backward"]
row = lambda name, work, share: {"name": name, "shape": "1x2", "work": work, "unit": "TFLOP/s", "passed": True, "rate": 7.0,
                                 "percent_of_peak": share, "us": {"median": 3.0}}
# A smaller shape of the same name does not count.
rows = [row(n, 1, 1.0) for n in names] + [row(n, 9, percent) for n in names]
peaks = {"gemm_dtype": "bf16", "gemm_size": 8192, "gemm_gflops": 7.9e5, "copy_gbytes_per_s": 4300}
for model in ("olmoe", "qwen3"):
    json.dump({"rows": rows, "peaks": peaks}, open(f"results/kernels-{model}.json", "w"))
json.dump({"layers": 16, "tokens_per_second": 1e5, "gflops_causal": 4e5, "percent_of_gemm_peak_causal": percent},
          open("results/step.json", "w"))
json.dump({"batches": [{"batch": 1, "decode_tokens_per_second": 321.0, "percent_of_limit": 61.5}, {"batch": 16}]},
          open("results/generate.json", "w"))
us = {"median": 250.0}
json.dump({"rows": [{"workload": "W1", "dispatch": mode, "passed": True, "dispatch_us": us, "combine_us": us,
                     "rank_gbytes_per_s": 1.5} for mode in ("flat", "two-level")]}, open("results/ranks-dispatch.json", "w"))
json.dump({"rows": [{"name": "barrier", "bytes": 0, "passed": True, "us": us}] +
                   [{"name": "gather", "bytes": size, "passed": True, "us": us, "busbw_gbytes_per_s": 2.5} for size in (65536, 262144)]},
          open("results/ranks-collectives.json", "w"))
json.dump({"block": {"model_tflops": 300.0}}, open("results/peer.json", "w"))
PY
}
report() { "$scripts/gpu_report.py" results --out made/latest.json >table 2>err; }
expect_report() { # CODE WHAT
  local code=0
  report || code=$?
  [ $code -eq "$1" ] || fail "$2: expected exit code $1, found $code: $(cat err)"
  python3 -m json.tool made/latest.json >/dev/null || fail "$2: the report is not JSON"
}

make_results 85
expect_report 0 "all met"
grep -q '0 of 3 parts failed' table || fail "all met: expected no failed part"
! grep -q 'MISSED\|open' table || fail "all met: expected no missed criterion"
grep -q 'batch 1: 321 tokens/s, 61.5 %' table || fail "all met: expected what generation reaches"
grep -q 'batch 16: FAILED' table || fail "all met: expected a failed check of generation"
grep -q 'four ranks, rows there and back, W1 two-level: 250 + 250 us, 1.50 GB/s a rank' table || fail "all met: expected rows of ranks"
grep -q 'four ranks, gather of 262144 bytes: 250 us, bus 2.50 GB/s' table || fail "all met: expected a collective of ranks"
! grep -q 'gather of 65536\|barrier' table || fail "all met: expected the largest size alone"
for word in '"driver": "580.1"' '"device": "NVIDIA H200"' '"passed": true'; do
  grep -qF "$word" made/latest.json || fail "expected $word in the report"
done
make_results 70
expect_report 1 "kernels below 80 %"
grep -q 'olmoe grouped/gate_up/forward/balanced.*70.*MISSED' table || fail "70 %: expected a missed criterion"
grep -q 'attention/forward.*70.*met' table || fail "70 %: expected that attention meets its own"
make_results 85
printf '{"step":1,"loss":5.5}\n{"step":2,"loss":NaN}\n' >results/cuda-fp32.jsonl
expect_report 1 "a loss that is not a number"
make_results 85
printf '{"step":1,"loss":5.5}\n{"step":2,"loss":5.2501}\n' >results/cuda-bf16-again.jsonl
expect_report 1 "two runs that differ"
make_results 85
sed -i 's/"passed": true/"passed": false/' results/ranks-dispatch.json
expect_report 1 "rows of ranks that are wrong"
grep -q 'four ranks on one GPU: dispatch, rows that failed  *1 .*MISSED' table || fail "rows of ranks that are wrong: expected a missed criterion"
grep -q 'W1 flat: FAILED' table || fail "rows of ranks that are wrong: expected FAILED"
make_results 85
rm results/step.json results/cuda-fp32-ranks.jsonl results/ranks-collectives.json
expect_report 1 "parts without results"
[ "$(grep -c 'not measured.*open' table)" -eq 4 ] || fail "parts without results: expected four open criteria"
make_results 85
echo "124 150 150" >results/tests.part
expect_report 1 "tests that took too long"
grep -q '^tests  *TIME OVER' table || fail "tests that took too long: expected TIME OVER"
make_results 85
echo "125 0 0" >results/peer.part
echo "3 9 75" >results/kernels-olmoe.part
seq 100 >results/kernels-olmoe.log
python3 - <<'PY'
import json
bench = json.load(open("results/kernels-olmoe.json"))
lost = bench["rows"].pop()
bench["rows"].append({"name": lost["name"], "shape": "1x2", "passed": False, "why": "CUDA: launch: no memory"})
bench["complete"] = False
json.dump(bench, open("results/kernels-olmoe.json", "w"))
PY
expect_report 1 "a row with an error, a part that was left out"
grep -q '^peer  *LEFT OUT' table || fail "a part without time: expected LEFT OUT"
grep -q 'attention/backward.*FAILED CUDA: launch: no memory' table || fail "a row with an error: expected its words"
grep -q 'olmoe attention/backward.*not measured.*open' table || fail "a row with an error: expected an open criterion"
grep -q '(not all rows)' table || fail "expected that rows are missing"
grep -q '"100"' made/latest.json || fail "a part that failed: expected the end of its log in the report"

# A part that does not answer is ended with what it began, the next ones are left out, and the report tells both.
mkdir fake
for program in ninja nvcc g++; do printf '#!/bin/sh\nexit 0\n' >fake/$program; done
printf '#!/bin/sh\n[ "$1" != --version ] || exit 0\ntrap "" TERM\nsh -c "trap \\"\\" TERM; echo \\$\\$ >%s/stuck; sleep 300; :"\n' "$scratch" >fake/cmake
chmod +x fake/*
code=0
PATH=$scratch/fake:$PATH "$scripts/gpu-check" --build "$scratch/build" --seconds 5 --report "$scratch/made/stuck.json" >table 2>err || code=$?
[ $code -eq 1 ] || fail "a part that hangs: expected exit code 1, found $code: $(cat err)"
[ -s stuck ] || fail "a part that hangs: it did not begin"
still_runs() { grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status" 2>/dev/null; } # not one that nobody has waited for
for _ in 1 2 3 4 5; do still_runs "$(cat stuck)" && sleep 1; done
! still_runs "$(cat stuck)" || fail "a part that hangs: what it began is still there"
grep -q '^configure  *TIME OVER' table || fail "a part that hangs: expected TIME OVER: $(cat table)"
grep -q '^gpu-check: peer  *left out' table || fail "a part that hangs: expected that the next ones are left out"
tar -tzf "$scratch/build/results.tar.gz" | grep -q 'configure.log' || fail "a part that hangs: expected its log in the archive"

[ $failures -eq 0 ] || exit 1
echo "gpu-check's report says what its results say"
