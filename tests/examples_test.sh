#!/usr/bin/env bash
# The examples that --help prints work as printed, in one folder, one after the other: first those of moe-data, then of
# moe-train, then of the other tools. Each starts with the name of its tool; the folder holds text.txt, docs/*.txt, train.bin and
# tokenizer.json at the beginning, and what earlier examples left (tokens.h5, run/) later. Only durations are cut: --steps N becomes
# --steps 2. $1: folder of the executables, $2: source tree.
set -euo pipefail
bin=$1 source_dir=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fail() {
  echo "examples_test: $1" >&2
  exit 1
}

# The lines of the paragraph "Examples:" of a --help on stdin.
examples_of_help() { awk '/^Examples:/ { on = 1; next } on && /^ *$/ { on = 0 } on { sub(/^ +/, ""); print }'; }

# The same command with as little to compute as it allows.
shortened() {
  local line
  line=$(sed -E 's/--steps[ =][0-9]+/--steps 2/g; s/--time-limit[ =][0-9]+/--time-limit 2/g' <<<"$1")
  case $line in
    *--steps* | *--time-limit* | *--dry-run*) ;;
    moe-train\ *) line+=" --steps 2" ;;
  esac
  echo "$line"
}

self_check() {
  [ "$(printf 'Usage: x\n\nExamples:\n  moe-a 1\n  moe-a 2\n\nmore\n' | examples_of_help)" = $'moe-a 1\nmoe-a 2' ] || fail "examples are not found"
  [ "$(shortened 'moe-train --steps 500 -o run')" = 'moe-train --steps 2 -o run' ] || fail "steps are not cut"
  [ "$(shortened 'moe-train -o run')" = 'moe-train -o run --steps 2' ] || fail "steps are not added"
}

# Enough prose for a batch and for held-out text: what the repository itself says.
prepare() {
  mkdir docs
  for i in 1 2 3 4 5 6 7 8; do
    for chapter in "$source_dir"/*.md "$source_dir"/kernels/*.h; do
      printf '%d. ' "$i"
      cat "$chapter"
    done
  done >text.txt
  head -c 40000 text.txt >docs/one.txt
  tail -c 40000 text.txt >docs/two.txt
  head -c 2000 text.txt | tr -c 'A-Za-z' 'e' >train.bin # as 16-bit ids: all below 32768
  cp "$source_dir/tests/golden/bpe/tokenizer.json" .
}

run_examples_of() {
  local tool=$1 line count=0
  "$bin/$tool" --help >"$scratch/help" || fail "$tool --help ended with $?"
  while IFS= read -r line; do
    case $line in "$tool" | "$tool "*) ;; *) fail "$tool: expected an example that starts with $tool, found: $line" ;; esac
    line=$(shortened "$line")
    echo "\$ $line"
    PATH="$bin:$PATH" bash -euo pipefail -c "$line" </dev/null >"$scratch/out" 2>&1 || {
      local code=$?
      tail -n 20 "$scratch/out"
      fail "ended with $code: $line"
    }
    count=$((count + 1))
  done < <(examples_of_help <"$scratch/help")
  [ "$count" -gt 0 ] || fail "$tool --help has no examples"
}

self_check
tools=()
for main in "$source_dir"/tools/moe-*.cpp; do
  [ -e "$main" ] || fail "no tools in $source_dir/tools"
  tool=${main##*/}
  tool=${tool%.cpp}
  case $tool in moe-data | moe-train) ;; *) tools+=("$tool") ;; esac
done
mkdir "$scratch/work"
cd "$scratch/work"
prepare
for tool in moe-data moe-train "${tools[@]}"; do
  [ ! -e "$source_dir/tools/$tool.cpp" ] || run_examples_of "$tool"
done
