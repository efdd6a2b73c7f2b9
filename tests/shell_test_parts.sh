# shellcheck shell=bash
# What shell tests share; they source it: a folder of their own, failures that are counted, commands that are expected to end
# with a code, whether the sanitizers look on. Not here: launchers of ranks.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0
fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}
expect() { # CODE COMMAND...: leaves out, err
  local want=$1 got
  shift
  "$@" >out 2>err
  got=$?
  [ $got = "$want" ] || {
    fail "exit $got, expected $want: $*"
    tail -n 5 err
  }
}
# Whether a program was built with the address sanitizer: its steps take ten times as long.
sanitized() { ldd "$1" | grep libasan >/dev/null; }
# At the end: says how it went and ends the test.
finish() {
  [ $failures = 0 ] && echo "all passed"
  exit $((failures > 0))
}
