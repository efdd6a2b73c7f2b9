#include "lib/run/reshard_layout.h"

#include <algorithm>
#include <climits>
#include <cstdio>
#include <map>

#include "lib/base/byte_size.h"
#include "lib/base/provenance.h"
#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/comm/world.h"
#include "lib/io/checkpoint_part.h"
#include "lib/io/checkpoint_stream.h"
#include "lib/io/plan_file.h"
#include "lib/io/run_dir.h"
#include "lib/io/verify.h"
#include "lib/run/mesh_plan.h"
#include "lib/run/reshard_copy.h"
#include "lib/run/result.h"
#include "lib/run/target_layout.h"

namespace moe {
namespace {

void check_options(const LayoutOptions& o) {
  const auto need = [](bool ok, const std::string& name, const std::string& expected, const std::string& found) {
    if (!ok) throw Error(Exit::kUsage, "--" + name + ": expected " + expected + ", found " + found);
  };
  need(!o.output.empty(), "output", "a run directory", "none");
  need(o.ep >= 0, "ep", "at least 1, or 0 for that of the input", std::to_string(o.ep));
  need(o.shard >= 0, "shard", "at least 1, or 0 for that of the input", std::to_string(o.shard));
  need(o.replicate >= 1, "replicate", "at least 1", std::to_string(o.replicate));
  need(o.files >= 0 && o.files <= 99999, "files", "1 to 99999, or 0 for one of each rank", std::to_string(o.files));
  need(o.files == 0 || (o.ep == 0 && o.shard == 0), "files", "no --ep or --shard beside it", std::to_string(o.files));
}

// What was there stays: neither an input nor a directory that holds one is written to.
void check_output(const LayoutOptions& o, const std::vector<ReshardInput>& inputs, bool force) {
  std::vector<std::string> given = {o.input};
  given.insert(given.end(), o.average.begin(), o.average.end());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const bool around = real_path(parent_directory(real_path(inputs[i].path))) == real_path(o.output);
    if (is_inside(o.output, given[i]) || is_inside(o.output, inputs[i].path) || around)
      throw Error(Exit::kCannotCreate, "--output " + o.output + ": expected another directory than the input " + given[i],
                  "the input stays as it is; write beside it");
  }
  if (!path_exists(o.output) || force || (is_directory(o.output) && list_directory(o.output).empty())) return;
  throw Error(Exit::kCannotCreate, o.output + ": expected no such directory, found one", "--force writes into it");
}

std::vector<ReshardInput> open_inputs(const LayoutOptions& o) {
  std::vector<std::string> paths = {o.input};
  paths.insert(paths.end(), o.average.begin(), o.average.end());
  std::vector<ReshardInput> inputs;
  for (const std::string& path : paths) {
    const std::string found = open_checkpoint(path).path;
    inputs.push_back({found, read_manifest(found)});
  }
  return inputs;
}

// The plan that the output is cut for: the one that is asked for, or the input's as long as it fits.
Placement plan_of(const LayoutOptions& o, const ReshardContent& content, const std::vector<ManifestTensor>& targets) {
  if (o.plan == "none") return {};
  if (o.plan.empty()) {
    const Placement before = plan_of_state(content.state);
    return is_plan_of(before, targets) && (o.ep == 0 || o.ep == before.num_ranks()) ? before : Placement{};
  }
  if (o.files > 0) throw Error(Exit::kUsage, "--files: expected 0 with --plan, found " + std::to_string(o.files));
  const Placement plan = read_plan_file(o.plan).placement;
  if (!is_plan_of(plan, targets))
    throw Error(Exit::kBadInput,
                o.plan + ": expected a plan for the MoE layers and experts of the checkpoint, found " + plan_text(plan) +
                    " for " + std::to_string(plan.num_experts) + " experts",
                "moe-reshard show tells what the checkpoint holds, moe-place show what the plan is for");
  if (o.ep > 0) need_ranks_of_plan(plan, o.plan, {.ep = o.ep});
  return plan;
}

TargetLayout target_of(const LayoutOptions& o, const Manifest& input, const ReshardContent& content) {
  const std::vector<ManifestTensor> targets = content.targets();
  const Placement plan = plan_of(o, content, targets);
  if (o.files > 0) return even_layout(targets, o.files);
  const std::optional<MeshShape> before = mesh_of(input);
  if (o.ep == 0 && o.shard == 0 && o.plan.empty() && !before) {
    const bool all = std::all_of(content.tensors.begin(), content.tensors.end(), [](const auto& t) { return t.untouched; });
    if (all && targets.size() == input.tensors.size()) return same_layout(input);
    return even_layout(targets, static_cast<int>(std::max<std::size_t>(input.files.size(), 1)));
  }
  const MeshShape was = before.value_or(MeshShape{});
  const int ep = o.ep > 0 ? o.ep : plan.layers.empty() ? was.ep : plan.num_ranks();
  return mesh_layout(targets, {1, o.shard > 0 ? o.shard : was.shard, ep}, plan.num_ranks() == ep ? plan : Placement{});
}

// One call of moe-reshard IN -o OUT, on one rank of a job.
class Resharding {
 public:
  Resharding(const LayoutOptions& o, const CommonOptions& common, const Invocation& invocation, World& world)
      : o_(o), common_(common), invocation_(invocation), world_(world), is_first_(world.rank() == 0) {
    check_options(o);
    world.agree([&] {
      inputs_ = open_inputs(o);
      if (is_first_) check_output(o, inputs_, common.force);
      content_ = make_content(o, manifests());
      target_ = target_of(o, inputs_[0].manifest, content_);
    });
    if (!world.alone()) world.require_same({"checkpoint=" + inputs_[0].manifest.digest + " " + inputs_[0].manifest.nonce});
  }

