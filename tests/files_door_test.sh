#!/usr/bin/env bash
# Every operation on files goes through lib/io/files.h, where faults are planned and errors named. What does not is listed
# here with its reason. $2: source tree.
set -u
calls='(\b(fopen|freopen|tmpfile|mkstemp|creat|opendir|readdir|scandir|unlink|rmdir|mkdir|mkdtemp|renameat2?|ftruncate|fsync|fdatasync|symlink|link|pwrite|pread|statvfs|lstat|fstat) *\(|(^|[^A-Za-z_])::(open|rename|stat|read|write|truncate|remove) *\(|\bstd::filesystem::|\b(i|o)?fstream\b|\bstd::(rename|remove) *\("|\bopen\("/)'
# FILE: REASON. None of these reads data or writes a result.
allowed='
lib/io/files.cpp the layer itself
lib/io/paths.cpp the layer itself
lib/io/fault.cpp the log of the layer itself
lib/base/options_config_file.cpp the configuration file, which base reads and io is above
lib/base/log.cpp spdlog writes the log file
lib/run/bench_measure.cpp /proc
lib/run/bench_mesh_step.cpp /proc
lib/run/run_output.cpp compares two paths, opens nothing
lib/io/sandbox.cpp /proc, and the pipe from its child
tools/parallel_tool_main.cpp /dev/null
'
found_in() { (cd "$1" && grep -rnE --include='*.cpp' --include='*.h' "$calls" "${@:2}" | grep -vE '^[^:]*:[0-9]+: *//'); }

bad=$(mktemp -d)
trap 'rm -rf "$bad"' EXIT
mkdir -p "$bad/lib"
n=0
for line in 'auto f = std::fopen(p, "w");' 'std::ofstream out(p);' 'if (::open(p, 0) < 0) return;' 'std::filesystem::remove(p);' 'unlink(p);'; do
  n=$((n + 1)) && echo "$line" >"$bad/lib/$n.cpp"
done
echo 'const File f = File::open(p); // fopen' >"$bad/lib/good.cpp"
[ "$(found_in "$bad" lib | grep -vc good)" = $n ] || { echo "the rule does not see what it should"; exit 1; }

faults=$(found_in "$2" lib tools | while IFS= read -r hit; do
  grep -q "^${hit%%:*} " <<<"$allowed" || echo "$hit"
done)
[ -z "$faults" ] && { echo "all through lib/io/files.h"; exit 0; }
echo "not through lib/io/files.h:"
echo "$faults"
exit 1
