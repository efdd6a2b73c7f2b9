#!/usr/bin/env bash
# cmake --install into an empty prefix gives tools that start from there, man pages and completions; the prefix may be
# moved. $1: folder of the executables, $2: source tree.
set -euo pipefail
build=$(dirname "$1") source_dir=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fail() {
  echo "install_test: $1" >&2
  exit 1
}

cmake --install "$build" --prefix "$scratch/made" >"$scratch/log" 2>&1 || { cat "$scratch/log"; fail "cmake --install failed"; }
mv "$scratch/made" "$scratch/moved"
prefix=$scratch/moved
cd "$scratch"

check_tool() {
  local tool=$1 binary=$prefix/bin/$1 page=$prefix/share/man/man1/$1.1 completion=$prefix/share/bash-completion/completions/$1
  [ -x "$binary" ] || fail "$binary is not there"
  # A clean environment: nothing of the build folder may be needed.
  env -i PATH=/usr/bin:/bin "$binary" --version >version || fail "$tool --version ended with $?"
  grep -q "^$tool " version || fail "$tool --version: expected a first word $tool, found: $(head -n 1 version)"
  env -i PATH=/usr/bin:/bin "$binary" --help >help || fail "$tool --help ended with $?"
  grep -q '^Usage:' help || fail "$tool --help has no usage line"
  if command -v readelf >/dev/null && readelf -d "$binary" | grep -E 'R(UN)?PATH' | grep -qF "$build"; then
    fail "$tool looks for libraries in the build folder"
  fi

  grep -q "^\.TH.*$tool" <(tr '[:upper:]' '[:lower:]' <"$page" | sed 's/^\.th/.TH/; s/\\-/-/g') || fail "$page: no .TH line of $tool"
  if command -v man >/dev/null && man --help 2>/dev/null | grep -q -- --warnings; then
    local warnings
    warnings=$(LC_ALL=C.UTF-8 MANWIDTH=100 man --warnings -E UTF-8 -l "$page" 2>&1 >/dev/null) || true
    [ -z "$warnings" ] || fail "$page: $warnings"
  fi
  bash -n "$completion" || fail "$completion is not bash"
  bash -c 'source "$1" && complete -p "$2" >/dev/null' _ "$completion" "$tool" || fail "$completion does not complete $tool"
}

num_tools=0
for main in "$source_dir"/tools/moe-*.cpp; do
  [ -e "$main" ] || fail "no tools in $source_dir/tools"
  tool=${main##*/}
  check_tool "${tool%.cpp}"
  num_tools=$((num_tools + 1))
done
for page in "$source_dir"/man/*.5; do
  [ ! -e "$page" ] || [ -s "$prefix/share/man/man5/${page##*/}" ] || fail "man5/${page##*/} is not installed"
done
echo "$num_tools tools start from their installed place, with man pages and completions"
