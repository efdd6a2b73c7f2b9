#!/usr/bin/env bash
# The house stands: includes point downward, every package has one door, mains are short. Before the real tree is judged
# the rules are shown a bad one, so that a rule that sees nothing is noticed. $2: source tree.
set -euo pipefail
source_dir=$2

# Folder -> what its files may include (moe_build_info.h is made by the build). What is not listed here may not exist.
rules='
kernels       kernels
lib/base      lib/base kernels moe_build_info.h
lib/tensor    lib/tensor lib/base kernels
lib/comm      lib/comm lib/base kernels
lib/parallel  lib/parallel lib/comm lib/tensor lib/base kernels
lib/io        lib/io lib/base kernels
lib/place     lib/place lib/base kernels
lib/model     lib/model lib/parallel lib/comm lib/tensor lib/base kernels
lib/pipeline  lib/pipeline lib/model lib/parallel lib/comm lib/tensor lib/base kernels
lib/run       lib/run lib/pipeline lib/model lib/parallel lib/comm lib/tensor lib/io lib/place lib/base kernels
tools         tools lib/run lib/pipeline lib/model lib/parallel lib/comm lib/tensor lib/io lib/place lib/base kernels
tests         tests tools lib/run lib/pipeline lib/model lib/parallel lib/comm lib/tensor lib/io lib/place lib/base kernels
'
# Header of a package -> the files that are its door (regular expressions; # instead of a space between them).
doors='
^mpi\.h$                      ^lib/comm/mpi_comm\.cpp$
^nccl\.h$                     ^kernels/nccl_comm\.cu$
^hdf5\.h$                     ^lib/io/h5(_[a-z]+)?\.cpp$|^lib/io/h5_parts\.h$
^xxh(ash|_x86dispatch)\.h$      ^lib/io/
^sentencepiece                ^lib/io/tokenizer\.cpp$
^pcre2                        ^lib/io/tokenizer_bpe_regex\.cpp$
^utf8proc                     ^lib/io/tokenizer_bpe_nfc\.cpp$
^CLI/                         ^(lib/base/options[a-z_]*\.(cpp|h)|tools/.*)$
^spdlog/                      ^lib/base/log\.cpp$
^(cuda|cublas|cudnn|nvtx3/)[A-Za-z_]*   (\.cu$|^kernels/cuda_[a-z_]*\.h$|^kernels/cuda\.h$|^tests/cuda_on_host/)
^(cblas|oneapi/)              ^kernels/gemm(_library)?\.cpp$
'
# Files of lib/pipeline that describe schedules without a tensor.
schedule_files='^lib/pipeline/(plan|plans|simulate)\.(h|cpp)$'

