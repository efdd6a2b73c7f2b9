#include "lib/io/checkpoint_part.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "lib/base/error.h"
#include "lib/io/finite.h"
#include "lib/io/reshard_plan.h"

namespace moe {
namespace {

using nlohmann::json;
using Key = std::pair<std::string, std::string>;

[[noreturn]] void refuse(const std::string& what) { throw Error(Exit::kInternal, what); }
[[noreturn]] void refuse(const ManifestTensor& t, const std::string& what) { refuse("tensor " + t.label() + ": " + what); }

std::span<const std::byte> memory_of(const TensorSlice& s) { return {static_cast<const std::byte*>(s.data), bytes_of(s)}; }

std::string dataset_name(const TensorSlice& s) {
  const bool whole = s.extent == s.shape;
  return s.role + ":" + s.name + (whole ? "" : "@" + joined(s.offset));
}

// Index [i, j, k] of the at-th element of a box.
std::vector<std::int64_t> index_in(const Box& box, std::int64_t at) {
  std::vector<std::int64_t> index = box.offset;
  for (std::size_t d = index.size(); d-- > 0; at /= box.extent[d]) index[d] += at % box.extent[d];
  return index;
}

void check_box(const ManifestTensor& t, const TensorSlice& s) {
  if (s.shape != t.shape || s.dtype != t.dtype) refuse(t, "its slices disagree about shape or dtype");
  bool inside = s.offset.size() == s.shape.size() && s.extent.size() == s.shape.size();
  for (std::size_t d = 0; inside && d < s.shape.size(); ++d)
    inside = s.offset[d] >= 0 && s.extent[d] >= 0 && s.extent[d] <= s.shape[d] && s.offset[d] <= s.shape[d] - s.extent[d];
  if (!inside) refuse(t, "a slice lies outside of its shape [" + joined(s.shape) + "]");
}

Digest digest_of_hex(const std::string& hex) {
  Digest d;
  const char* const text = hex.data();
  const bool good = hex.size() == 32 && std::from_chars(text, text + 16, d.high, 16).ptr == text + 16 &&
                    std::from_chars(text + 16, text + 32, d.low, 16).ptr == text + 32;
  if (!good) refuse("report of a checkpoint: expected a digest, found '" + hex + "'");
  return d;
}

// += what one part holds of a tensor.
void join_tensor(const ManifestTensor& part, std::size_t file, ManifestTensor& whole) {
  if (part.shape != whole.shape || part.dtype != whole.dtype)
    refuse(part, std::string("expected in all parts ") + name_of(whole.dtype) + " [" + joined(whole.shape) + "], found " +
                     name_of(part.dtype) + " [" + joined(part.shape) + "]");
  for (ManifestSlice s : part.slices) {
    s.file = file;
    whole.slices.push_back(std::move(s));
  }
}

void check_parts(const CheckpointDraft& draft, const std::vector<CheckpointPart>& parts) {
  std::set<int> seen;
  for (const CheckpointPart& p : parts) {
    const std::string label = "checkpoint " + draft.directory + ": part " + std::to_string(p.index);
    if (p.nonce != draft.nonce) refuse(label + ": expected one of save " + draft.nonce + ", found one of save " + p.nonce);
    if (p.index < 0 || p.index >= draft.num_parts)
      refuse(label + ": expected parts 0 to " + std::to_string(draft.num_parts - 1));
    if (!seen.insert(p.index).second) refuse(label + " is there twice");
  }
  for (int i = 0; i < draft.num_parts; ++i)
    if (!seen.contains(i)) refuse("checkpoint " + draft.directory + ": part " + std::to_string(i) + " is missing");
}

}  // namespace

std::size_t bytes_of(const TensorSlice& s) { return static_cast<std::size_t>(elements_of(s.extent)) * size_of(s.dtype); }

std::vector<ManifestTensor> arrange_slices(const std::vector<TensorSlice>& slices, std::vector<PlacedSlice>& placed) {
  std::map<Key, std::vector<const TensorSlice*>> by_name;
  for (const TensorSlice& s : slices) by_name[{s.name, s.role}].push_back(&s);
  std::vector<ManifestTensor> tensors;
  for (const auto& [key, boxes] : by_name) {
    ManifestTensor t{key.first, key.second, boxes[0]->dtype, boxes[0]->shape, Digest{}.hex(), {}};
    std::set<std::string> datasets;
    for (const TensorSlice* s : boxes) {
      check_box(t, *s);
      if (elements_of(s->extent) == 0) continue;
      const std::string dataset = dataset_name(*s);
      if (!datasets.insert(dataset).second) refuse(t, "its slices overlap");
      placed.push_back({s, dataset, tensors.size(), t.slices.size()});
      t.slices.push_back({0, dataset, {s->offset, s->extent}, ""});
    }
    tensors.push_back(std::move(t));
  }
  return tensors;
}

SliceDigest::SliceDigest(const ManifestTensor& tensor, const TensorSlice& slice)
    : slice_(slice),
      box_{slice.offset, slice.extent},
      whole_{std::vector<std::int64_t>(slice.shape.size(), 0), slice.shape},
      sum_(tensor.identity()) {}

template <class Bits>
void SliceDigest::add_bits(std::span<const Bits> bits) {
  if (const std::int64_t bad = first_not_finite(bits); bad >= 0)
    throw Error(Exit::kNumeric,
                "tensor " + slice_.name + " (" + slice_.role + "), element [" + joined(index_in(box_, at_ + bad)) +
                    "]: parameters are not finite",
                "the checkpoint before stays the newest");
  const std::int64_t end = at_ + static_cast<std::int64_t>(bits.size());
  for_each_common_run(box_, whole_, box_, at_, end, [&](std::int64_t global, std::int64_t local, std::int64_t count) {
    sum_.add(static_cast<std::uint64_t>(global),
             bits.subspan(static_cast<std::size_t>(local - at_), static_cast<std::size_t>(count)));
  });
  at_ = end;
}

void SliceDigest::add(std::span<const std::byte> elements) {
  bytes_.update(elements);
  const std::size_t count = elements.size() / size_of(slice_.dtype);
  if (slice_.dtype == DType::kF32)
    add_bits(std::span(reinterpret_cast<const std::uint32_t*>(elements.data()), count));
  else
    add_bits(std::span(reinterpret_cast<const std::uint16_t*>(elements.data()), count));
}

std::vector<ManifestTensor> describe_slices(const std::vector<TensorSlice>& slices) {
  std::vector<PlacedSlice> placed;
  std::vector<ManifestTensor> tensors = arrange_slices(slices, placed);
  std::vector<ElementSum> sums;
  for (const ManifestTensor& t : tensors) sums.emplace_back(t.identity());
  for (const PlacedSlice& p : placed) {
    ManifestTensor& t = tensors[p.tensor];
    SliceDigest digest(t, *p.slice);
    digest.add(memory_of(*p.slice));
    sums[p.tensor].add(digest.elements());
    t.slices[p.entry].digest = digest.bytes();
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].digest = sums[i].value().hex();
  return tensors;
}

std::string part_text(const CheckpointPart& part) {
  json files = json::array(), tensors = json::array();
  for (const ManifestFile& f : part.files) files.push_back({{"name", f.name}, {"bytes", f.bytes}, {"digest", f.digest}});
  for (const ManifestTensor& t : part.tensors) tensors.push_back(tensor_json(t));
  return json{{"part", part.index}, {"nonce", part.nonce}, {"files", files}, {"tensors", tensors}}.dump();
}

CheckpointPart parse_part(const std::string& text) try {
  const json j = json::parse(text);
  CheckpointPart part{j.at("part"), j.at("nonce"), {}, {}};
  for (const json& f : j.at("files")) part.files.push_back({f.at("name"), f.at("bytes"), f.at("digest")});
  for (const json& t : j.at("tensors")) part.tensors.push_back(parse_tensor(t, part.files.size(), "report of a checkpoint"));
  return part;
} catch (const json::exception& e) {
  refuse(std::string("report of a checkpoint: ") + e.what());
} catch (const Error& e) {
  refuse(e.what());
}

Manifest join_parts(const CheckpointDraft& draft, const std::vector<CheckpointPart>& parts) {
  check_parts(draft, parts);
  Manifest m{.step = draft.step, .nonce = draft.nonce};
  std::map<Key, std::pair<ManifestTensor, ElementSum>> whole;
  for (const CheckpointPart& part : parts) {
    for (const ManifestTensor& t : part.tensors) {
      const ManifestTensor empty{t.name, t.role, t.dtype, t.shape, "", {}};
      auto& [tensor, sum] = whole.try_emplace({t.name, t.role}, empty, ElementSum(t.identity())).first->second;
      join_tensor(t, m.files.size(), tensor);
      sum.add(digest_of_hex(t.digest));
    }
    m.files.insert(m.files.end(), part.files.begin(), part.files.end());
  }
  for (auto& [key, entry] : whole) {
    auto& [tensor, sum] = entry;
    if (const std::string fault = tensor.coverage_fault(); !fault.empty()) refuse(tensor, fault);
    tensor.digest = sum.value().hex();
    m.tensors.push_back(std::move(tensor));
  }
  m.digest = m.digest_of_tensors();
  return m;
}

}  // namespace moe
