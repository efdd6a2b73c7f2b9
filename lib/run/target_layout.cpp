#include "lib/run/target_layout.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <set>
#include <tuple>

#include "lib/base/error.h"
#include "lib/model/mesh_context.h"
#include "lib/run/mesh_plan.h"
#include "lib/run/tensor_cut.h"

namespace moe {
namespace {

bool is_expert(const ManifestTensor& t) { return t.shape.size() == 3 && is_expert_name(t.name); }
// Roles that are cut over ranks; the others are on every rank, and the ranks write them in turn (slices_to_write).
bool is_cut(const ManifestTensor& t) {
  constexpr std::array kRoles = {"weight", "master", "m", "v", "ema"};
  return !t.shape.empty() && std::find(kRoles.begin(), kRoles.end(), t.role) != kRoles.end();
}

std::string files_text(std::size_t n) { return std::to_string(n) + (n == 1 ? " file" : " files"); }

std::string mesh_part(const MeshShape& mesh, const Placement& plan) {
  return ", mesh shard " + std::to_string(mesh.shard) + " x ep " + std::to_string(mesh.ep) +
         (plan.layers.empty() ? "" : ", " + plan_text(plan));
}

TensorSlice slice_of(const ManifestTensor& t, const Box& box) {
  return {t.name, t.role, t.dtype, t.shape, box.offset, box.extent, nullptr};
}

Box whole_box(const ManifestTensor& t) { return {std::vector<std::int64_t>(t.shape.size(), 0), t.shape}; }

int num_experts_of(const std::vector<ManifestTensor>& tensors) {
  std::int64_t n = 0;
  for (const ManifestTensor& t : tensors) {
    if (!is_expert(t)) continue;
    if (n != 0 && n != t.shape[0])
      throw Error(Exit::kBadInput, "tensor " + t.label() + ": expected " + std::to_string(n) + " experts, found " +
                                       std::to_string(t.shape[0]));
    n = t.shape[0];
  }
  return static_cast<int>(std::max<std::int64_t>(n, 1));
}

std::size_t num_files(const TargetLayout& layout) {
  return static_cast<std::size_t>(
      std::count_if(layout.parts.begin(), layout.parts.end(), [](const auto& part) { return !part.empty(); }));
}

// What one rank holds: the layout of its parameters, asked as the rank itself does (without memory).
std::vector<TensorSlice> slices_of_rank(const std::vector<ManifestTensor>& tensors, const std::vector<ParamSpec>& specs,
                                        const ParamLayout& layout) {
  Arena arena(0);
  const ParamStore store(arena, specs, DType::kF32, false, layout);
  std::vector<TensorSlice> slices;
  int num_whole = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!is_cut(tensors[i])) {
      if (num_whole++ % layout.dense.count == layout.dense.index)
        slices.push_back(slice_of(tensors[i], whole_box(tensors[i])));
      continue;
    }
    for (const ShardBox& b : shard_boxes(store, store.all()[i], false))
      if (elements_of(b.box.extent) > 0) slices.push_back(slice_of(tensors[i], b.box));
  }
  return slices;
}

std::size_t part_of_file(const ManifestFile& file, std::size_t position) {
  std::size_t part = 0;
  const char *begin = file.name.data() + 6, *end = file.name.data() + file.name.size();
  const bool numbered = file.name.starts_with("shard-") && file.name.ends_with(".h5") && file.name.size() <= 17;
  return numbered && std::from_chars(begin, end, part).ec == std::errc() ? part : position;
}

using SliceKey = std::tuple<std::size_t, std::string, std::string, std::vector<std::int64_t>, std::vector<std::int64_t>>;
std::vector<SliceKey> keys_of(const TargetLayout& layout) {
  std::vector<SliceKey> keys;
  for (std::size_t p = 0; p < layout.parts.size(); ++p)
    for (const TensorSlice& s : layout.parts[p]) keys.emplace_back(p, s.name, s.role, s.offset, s.extent);
  std::sort(keys.begin(), keys.end());
  return keys;
}

}  // namespace

TargetLayout mesh_layout(const std::vector<ManifestTensor>& tensors, const MeshShape& mesh, const Placement& plan) {
  const int num_experts = num_experts_of(tensors), num_parts = mesh.shard * mesh.ep;
  std::vector<ParamSpec> specs;  // of all tensors, so that indices agree
  for (const ManifestTensor& t : tensors)
    specs.push_back(
        {.name = t.name, .shape = t.shape.empty() ? std::vector<std::int64_t>{1} : t.shape, .is_expert = is_expert(t)});
  TargetLayout layout{.mesh = mesh, .plan = plan};
  for (int part = 0; part < num_parts; ++part) {
    const ParamLayout rank =
        layout_of({.shape = {1, mesh.shard, mesh.ep}, .plan = plan}, {0, part / mesh.ep, part % mesh.ep}, num_experts);
    layout.parts.push_back(slices_of_rank(tensors, specs, rank));
  }
  layout.text = files_text(num_files(layout)) + mesh_part(mesh, plan);
  return layout;
}