  Exit run() {
    if (!common_.dry_run) write();
    if (is_first_) print_result(common_, json(), table());
    return Exit::kOk;
  }

  void write() {
    const Stopwatch clock;
    std::string text;
    const int num_parts = static_cast<int>(target_.parts.size());
    const bool was_there = path_exists(o_.output);
    world_.agree([&] {
      if (is_first_) text = begin_checkpoint(o_.output, inputs_[0].manifest.step, num_parts, bytes()).text();
    });
    const CheckpointDraft draft = CheckpointDraft::parse(gather(text)[0]);
    try {
      world_.agree([&] { text = write_parts(draft); });
      publish(draft, gather(text));
    } catch (...) {
      if (is_first_) {
        abandon_checkpoint(draft);
        if (!was_there && list_directory(o_.output).empty()) remove_tree(o_.output);
      }
      throw;
    }
    seconds_ = clock.seconds();
  }

 private:
  std::vector<Manifest> manifests() const {
    std::vector<Manifest> list;
    for (const ReshardInput& i : inputs_) list.push_back(i.manifest);
    return list;
  }

  std::int64_t bytes() const {
    std::int64_t sum = 0;
    for (const ContentTensor& t : content_.tensors)
      sum += elements_of(t.target.shape) * static_cast<std::int64_t>(size_of(t.target.dtype));
    return sum;
  }

  int threads() const { return common_.threads > 0 ? common_.threads : world_.default_threads(); }

  std::vector<std::string> gather(const std::string& mine) {
    std::vector<std::string> all;
    world_.lane().call("reshard", [&] { all = all_gather(world_.comm(), "reshard", mine); });
    return all;
  }

