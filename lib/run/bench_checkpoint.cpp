// moe-bench checkpoint: a synthetic checkpoint is saved, loaded and verified, beside a raw write with a sync of as many
// bytes and a raw read of its files in the same run. One process. A figure is shown only if what was loaded is what was
// saved.
#include <algorithm>
#include <cstring>

#include "lib/base/stopwatch.h"
#include "lib/io/box.h"
#include "lib/io/files.h"
#include "lib/io/verify.h"
#include "lib/run/bench.h"
#include "lib/run/bench_files.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/bench_table.h"
#include "lib/run/result.h"

namespace moe {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

// Into memory of their size, which has been touched, as a load reads them.
double raw_read_seconds(const Manifest& m, const std::string& directory) {
  std::int64_t most = 0;
  for (const ManifestFile& f : m.files) most = std::max(most, f.bytes);
  std::vector<std::byte> memory(static_cast<std::size_t>(most), std::byte{0xff});
  const Stopwatch clock;
  for (const ManifestFile& f : m.files) {
    const File file = File::open(directory + "/" + f.name);
    for (std::int64_t at = 0; at < f.bytes; at += kPieceBytes)
      file.read_at(at,
                   std::span(memory).subspan(static_cast<std::size_t>(at),
                                             static_cast<std::size_t>(std::min<std::int64_t>(kPieceBytes, f.bytes - at))));
  }
  return clock.seconds();
}

struct Figure {
  const char* name;
  double seconds;
  double raw_seconds;  // what it is held against; 0: nothing
};

nlohmann::json figure_json(const Figure& f, std::int64_t bytes) {
  nlohmann::json j = {
      {"name", f.name}, {"seconds", f.seconds}, {"gbytes_per_second", static_cast<double>(bytes) * 1e-9 / f.seconds}};
  if (f.raw_seconds > 0) j["percent_of_raw"] = 100 * f.raw_seconds / f.seconds;
  return j;
}

std::string figure_line(const Figure& f, std::int64_t bytes) {
  const std::string share = f.raw_seconds > 0 ? format_text("%6.0f %%", 100 * f.raw_seconds / f.seconds) : "";
  return format_text("%-12s %8.3f s  %7.2f GB/s  %s", f.name, f.seconds, static_cast<double>(bytes) * 1e-9 / f.seconds,
                     share.c_str());
}

// The slices in memory of their own, which has been touched.
std::vector<TensorSlice> empty_copy(const std::vector<TensorSlice>& slices, std::vector<std::vector<std::byte>>& memory) {
  std::vector<TensorSlice> copy = slices;
  for (TensorSlice& s : copy) {
    memory.emplace_back(static_cast<std::size_t>(elements_of(s.extent)) * size_of(s.dtype), std::byte{0xff});
    s.data = memory.back().data();
  }
  return copy;
}

bool same_bytes(const std::vector<TensorSlice>& a, const std::vector<std::vector<std::byte>>& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(a[i].data, b[i].data(), b[i].size()) != 0) return false;
  return true;
}

}  // namespace

Exit bench_checkpoint(const BenchOptions& o) {
  const ScratchDirectory scratch(o.directory);
  const SyntheticState state(o.file_bytes);
  const double raw_write = raw_write_seconds(scratch.path(), state.bytes());
  Stopwatch clock;
  const SavedCheckpoint saved = save_checkpoint(scratch.path(), 1, {}, nlohmann::json::array(), state.slices(), {}, false);
  const double save = clock.lap();
  const Manifest m = read_manifest(saved.path);
  const double raw_read = raw_read_seconds(m, saved.path);
  std::vector<std::vector<std::byte>> memory;
  const std::vector<TensorSlice> loaded = empty_copy(state.slices(), memory);
  clock.lap();
  load_checkpoint(open_checkpoint(saved.path), loaded);
  const double load = clock.lap();
  verify_slices(m, saved.path);
  const double verify = clock.lap();
  const bool passed = same_bytes(state.slices(), memory);

  const std::vector<Figure> figures = {{"raw write", raw_write, 0},
                                       {"save", save, raw_write},
                                       {"raw read", raw_read, 0},
                                       {"load", load, raw_read},
                                       {"verify", verify, 0}};
  std::FILE* const out = table_file(o);
  std::fprintf(out,
               "# checkpoint of %lld bytes in %s; percent of the raw write (with a sync) or read of this run; what is read "
               "is in the system's cache\n",
               static_cast<long long>(state.bytes()), o.directory.c_str());
  nlohmann::json rows = nlohmann::json::array();
  for (const Figure& f : figures) {
    if (passed) std::fprintf(out, "%s\n", figure_line(f, state.bytes()).c_str());
    if (passed) rows.push_back(figure_json(f, state.bytes()));
  }
  if (!passed) std::fprintf(out, "FAILED: what was loaded is not what was saved\n");
  nlohmann::json json = bench_json("checkpoint");
  json.update({{"bytes", state.bytes()}, {"passed", passed}, {"rows", rows}});
  write_result_json(o.common.json, json);
  return passed ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
