#!/usr/bin/env bash
# No code compiled for one processor can be linked into the code for another. The kernels are compiled once per
# instruction set; a function that is not in the namespace of its instruction set (an inline function of a common header,
# an instance of a standard template) would have the same name in every copy, the linker would keep any one of them, and
# an old processor would meet an instruction that it does not know. So: every symbol that an object of a per-ISA library
# shows to the linker carries moe::<isa>:: in its name. $1: folder of the executables.
set -euo pipefail
kernels=$(dirname "$1")/kernels

# Prints "object: type symbol" for each symbol of the objects in folder $1 that is not of the instruction set $2.
strangers() {
  local object
  # Data that only refers to the personality routine of exceptions is the same for every processor.
  find "$1" -name '*.o' -print | sort | while read -r object; do
    nm -C --defined-only --extern-only "$object" | LC_ALL=C awk -v isa="$2" -v object="${object##*/}" '
      NF >= 3 {
        symbol = $0; sub(/^[0-9a-f]+ /, "", symbol)  # leaves the type, a letter, and the name
        if (symbol !~ /^. DW\.ref\./ && index(symbol, "moe::" isa "::") == 0) print object ": " symbol
      }'
  done
}

# The check sees what it should: an inline function outside, not one inside, and not an instance for a type of its own.
self_check() {
  local folder
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' RETURN
  cat >"$folder/leak.cpp" <<'EOF'
#include <vector>
__attribute__((noinline)) inline int leak(int x) { return x * 7; }
namespace moe::fake {
struct Own { int x; };
__attribute__((noinline)) inline int inside(int x) { return x * 5; }
template <class T> __attribute__((noinline)) T twice(T x) { return x + x; }
int kernel(int x, std::vector<Own>& own) { own.push_back({x}); return leak(x) + inside(x) + twice(x); }
}
EOF
  "${CXX:-c++}" -std=c++20 -O1 -c "$folder/leak.cpp" -o "$folder/leak.o"
  local seen
  seen=$(strangers "$folder" fake)
  if ! grep -q 'leak.o: W leak(int)' <<<"$seen" || grep -q -e inside -e twice -e push_back -e kernel <<<"$seen"; then
    echo "the check does not see what it should; it found: $seen"
    return 1
  fi
}

self_check
found=0 bad=0
for folder in "$kernels"/CMakeFiles/moe_kernels_*.dir; do
  [ -d "$folder" ] || continue
  isa=${folder##*/moe_kernels_}
  isa=${isa%.dir}
  objects=$(find "$folder" -name '*.o' | wc -l)
  [ "$objects" -gt 0 ] || continue
  # Sanitizers call functions that are otherwise inlined; such a build never leaves its machine.
  if find "$folder" -name '*.o' -exec nm -u {} + | grep ' U __asan_init' >/dev/null; then
    echo "built with sanitizers: nothing to check"
    exit 0
  fi
  found=$((found + 1))
  list=$(strangers "$folder" "$isa")
  if [ -n "$list" ]; then
    echo "$isa: symbols outside moe::$isa::"
    echo "$list"
    bad=1
  else
    echo "$isa: $objects objects, all symbols in moe::$isa::"
  fi
done
[ "$found" -gt 0 ] || { echo "no per-ISA objects below $kernels"; exit 1; }
exit "$bad"