  // The parts of this rank; their reports as a list.
  std::string write_parts(const CheckpointDraft& draft) {
    std::vector<int> mine;
    std::vector<const std::vector<TensorSlice>*> parts;
    for (int p = world_.rank(); p < draft.num_parts; p += world_.size()) {
      mine.push_back(p);
      parts.push_back(&target_.parts[static_cast<std::size_t>(p)]);
    }
    const ReshardCopier copier(content_, inputs_, parts);
    // Tensors that are changed cannot be judged by the output: what is read of them is verified first.
    for (std::size_t i = 0; i < inputs_.size(); ++i)
      copier.readers()[i].verify(changed_tensors(i), world_.rank(), world_.size(), threads(), o_.memory_bytes);
    CheckpointStream stream(draft, {threads(), o_.memory_bytes / (1 + copier.extra_bytes_per_byte())});
    for (std::size_t i = 0; i < mine.size(); ++i)
      stream.write_part(
          mine[i], *parts[i],
          [&, i](std::size_t slice, std::int64_t first, std::int64_t count, std::span<std::byte> buffer, std::size_t) {
            copier.give(i, slice, first, count, buffer);
            return std::span<const std::byte>(buffer);
          });
    return nlohmann::json(stream.finish()).dump();
  }

  // Tensors of an input that reach the output otherwise than as they are.
  std::vector<bool> changed_tensors(std::size_t input) const {
    std::map<std::pair<std::string, std::string>, bool> changed;
    for (const ContentTensor& t : content_.tensors)
      if (!t.untouched) changed[{t.from_name, t.from_role}] = true;
    std::vector<bool> list;
    for (const ManifestTensor& t : inputs_[input].manifest.tensors) list.push_back(changed.contains({t.name, t.role}));
    return list;
  }

  void publish(const CheckpointDraft& draft, const std::vector<std::string>& texts) {
    std::vector<std::string> reports;
    for (const std::string& text : texts)
      for (const auto& report : nlohmann::json::parse(text)) reports.push_back(report.get<std::string>());
    world_.agree([&] {
      if (!is_first_) return;
      check_digests(draft, reports);
      std::vector<std::pair<std::string, std::string>> read;
      for (const ReshardInput& i : inputs_) read.emplace_back(i.path, i.manifest.digest);
      const auto chain = provenance_chain(invocation_, inputs_[0].manifest.provenance, read);
      saved_ = publish_checkpoint(draft, reports, state(), chain, {INT_MAX, 0}, common_.force);
      if (const std::string digest = open_checkpoint(saved_.path).digest; digest != saved_.digest)
        throw Error(Exit::kIo, saved_.path + ": expected digest " + saved_.digest + ", found " + digest);
    });
  }

  // The mesh that it was cut for is the one that a resumption on as many ranks takes (train_options.cpp).
  nlohmann::json state() const {
    nlohmann::json state = content_.state;
    const bool asked = o_.ep > 0 || o_.shard > 0 || !o_.plan.empty();
    if (!state.contains("layout") || !state["layout"].is_object()) return state;
    nlohmann::json& layout = state["layout"];
    if (asked && target_.mesh)
      layout.update({{"replicate", o_.replicate}, {"shard", target_.mesh->shard}, {"ep", target_.mesh->ep}});
    if (!target_.plan.layers.empty())
      layout["plan"] = plan_json(target_.plan);
    else if (asked || !content_keeps_plan())
      layout.erase("plan");
    return state;
  }

  // Files of even size or as they were say nothing about ranks: a plan of these experts stays.
  bool content_keeps_plan() const { return is_plan_of(plan_of_state(content_.state), content_.targets()); }

  // Tensors that only moved have the digest that they had; before anything is published.
  void check_digests(const CheckpointDraft& draft, const std::vector<std::string>& reports) {
    std::vector<CheckpointPart> parts;
    for (const std::string& text : reports) parts.push_back(parse_part(text));
    const Manifest written = join_parts(draft, parts);
    std::map<std::string, std::string> before;
    for (const ManifestTensor& t : inputs_[0].manifest.tensors) before[t.identity()] = t.digest;
    for (std::size_t i = 0; i < written.tensors.size(); ++i) {
      const ManifestTensor& t = written.tensors[i];
      if (!content_.tensors.at(i).untouched) continue;
      ++num_kept_;
      if (const std::string& want = before[t.identity()]; want != t.digest) {
        verify_slices(inputs_[0].manifest, inputs_[0].path);  // names the slice that is damaged
        throw Error(Exit::kBadInput,
                    inputs_[0].path + ": tensor " + t.label() + ": expected digest " + want + ", found " + t.digest,
                    "the checkpoint is damaged: use another one");
      }
    }
  }

