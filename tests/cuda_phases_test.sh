#!/bin/bash
# label: mpi
# Times of a training step on a GPU, told by the GPU: the phases in metrics.jsonl, and the rows of --trace, through the plugin
# for machines without one (tests/cuda_on_host), which does nothing before somebody waits, so that times of the host are not
# those of the work. Only orders that must hold are asserted. $1: folder of the executables. Not here: the clock
# (phase_clock_test.cpp), how often a step waits (cuda_waits_test.sh), moe-bench step (moe_bench_test.sh).
# shellcheck source=tests/shell_test_parts.sh
. "$(dirname "$0")/shell_test_parts.sh"
train=$1/moe-train
export MOE_CUDA_PLUGIN=$1/../tests/libmoe_cuda_on_host.so
[ -e "$MOE_CUDA_PLUGIN" ] || { fail "expected $MOE_CUDA_PLUGIN"; exit 1; }
for i in $(seq 400); do echo "line $i: the quick brown fox jumps over the lazy dog $((i * i * 7919 % 1000))"; done >text.txt
small="--preset olmoe-mini --layers 2 --kv-heads 2 --head-dim 16 --d-model 32 --heads 2 --seq 16 --experts 8 --top-k 2"
small="$small --expert-ffn 16 --data text.txt --device cuda -q --threads 1 --micro-batch 2"

of() {  # ROW KEY: a number of a row of metrics.jsonl; nothing where there is none
  printf '%s\n' "$1" | grep -o "\"$2\":[-0-9.e]*" | cut -d: -f2
}
rows() { grep '"step_ms"' "$1/metrics.jsonl"; }
holds() {  # WHAT EXPRESSION NAME=NUMBER...
  local what=$1 test=$2 set=()
  shift 2
  for v in "$@"; do set+=(-v "$v"); done
  awk "${set[@]}" "BEGIN { exit !($test) }" || fail "$what: expected $test, found $*"
}
# Phases of each row fill no more than the step. Before the first one there is no update.
phases() {  # RUN STEPS
  local n=0
  while read -r row; do
    n=$((n + 1))
    set -- "$1" "$2" d="$(of "$row" data_ms)" f="$(of "$row" forward_ms)" b="$(of "$row" backward_ms)" \
      o="$(of "$row" optimizer_ms)" s="$(of "$row" step_ms)" x="$(of "$row" exposed_ms)"
    holds "$1, step $n" "f > 0 && b > 0 && d > 0 && x >= 0" "${@:3}"
    holds "$1, step $n" "d + f + b + o <= s + 1e-3" "${@:3}"
    holds "$1, step $n" "x <= s" "${@:3}"
    [ $n -gt 1 ] || holds "$1, step $n" "o == 0" "${@:3}"
    for unknown in experts_ms ema_ms; do
      [ -z "$(of "$row" $unknown)" ] || fail "$1: $unknown, which nobody has measured"
    done
  done < <(rows "$1")
  [ $n = "$2" ] || fail "$1: expected $2 rows, found $n"
}
# spans FILE PID ROW NAME: "ts dur step" of each, microseconds
spans() {
  grep '"ph":"X"' "$1" | grep "\"name\":\"$4\",\"cat\":\"$3\",\"pid\":$2," |
    sed 's/.*"ts":\([0-9.]*\),"dur":\([0-9.]*\),"args":{"step":\([0-9]*\).*/\1 \2 \3/'
}

expect 0 "$train" $small --batch 4 --steps 4 --ema 0.9 -o one --trace one.json --trace-steps 2:3
phases one 4
# The trace waits before step 2 and before step 4, so that the updates ran before these steps; of that before step 3 nobody
# knew.
row=$(rows one | sed -n 3p)
holds "the update before step 3" "o > 0" o="$(of "$row" optimizer_ms)"
rows one | grep -q exchange_ms && fail "exchange_ms, which nobody has measured"
rows one | grep -vq '"exposed_ms":0.0' && fail "one rank communicates"

# The spans of the GPU lie inside the laps of the phases, step by step, and behind those in which the host put them into the
# stream; a GPU that nobody waits for has not begun.
for step in 2 3; do
  for phase in forward backward; do
    gpu=$(spans one.json 1 GPU $phase | awk -v s=$step '$3 == s { sum += $2; ++n } END { print n == 2 ? sum / 1e3 : "none" }')
    lap=$(of "$(rows one | sed -n ${step}p)" ${phase}_ms)
    holds "$phase of step $step" "g > 0 && g <= l * 1.02 + 0.01" g="$gpu" l="$lap"
  done
  first=$(spans one.json 1 GPU forward | awk -v s=$step '$3 == s { print $1; exit }')
  put=$(spans one.json 1 compute backward | awk -v s=$step '$3 == s { last = $1 + $2 } END { print last }')
  holds "step $step" "g >= h - 1000" g="$first" h="$put"
done
grep -q '"name":"experts backward weight","cat":"GPU","pid":1,"tid":13,.*"layer":1' one.json || fail "a block's part is not on the GPU's row"
# Behind each other on the GPU's row, as they are in the stream.
spans one.json 1 GPU '\(forward\|backward\)' >in_order
awk '$1 < end - 0.01 { exit 1 } { end = $1 + $2 }' in_order || fail "spans of the GPU overlap: $(cat in_order)"
[ "$(wc -l <in_order)" = 8 ] || fail "expected forward and backward of two micro-batches of two steps: $(cat in_order)"

# On the CPU all parts are there, and no row of a GPU.
expect 0 "$train" ${small/--device cuda/--device cpu} --batch 4 --steps 2 -o cpu --trace cpu.json --trace-steps 1:2
for key in experts_ms exchange_ms exposed_ms optimizer_ms; do
  [ "$(rows cpu | grep -c "\"$key\":")" = 2 ] || fail "cpu: expected $key in every row"
done
grep -q GPU cpu.json && fail "cpu: a row of a GPU"

# Ranks: what the lane does with the GPU is told from where it has what it sends.
if command -v mpirun >/dev/null; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  expect 0 mpirun --bind-to none -n 2 "$train" $small --batch 8 --steps 3 --ep 2 -o two --trace two.json --trace-steps 2:3
  phases two 3
  while read -r row; do
    holds "two" "x > 0 && x <= s" x="$(of "$row" exchange_ms)" s="$(of "$row" step_ms)"
  done < <(rows two)
  for pid in 1 2; do
    [ "$(spans two.json $pid 'GPU communication' 'dispatch forward' | wc -l)" -gt 0 ] || fail "rank $((pid - 1)) sends no rows"
    [ "$(spans two.json $pid GPU wait | wc -l)" -gt 0 ] || fail "rank $((pid - 1)) waits for nothing"
  done
fi

finish