# Prints one line per broken rule in the tree $1; nothing if all is well.
# shellcheck disable=SC2016 # the dollars are awk's
faults_of() {
  (cd "$1" && find kernels lib tools tests -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null |
    LC_ALL=C sort | RULES="$rules" DOORS="$doors" xargs awk -v schedule_files="$schedule_files" '
    BEGIN {
      n = split(ENVIRON["RULES"], rule, "\n")
      for (i = 1; i <= n; ++i) {
        parts = split(rule[i], word, " ")
        for (k = 2; k <= parts; ++k) may[word[1], word[k]] = 1
        if (parts) known[word[1]] = 1
      }
      n = split(ENVIRON["DOORS"], rule, "\n")
      for (i = 1; i <= n; ++i) if (split(rule[i], word, " ") == 2) { header[++num_doors] = word[1]; door[num_doors] = word[2] }
    }
    function folder_of(path,   part, parts) {
      parts = split(path, part, "/")
      return part[1] == "lib" && parts > 2 ? part[1] "/" part[2] : part[1]
    }
    function close_file() {
      if (file == "") return
      if (lines > 450) print file ": " lines " lines, at most 450"
      if (file ~ /^tools\/moe-[a-z]+\.cpp$/ && lines > 60) print file ": " lines " lines, a main has at most 60"
    }
    FNR == 1 {
      close_file()
      file = FILENAME; folder = folder_of(file)
      if (!(folder in known)) print file ": no rule for the folder " folder
    }
    { lines = FNR }
    !/^[ \t]*#[ \t]*include[ \t]*[<"]/ { next }
    {
      target = $0; sub(/^[^<"]*[<"]/, "", target); sub(/[>"].*/, "", target)
      own = $0 ~ /include[ \t]*"/
      for (i = 1; i <= num_doors; ++i)
        if (target ~ header[i] && file !~ door[i]) print file ":" FNR ": " target " is included only by " door[i]
      if (own && !((folder, folder_of(target)) in may)) print file ":" FNR ": " folder " may not include " target
      if (own && file ~ schedule_files && folder_of(target) !~ /^lib\/(base|pipeline)$/)
        print file ":" FNR ": a schedule needs lib/base only, not " target
      if (target ~ /^\.\.?\//) print file ":" FNR ": " target " is not a path from the root of the tree"
    }
    END { close_file() }')
}

# Every file of this tree breaks a rule; the name of a good one says so.
make_bad_tree() {
  add() { mkdir -p "$(dirname "$1")" && printf '%s\n' "${@:2}" >"$1"; }
  (
    cd "$1"
    add kernels/a.cpp '#include "lib/base/log.h"'
    add kernels/near.cpp '#include "view.h"'
    add lib/base/b.cpp '#include "lib/tensor/arena.h"'
    add lib/base/c.cpp '#include <CLI/CLI.hpp>'
    add lib/io/d.cpp '  #  include  <hdf5.h>'
    add lib/io/e.cpp '#include "lib/place/score.h"'
    add lib/model/f.cpp '#include "lib/io/h5.h"'
    add lib/model/g.cpp '#include <spdlog/spdlog.h>'
    add lib/run/h.cpp '#include <mpi.h>'
    add lib/run/i.cpp '#include <cuda_runtime.h>'
    add lib/run/j.cpp '#include <xxhash.h>'
    add lib/run/k.cpp '#include "tools/tool_main.h"'
    add lib/io/n.cpp '#include <pcre2.h>'
    add lib/io/tokenizer_bpe.cpp '#include <utf8proc.h>'
    add lib/pipeline/plan.h '#include "lib/model/block.h"'
    add lib/attic/l.cpp 'int x;'
    add lib/tensor/m.h '#include "../base/log.h"'
    seq 451 >tests_long && mkdir -p tests && mv tests_long tests/long_test.cpp
    mkdir -p tools && seq 61 >tools/moe-long.cpp
    add lib/io/h5.cpp '#include <hdf5.h>' '#include "lib/base/error.h"'
    add lib/io/good.cpp '// #include "lib/place/score.h"' '#include <vector>'
    add kernels/device.cu '#include <cuda_runtime.h>' '#include "kernels/device.h"'
    seq 60 >tools/moe-good.cpp
  )
}

bad_tree=$(mktemp -d)
trap 'rm -rf "$bad_tree"' EXIT
make_bad_tree "$bad_tree"
found=$(faults_of "$bad_tree" | sed 's/:.*//' | sort -u)
expected=$(cd "$bad_tree" && find . -type f ! -name h5.cpp ! -name '*good.cpp' ! -name device.cu | sed 's|^\./||' | sort)
if [ "$found" != "$expected" ]; then
  echo "the rules do not see what they should (< expected, > found):"
  diff <(echo "$expected") <(echo "$found") || true
  exit 1
fi

if [ ! -d "$source_dir/kernels" ] || [ ! -d "$source_dir/lib" ]; then
  echo "$source_dir: not the source tree"
  exit 1
fi
faults=$(faults_of "$source_dir")
if [ -n "$faults" ]; then
  echo "$faults"
  exit 1
fi
echo "includes point downward in $(find "$source_dir"/{kernels,lib,tools,tests} -name '*.cpp' -o -name '*.h' -o -name '*.cu' | wc -l) files"