  bool unchanged() const {
    return content_.tensors.size() == inputs_[0].manifest.tensors.size() &&
           std::all_of(content_.tensors.begin(), content_.tensors.end(), [](const auto& t) { return t.untouched; });
  }

  nlohmann::json json() const {
    nlohmann::json files = nlohmann::json::array();
    for (std::size_t p = 0; p < target_.parts.size(); ++p) {
      std::int64_t n = 0;
      for (const TensorSlice& s : target_.parts[p]) n += static_cast<std::int64_t>(bytes_of(s));
      files.push_back({{"part", p}, {"slices", target_.parts[p].size()}, {"bytes", n}});
    }
    nlohmann::json result = {{"input", inputs_[0].path},
                             {"output", o_.output},
                             {"step", inputs_[0].manifest.step},
                             {"old_layout", layout_text(inputs_[0].manifest)},
                             {"new_layout", target_.text},
                             {"changes", content_.changes},
                             {"tensors", content_.tensors.size()},
                             {"bytes", bytes()},
                             {"parts", files},
                             {"digest_before", inputs_[0].manifest.digest}};
    if (common_.dry_run) return result;
    result["path"] = saved_.path;
    result["digest_after"] = saved_.digest;
    result["unchanged_tensors"] = num_kept_;
    result["same_digest"] = saved_.digest == inputs_[0].manifest.digest;
    result["seconds"] = seconds_;
    result["gbytes_per_s"] = 1e-9 * static_cast<double>(bytes()) / seconds_;
    return result;
  }

  std::string table() const {
    const std::string to =
        common_.dry_run ? o_.output + "/" + step_name(inputs_[0].manifest.step) + " (not written)" : saved_.path;
    std::string text = inputs_[0].path + " -> " + to + "\n";
    const auto row = [&](const char* name, const std::string& value) { text += "  " + std::string(name) + value + "\n"; };
    row("layout   ", layout_text(inputs_[0].manifest) + " -> " + target_.text);
    for (const std::string& change : content_.changes) row("content  ", change);
    row("tensors  ", std::to_string(content_.tensors.size()) + ", " + bytes_text(static_cast<double>(bytes())));
    if (common_.dry_run) return text;
    char rate[80];
    std::snprintf(rate, sizeof rate, "%.2f s, %.2f GB/s", seconds_, 1e-9 * static_cast<double>(bytes()) / seconds_);
    row("time     ", rate);
    row("before   ", inputs_[0].manifest.digest);
    row("after    ", saved_.digest + (unchanged() ? ", the same"
                                                  : ", " + std::to_string(num_kept_) + " of " +
                                                        std::to_string(content_.tensors.size()) + " tensors as they were"));
    return text;
  }

  const LayoutOptions& o_;
  const CommonOptions& common_;
  const Invocation& invocation_;
  World& world_;
  bool is_first_;
  std::vector<ReshardInput> inputs_;
  ReshardContent content_;
  TargetLayout target_;
  SavedCheckpoint saved_;
  std::size_t num_kept_ = 0;
  double seconds_ = 0;
};

}  // namespace

double reshard_seconds(const LayoutOptions& layout, const CommonOptions& common, const Invocation& invocation,
                       World& world) {
  const Stopwatch clock;
  Resharding(layout, common, invocation, world).write();
  return clock.seconds();
}

Exit reshard_layout(const LayoutOptions& layout, const CommonOptions& common, const Invocation& invocation, World& world) {
  return Resharding(layout, common, invocation, world).run();
}

}  // namespace moe
