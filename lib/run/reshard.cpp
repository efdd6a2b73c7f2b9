#include "lib/run/reshard.h"

#include <algorithm>
#include <map>

#include "lib/base/byte_size.h"
#include "lib/comm/world.h"

namespace moe {
namespace {

void add_layout_options(Options& o, ReshardOptions& r) {
  o.group("Layout of the output");
  o.add("ep", r.layout.ep, "expert-parallel ranks that it is cut for; 0 as in the input");
  o.add("shard", r.layout.shard, "ranks that share the tensors of an expert-parallel rank; 0 as in the input");
  o.add("replicate", r.layout.replicate, "replicas of the mesh; they hold the same and add no file");
  o.add("plan", r.layout.plan,
        "where experts live: a plan file of moe-place; none: in linear order; left out: as in the input, on as many ranks")
      .value = "FILE|none";
  o.add("files", r.layout.files, "so many files of even size instead; 0 makes one per rank of the mesh");
  o.add("memory", r.memory, "most that buffers may take, as 512M or 2G").value = "SIZE";
}

void add_content_options(Options& o, ReshardOptions& r) {
  o.group("Content of the output");
  o.add("weights-only", r.layout.weights_only, "weights and router biases alone");
  o.add("drop-optimizer", r.layout.drop_optimizer, "leave out the moments of the optimizer");
  o.add("drop-mtp", r.layout.drop_mtp, "leave out the modules of multi-token prediction");
  o.add("weights", r.layout.weights,
        "ema: the moving average (moe-train --ema) becomes the weights, and of export what is written; moments, which are "
        "not "
        "of these weights, are left out")
      .value = "model|ema";
  o.add("dtype", r.layout.dtype, "of the weights: keep, fp32 or bf16").value = "keep|fp32|bf16";
  o.add("average", r.layout.average,
        "write the mean of all paths; the state is that of the first one before or behind this value")
      .value = "PATH";
  o.add("upcycle", r.layout.upcycle, "make so many experts of each dense feed-forward layer; 0 makes none");
  o.add("experts", r.layout.experts, "keep these experts only, as 0-31 or 0,2,5-7").value = "LIST";
}

void add_verify_options(Options& o, ReshardOptions& r) {
  o.group("Verify");
  o.add("all", r.verify.all, "every checkpoint of a run directory, not only the one that `latest` names");
  o.add("deep", r.verify.deep, "also compute the digest of every tensor from its elements; takes several times as long");
  o.add("sandbox", r.verify.sandbox, "read in a child process with limits: a crash of the reader is bad input (65)");
}

void add_export_options(Options& o, ReshardOptions& r) {
  o.group("Import and export");
  o.add("experts-on-disk", r.hf.layout, "a tensor for each expert and matrix, or one for all experts",
        {"per-expert", "fused"});
  o.add("file-bytes", r.hf.file_bytes, "most bytes of one safetensors file");
  o.add("ignore-key", r.hf.ignore_keys, "import: pass over this key of config.json, whatever it asks for").value = "KEY";
}

using Paths = std::vector<std::string>;

void need_paths(const std::string& command, const Paths& paths, std::size_t least, std::size_t most) {
  if (paths.size() >= least && paths.size() <= most) return;
  const std::string expected = least == most ? std::to_string(least) : "at least " + std::to_string(least);
  throw Error(Exit::kUsage, command + ": expected " + expected + (least == 1 ? " path" : " paths") + ", found " +
                                std::to_string(paths.size()));
}

// The commands that only look, by name; each on rank 0 of a job.
using Look = Exit (*)(const Paths&, const ReshardOptions&);
const std::map<std::string, Look>& looks() {
  static const std::map<std::string, Look> all = {
      {"ls", [](const Paths& p, const ReshardOptions& r) { return list_checkpoints(p, r.common); }},
      {"show", [](const Paths& p, const ReshardOptions& r) { return show_checkpoint(p, r.common); }},
      {"verify", [](const Paths& p, const ReshardOptions& r) { return verify_checkpoints(p, r.common, r.verify); }},
      {"diff",
       [](const Paths& p, const ReshardOptions& r) {
         need_paths("diff", p, 2, 2);
         return diff_checkpoints(p, r.common, r.layout.memory_bytes);
       }},
      {"digest", [](const Paths& p, const ReshardOptions& r) { return digest_checkpoints(p, r.common); }},
  };
  return all;
}

Exit convert(ReshardOptions& r, const std::string& command, const Paths& paths, const Invocation& invocation) {
  need_paths(command, paths, 1, 1);
  r.hf.input = paths[0];
  r.hf.output = r.layout.output;
  r.hf.memory_bytes = r.layout.memory_bytes;
  r.hf.dtype = r.layout.dtype;
  r.hf.weights = r.layout.weights;
  r.hf.drop_mtp = r.layout.drop_mtp;
  return command == "import" ? import_hf(r.hf, r.common, invocation) : export_hf(r.hf, r.common, invocation);
}

// Several words that begin with no command.
[[noreturn]] void refuse_words(const std::string& first, std::size_t count) {
  Paths commands = {"import", "export"};
  for (const auto& [name, unused] : looks()) commands.push_back(name);
  const std::string near = nearest_name(first, commands);
  throw Error(
      Exit::kUsage,
      "expected one checkpoint, or a command and its paths, found " + std::to_string(count) + " words from '" + first + "'",
      near.empty() ? "see --help" : "did you mean " + near + "?");
}

}  // namespace

Options reshard_options(ReshardOptions& r) {
  Options o("moe-reshard", "put a checkpoint into any layout, look into it, prove that it is whole, import and export it",
            {
                "moe-reshard run -o run8 --ep 4 --shard 2",
                "moe-reshard show run",
                "moe-reshard verify run",
                "moe-reshard diff run run8",
                "moe-reshard export run -o hf-directory",
                "moe-reshard import hf-directory -o imported",
            });
  o.group("Checkpoints");
  o.add("command", r.arguments,
        "IN, or ls PATH..., show PATH, verify PATH..., diff A B, digest PATH..., import DIR, export PATH")
      .positional = true;
  o.add("output", r.layout.output, "run directory to write; of export: a new directory").value = "DIR";
  add_layout_options(o, r);
  add_content_options(o, r);
  add_verify_options(o, r);
  add_export_options(o, r);
  add_common_options(o, r.common);
  return o;
}

Exit run_reshard(ReshardOptions& r, const Invocation& invocation, World& world) {
  r.layout.memory_bytes = parse_byte_size(r.memory, "--memory");
  const Paths& words = r.arguments;
  Paths& averaged = r.layout.average;
  if (words.empty() && averaged.empty())
    throw Error(Exit::kUsage, "expected a checkpoint or a command, found none", "see --help");
  const std::string first = words.empty() ? "" : words[0];
  const Paths rest(words.begin() + (words.empty() ? 0 : 1), words.end());
  const auto look = looks().find(first);
  if (look != looks().end() || first == "import" || first == "export") {
    Exit code = Exit::kOk;
    if (world.rank() == 0)
      code = look == looks().end() ? convert(r, first, rest, invocation)
                                   : (need_paths(first, rest, 1, rest.size() + 1), look->second(rest, r));
    return code;
  }
  if (averaged.empty() && words.size() != 1) refuse_words(first, words.size());
  averaged.insert(averaged.begin(), words.begin(), words.end());  // A --average B C and --average A B C alike
  r.layout.input = averaged.empty() ? first : averaged[0];
  averaged.erase(averaged.begin());
  return reshard_layout(r.layout, r.common, invocation, world);
}

}  // namespace moe
