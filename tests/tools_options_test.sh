#!/bin/bash
# What every tool promises whatever it does: help, version, echo of the configuration, man page, completion, usage errors.
# $1: folder of the executables. Not here: what the tools are for.
set -uo pipefail
bin=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for variable in $(compgen -e MOE_); do unset "$variable"; done
failures=0

fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# expect CODE WORDS...: runs the words, keeps their output in $work/out and $work/err
expect() {
  local want=$1 got=0
  shift
  "$@" >"$work/out" 2>"$work/err" || got=$?
  [[ $got == "$want" ]] || fail "exit code $got, expected $want: $* ($(head -c 300 "$work/err"))"
}

check_help() {
  expect 0 "$1" --help
  [[ -s $work/err ]] && fail "$1 --help wrote to standard error"
  awk 'length > 100 { print; bad = 1 } END { exit bad }' "$work/out" || fail "$1 --help is wider than 100 columns"
  sed -n '/^Examples:/,$p' "$work/out" | grep -q "$(basename "$1")" || fail "$1 --help has no example"
  expect 0 "$1" --version
  grep -q "^$(basename "$1") [0-9]" "$work/out" || fail "$1 --version does not name itself and its version"
}

check_usage_errors() {
  expect 2 "$1" --thraeds 3
  grep -q 'unknown option --thraeds; did you mean --threads?' "$work/err" || fail "$1: no near name for --thraeds"
  grep -q "^$(basename "$1"): error: " "$work/err" || fail "$1: an error does not begin with the name of the tool"
  expect 2 "$1" --print-config --threads many
  expect 2 "$1" --print-config --threads 1 --threads 2
  expect 2 env MOE_THRAEDS=3 "$1" --print-config
  echo 'thraeds = 3' >"$work/bad.conf"
  expect 2 "$1" --print-config --config "$work/bad.conf"
  grep -q "bad.conf:1:1: unknown key thraeds; did you mean threads?" "$work/err" || fail "$1: no line and column"
}

check_config() {
  expect 0 env MOE_SEED=5 "$1" --print-config --threads 3
  grep -q '^threads = 3 *# command line$' "$work/out" || fail "$1 --print-config: threads"
  grep -q '^seed = 5 *# environment$' "$work/out" || fail "$1 --print-config: seed"
  cp "$work/out" "$work/first.conf"
  expect 0 "$1" --config "$work/first.conf" --print-config
  diff <(sed 's/ *# [a-z ]*$//' "$work/first.conf") <(sed 's/ *# [a-z ]*$//' "$work/out") ||
    fail "$1 --print-config does not read back"
}

check_stdout() {
  "$1" --help 2>"$work/err" | head -n 1 >"$work/out"
  [[ "${PIPESTATUS[0]}" == 0 && ! -s $work/err ]] || fail "$1 --help | head does not end quietly"
  "$1" --help >/dev/full 2>"$work/err"
  [[ $? == 74 ]] || fail "$1 --help on a full disk is no error"
}

check_man_page() {
  expect 0 "$1" --man-page
  cp "$work/out" "$work/page.1"
  if ! command -v man >/dev/null; then echo "no man here: the man page of $1 was not formatted"; return; fi
  LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -E UTF-8 -l "$work/page.1" >"$work/out" 2>"$work/err"
  [[ -s $work/err ]] && fail "man page of $1: $(head -n 3 "$work/err")"
  grep -q 'EXIT STATUS' "$work/out" || fail "man page of $1 lacks the exit codes"
}

# What bash would offer after "moe-x --thr".
check_completion() {
  expect 0 "$1" --bash-completion
  cp "$work/out" "$work/completion"
  local offered
  offered=$(
    # shellcheck source=/dev/null
    source "$work/completion"
    COMP_WORDS=("$(basename "$1")" --thr) COMP_CWORD=1
    "_$(basename "$1" | tr - _)"
    echo "${COMPREPLY[*]}"
  )
  [[ $offered == --threads ]] || fail "completion of $1: --thr offers '$offered'"
}

tools=("$bin"/moe-*)
[[ -x ${tools[0]} ]] || fail "no tools in $bin"
for tool in "${tools[@]}"; do
  for check in help usage_errors config stdout man_page completion; do "check_$check" "$tool"; done
done
echo "${#tools[@]} tools, $failures failures"
[[ $failures == 0 ]]
