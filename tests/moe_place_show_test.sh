#!/usr/bin/env bash
# moe-place show as people call it: what a file is, is found from its content; pictures; what is refused and with which exit
# code. $1: folder of the executables. Not here: the words and figures (place_show_test.cpp).
set -u
place=$1/moe-place
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
expect() {  # CODE TEXT-IN-OUTPUT COMMAND...
  local want=$1 text=$2 got
  shift 2
  "$@" >out 2>&1
  got=$?
  [ $got = "$want" ] || { fail "exit $got, expected $want: $*"; tail -n 3 out; }
  grep -qF -- "$text" out || { fail "'$text' is not in the output of $*"; head -n 8 out; }
}

printf '8,2,4,2\n1,1,1,0\n' >loads.csv
printf '8,2,4\n1,1,1\n' >other.csv
"$place" init linear --experts 4 --layers 2 --topology "node:2 rank:2" -q -o linear.h5 || fail "init"
"$place" swap linear.h5 0 0 3 -q -o "a plan.h5" || fail "swap"

expect 0 "a plan.h5: a plan" "$place" show "a plan.h5"
grep -q "load  *- (--routing or --loads" out || fail "load that is not known: $(cat out)"
expect 0 "2.000 in the worst layer (0)" "$place" show "a plan.h5" --loads loads.csv
expect 0 "loads.csv: loads of experts" "$place" show loads.csv
expect 0 "experts in linear order" "$place" show loads.csv --topology "rank:2"
expect 0 "Layer 1: the experts of every rank" "$place" show "a plan.h5" --loads loads.csv --layer 1
expect 0 '"max_vio": 1.0' "$place" show loads.csv --json -
expect 0 "" "$place" show "a plan.h5" --loads loads.csv
grep -q $'\x1b' out && fail "colours where there is no terminal"
expect 0 $'\x1b[48;5;124' "$place" show "a plan.h5" --loads loads.csv --color

expect 0 "wrote a.html" "$place" show "a plan.h5" --loads loads.csv --svg a.svg --html a.html
grep -q "</svg>" a.svg || fail "no picture"
grep -q "before: linear placement" a.html || fail "no page"
expect 73 "a.svg: expected no such file" "$place" show loads.csv --svg a.svg --html b.html
[ ! -e b.html ] || fail "wrote one of two"
expect 0 "wrote a.svg" "$place" show loads.csv --svg a.svg --force
expect 0 "" "$place" show loads.csv --svg c.svg --dry-run
[ ! -e c.svg ] || fail "--dry-run wrote"

expect 66 "nothing.h5" "$place" show nothing.h5
expect 65 "3 experts in layers" "$place" show "a plan.h5" --loads other.csv
expect 2 "expected the 4 ranks" "$place" show "a plan.h5" --topology "rank:3"
expect 2 "--layer: expected a layer" "$place" show loads.csv --layer 2
expect 2 "expected a plan" "$place" show loads.csv --loads loads.csv
head -c 3000 "a plan.h5" >cut.h5
expect 65 "cut.h5" "$place" show cut.h5

[ $failures = 0 ] || { echo "$failures checks failed"; exit 1; }
