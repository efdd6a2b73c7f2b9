// moe-bench reshard: a checkpoint of a mesh ep 4 put into the layout of shard 2 x ep 2, against cp of its files, in the same
// run; judged by the digest. Not here: moe-reshard itself (reshard_layout.h).
#include <algorithm>
#include <cstdio>

#include "lib/base/byte_size.h"
#include "lib/comm/world.h"
#include "lib/io/manifest.h"
#include "lib/run/bench.h"
#include "lib/run/bench_files.h"
#include "lib/run/bench_table.h"
#include "lib/run/reshard_layout.h"
#include "lib/run/result.h"
#include "lib/run/target_layout.h"

namespace moe {
namespace {

constexpr int kRounds = 3;

// The state as four ranks write it.
std::string save_on_four_ranks(const SyntheticState& state, const std::string& run) {
  std::vector<ManifestTensor> tensors;
  for (const TensorSlice& s : state.slices()) tensors.push_back({s.name, s.role, s.dtype, s.shape, "", {}});
  const TargetLayout layout = mesh_layout(tensors, {1, 1, 4});
  const CheckpointDraft draft = begin_checkpoint(run, 1, 4, state.bytes());
  std::vector<std::string> reports;
  for (std::vector<TensorSlice> slices : layout.parts) {
    for (TensorSlice& s : slices)
      for (const TensorSlice& whole : state.slices())
        if (whole.name == s.name && whole.role == s.role)
          for_each_run(s.shape, {s.offset, s.extent}, [&](std::int64_t first, std::int64_t) {
            s.data = static_cast<std::uint32_t*>(whole.data) + first;  // the cut is one run
          });
    reports.push_back(write_part(draft, static_cast<int>(reports.size()), slices));
  }
  return publish_checkpoint(draft, reports, {}, nlohmann::json::array(), {1, 0}, false).path;
}

}  // namespace

Exit bench_reshard(const BenchOptions& o, const Invocation& invocation, World& world) {
  if (!world.alone())
    throw Error(Exit::kUsage, "reshard: expected one process, found " + std::to_string(world.size()) + " ranks");
  const ScratchDirectory scratch(o.directory);
  std::string from;
  std::int64_t bytes = 0;
  {
    const SyntheticState state(o.file_bytes);
    bytes = state.bytes();
    from = save_on_four_ranks(state, scratch.path() + "/in");
  }
  const Manifest before = read_manifest(from);
  std::vector<std::string> files;
  for (const ManifestFile& f : before.files) files.push_back(from + "/" + f.name);
  std::vector<double> copies, reshards;
  bool same = true;
  for (int round = 0; round < kRounds; ++round) {
    const ScratchDirectory out(scratch.path());
    copies.push_back(raw_copy_seconds(files, out.path()));
    LayoutOptions layout{.input = from, .output = out.path() + "/run", .ep = 2, .shard = 2};
    layout.memory_bytes = std::int64_t{256} << 20;
    reshards.push_back(reshard_seconds(layout, o.common, invocation, world));
    same = same && read_manifest(layout.output + "/step-00000001").digest == before.digest;
  }
  const Timing cp = timing_of(copies), reshard = timing_of(reshards);
  const double gbytes = 1e-9 * static_cast<double>(bytes), percent = 100 * cp.median / reshard.median;
  std::FILE* const out = table_file(o);
  std::fprintf(out,
               "# reshard ep 4 -> shard 2 x ep 2 of %s in %zu files, median of %d (read, digests, write, sync, read back)\n",
               bytes_text(static_cast<double>(bytes)).c_str(), files.size(), kRounds);
  std::fprintf(out, "%-10s %10.3f s %8.2f GB/s\n", "cp", cp.median, gbytes / cp.median);
  if (same)
    std::fprintf(out, "%-10s %10.3f s %8.2f GB/s %7.1f %% of cp\n", "reshard", reshard.median, gbytes / reshard.median,
                 percent);
  else
    std::fprintf(out, "%-10s FAILED: the digest changed\n", "reshard");
  nlohmann::json result = bench_json("reshard");
  result.update({{"bytes", bytes}, {"passed", same}, {"copy_us", timing_json(cp)}});
  if (same) result["reshard_us"] = timing_json(reshard), result["percent_of_copy"] = percent;
  write_result_json(o.common.json, result);
  return same ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