bool is_plan_of(const Placement& plan, const std::vector<ManifestTensor>& tensors) {
  std::set<int> layers;
  for (const ManifestTensor& t : tensors)
    if (is_expert(t)) layers.insert(ParamSpec{.name = t.name}.layer());
  return std::vector<int>(layers.begin(), layers.end()) == plan.layers && plan.num_experts == num_experts_of(tensors);
}

TargetLayout even_layout(const std::vector<ManifestTensor>& tensors, int num_files) {
  const auto bytes_of = [](const ManifestTensor& t) {
    return elements_of(t.shape) * static_cast<std::int64_t>(size_of(t.dtype));
  };
  std::int64_t all = 0;
  for (const ManifestTensor& t : tensors) all += bytes_of(t);
  TargetLayout layout;
  layout.parts.resize(static_cast<std::size_t>(num_files));
  std::int64_t before = 0;  // bytes of the tensors before
  for (const ManifestTensor& t : tensors) {
    const std::int64_t rows = num_rows(t.shape, is_expert(t)), row_bytes = std::max<std::int64_t>(bytes_of(t) / rows, 1);
    std::int64_t row = 0;
    for (std::int64_t part = 0; part < num_files; ++part) {
      const auto cut = static_cast<std::int64_t>(static_cast<__int128>(all) * (part + 1) / num_files);
      const std::int64_t end =
          part + 1 == num_files ? rows : std::clamp<std::int64_t>((cut - before + row_bytes / 2) / row_bytes, row, rows);
      for (const ShardBox& b : row_boxes(t.shape, is_expert(t), row, end))
        layout.parts[static_cast<std::size_t>(part)].push_back(slice_of(t, b.box));
      row = end;
    }
    before += bytes_of(t);
  }
  layout.text = files_text(moe::num_files(layout)) + " of even size";
  return layout;
}

TargetLayout same_layout(const Manifest& source) {
  TargetLayout layout;
  std::vector<std::size_t> parts;
  for (std::size_t f = 0; f < source.files.size(); ++f) parts.push_back(part_of_file(source.files[f], f));
  const std::size_t most = parts.empty() ? 0 : *std::max_element(parts.begin(), parts.end());
  if (most > 16 * parts.size() + 65536)  // names that others gave
    for (std::size_t f = 0; f < parts.size(); ++f) parts[f] = f;
  layout.parts.resize(parts.empty() ? 1 : *std::max_element(parts.begin(), parts.end()) + 1);
  for (const ManifestTensor& t : source.tensors)
    for (const ManifestSlice& s : t.slices) layout.parts[parts[s.file]].push_back(slice_of(t, s.box));
  layout.text = layout_text(source);
  return layout;
}

std::optional<MeshShape> mesh_of(const Manifest& source) try {
  TargetLayout there;
  std::vector<std::size_t> parts;
  std::size_t num_parts = 1;
  for (std::size_t f = 0; f < source.files.size(); ++f) {
    parts.push_back(part_of_file(source.files[f], f));
    num_parts = std::max(num_parts, parts[f] + 1);
  }
  if (num_parts > 65536) return std::nullopt;
  there.parts.resize(num_parts);
  for (const ManifestTensor& t : source.tensors)
    for (const ManifestSlice& s : t.slices) there.parts[parts[s.file]].push_back(slice_of(t, s.box));
  const auto keys = keys_of(there);
  Placement plan = plan_of_state(source.state);
  if (!is_plan_of(plan, source.tensors)) plan = {};  // of other experts: nobody can have written the files by it
  const int n = static_cast<int>(num_parts), num_experts = num_experts_of(source.tensors);
  for (int ep = n; ep >= 1; --ep) {
    if (n % ep != 0 || (ep > num_experts && ep > 1)) continue;
    const MeshShape mesh{1, n / ep, ep};
    if (keys_of(mesh_layout(source.tensors, mesh, plan.num_ranks() == ep ? plan : Placement{})) == keys) return mesh;
  }
  return std::nullopt;
} catch (const Error&) {
  return std::nullopt;  // tensors that are not of one model
}

std::string layout_text(const Manifest& source) {
  const auto mesh = mesh_of(source);
  const std::string files = files_text(source.files.size());
  if (!mesh) return files;
  const Placement plan = plan_of_state(source.state);
  return files + mesh_part(*mesh, plan.num_ranks() == mesh->ep ? plan : Placement{});
}

}  // namespace moe
