#include "lib/run/reshard_copy.h"

#include <algorithm>
#include <map>

#include "lib/base/error.h"
#include "lib/base/rng.h"
#include "lib/base/threads.h"
#include "lib/io/verify.h"

namespace moe {
namespace {

using Key = std::pair<std::string, std::string>;
constexpr std::size_t kMostOpenFiles = 64;

std::map<Key, std::size_t> index_of(const Manifest& m) {
  std::map<Key, std::size_t> index;
  for (std::size_t i = 0; i < m.tensors.size(); ++i) index[{m.tensors[i].name, m.tensors[i].role}] = i;
  return index;
}

// Boxes of the source tensor that make up a box of the target, in its order.
std::vector<Box> pieces_of(const ContentTensor& t, const std::vector<int>& experts, const Box& box) {
  if (t.rows == RowsFrom::kSame) return {box};
  std::vector<Box> pieces;
  for (std::int64_t i = box.offset[0]; i < box.offset[0] + box.extent[0]; ++i) {
    Box piece = box;
    if (t.rows == RowsFrom::kRepeat) {
      piece.offset.erase(piece.offset.begin());
      piece.extent.erase(piece.extent.begin());
    } else {
      piece.offset[0] = experts[static_cast<std::size_t>(i)];
      piece.extent[0] = 1;
    }
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

// The first or the last element of a box alone.
Box corner(Box box, bool last) {
  for (std::size_t d = 0; d < box.offset.size(); ++d) {
    if (last) box.offset[d] += box.extent[d] - 1;
    box.extent[d] = 1;
  }
  return box;
}

float value_at(const std::byte* data, DType dtype, std::int64_t i) {
  if (dtype == DType::kBF16) return to_float(reinterpret_cast<const BF16*>(data)[i]);
  return reinterpret_cast<const float*>(data)[i];
}
void put_value(std::byte* data, DType dtype, std::int64_t i, float v) {
  if (dtype == DType::kBF16)
    reinterpret_cast<BF16*>(data)[i] = to_bf16(v);
  else
    reinterpret_cast<float*>(data)[i] = v;
}

}  // namespace

// ---- reading

SliceReader::SliceReader(const ReshardInput& input) : input_(input) {
  for (const ManifestTensor& t : input.manifest.tensors) begin_.emplace_back(t.slices.size(), 0);
  for (std::size_t f = 0; f < input.manifest.files.size(); ++f)
    for (const SliceBytes& s : slice_bytes(input.manifest, f, input.path)) begin_[s.tensor][s.slice] = s.begin;
}

std::shared_ptr<const File> SliceReader::file(std::size_t index) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [i, f] : open_)
    if (i == index) return f;
  if (open_.size() >= kMostOpenFiles) open_.pop_front();
  open_.emplace_back(index, std::make_shared<const File>(File::open(input_.path + "/" + input_.manifest.files[index].name)));
  return open_.back().second;
}

void SliceReader::read(std::size_t tensor, std::size_t slice, std::int64_t first, std::span<std::byte> out) const {
  const ManifestTensor& t = input_.manifest.tensors[tensor];
  file(t.slices[slice].file)->read_at(begin_[tensor][slice] + first * static_cast<std::int64_t>(size_of(t.dtype)), out);
}

void SliceReader::verify(const std::vector<bool>& tensors, int first, int every, int threads,
                         std::int64_t memory_bytes) const {
  std::vector<std::vector<SliceBytes>> files(input_.manifest.files.size());
  for (auto f = static_cast<std::size_t>(first); f < files.size(); f += static_cast<std::size_t>(every)) {
    files[f] = slice_bytes(input_.manifest, f, input_.path);
    std::erase_if(files[f], [&](const SliceBytes& s) { return !tensors[s.tensor]; });
  }
  const std::int64_t block = std::clamp<std::int64_t>(memory_bytes / std::max(threads, 1), 4096, 1 << 20);
  for_each_on_threads(files.size(), threads, [&](std::size_t f, std::size_t) {
    if (!files[f].empty()) verify_bytes(input_.path + "/" + input_.manifest.files[f].name, files[f], block);
  });
}

// ---- copying

struct ReshardCopier::Wanted {
  std::size_t tensor = 0;  // of the content
  std::int64_t begin = 0;  // global index of the first element, of tensors without source
  struct Piece {
    Box box;             // in the source tensor
    std::int64_t at;     // its first element in the target slice
    std::size_t source;  // tensor of the input
    // Ordered by place in the piece.
    struct Part {
      ReshardCopy copy;
      std::int64_t begin;  // its first element
      std::int64_t end;    // no element of this or an earlier part lies at or behind it
    };
    std::vector<Part> parts;
  };
  std::vector<std::vector<Piece>> inputs;  // [input][piece]
};

ReshardCopier::ReshardCopier(const ReshardContent& content, const std::vector<ReshardInput>& inputs,
                             const std::vector<const std::vector<TensorSlice>*>& parts)
    : content_(content) {
  std::map<Key, std::size_t> targets;
  for (std::size_t i = 0; i < content.tensors.size(); ++i) {
    targets[{content.tensors[i].target.name, content.tensors[i].target.role}] = i;
    all_untouched_ = all_untouched_ && content.tensors[i].untouched;
  }
  for (const auto* slices : parts) {
    wanted_.emplace_back();
    for (const TensorSlice& s : *slices) {
      Wanted w{.tensor = targets.at({s.name, s.role}), .begin = 0, .inputs = {}};
      for_each_run(s.shape, {s.offset, s.extent}, [&w, first = true](std::int64_t at, std::int64_t) mutable {
        if (std::exchange(first, false)) w.begin = at;
      });
      wanted_.back().push_back(std::move(w));
    }
  }
  for (std::size_t k = 0; k < inputs.size(); ++k) plan_input(k, inputs[k], parts);
  for (const ReshardInput& input : inputs) readers_.emplace_back(input);
}
// What input k gives to every target slice.
void ReshardCopier::plan_input(std::size_t k, const ReshardInput& input,
                               const std::vector<const std::vector<TensorSlice>*>& parts) {
  const Manifest& m = input.manifest;
  const auto sources = index_of(m);
  std::vector<ReshardTensor> tensors(content_.tensors.size());
  std::vector<std::vector<Wanted::Piece*>> places(tensors.size());  // of the targets of a tensor
  for (std::size_t p = 0; p < parts.size(); ++p)
    for (std::size_t i = 0; i < parts[p]->size(); ++i) {
      Wanted& w = wanted_[p][i];
      w.inputs.emplace_back();
      const ContentTensor& t = content_.tensors[w.tensor];
      if (t.rows == RowsFrom::kNormal || t.rows == RowsFrom::kZero) continue;
      const auto source = sources.find({t.from_name, t.from_role});
      if (source == sources.end())
        throw Error(Exit::kBadInput,
                    input.path + ": expected a tensor " + t.from_name + " (" + t.from_role + "), found none");
      std::int64_t at = 0;
      for (Box& box : pieces_of(t, content_.experts, {(*parts[p])[i].offset, (*parts[p])[i].extent})) {
        const std::int64_t count = elements_of(box.extent);
        tensors[w.tensor].targets.push_back({p, box});
        w.inputs[k].push_back({std::move(box), at, source->second, {}});
        at += count;
      }
    }
  for (auto& part : wanted_)
    for (Wanted& w : part)
      for (auto& piece : w.inputs[k]) places[w.tensor].push_back(&piece);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].targets.empty()) continue;
    const ManifestTensor& source = m.tensors[places[i][0]->source];
    tensors[i].label = source.label();
    tensors[i].shape = source.shape;
    for (const ManifestSlice& s : source.slices) tensors[i].sources.push_back({s.file, s.box});
  }
  for (auto& copies : plan_reshard(tensors, std::max<std::size_t>(parts.size(), 1)).files)
    for (ReshardCopy& c : copies) {
      Wanted::Piece& piece = *places[c.tensor][c.target];
      std::int64_t end = piece.parts.empty() ? 0 : piece.parts.back().end;
      const Box& source = tensors[c.tensor].sources[c.source].box;
      const std::int64_t all = elements_of(piece.box.extent);
      std::int64_t begin = all;
      const auto first_run = [&](std::int64_t, std::int64_t to, std::int64_t) { begin = std::min(begin, to); };
      const auto last_run = [&](std::int64_t, std::int64_t to, std::int64_t n) { end = std::max(end, to + n); };
      for_each_common_run(corner(c.box, false), source, piece.box, 0, all, first_run);
      for_each_common_run(corner(c.box, true), source, piece.box, 0, all, last_run);
      piece.parts.push_back({std::move(c), begin, end});
    }
}

ReshardCopier::~ReshardCopier() = default;

int ReshardCopier::extra_bytes_per_byte() const { return all_untouched_ ? 0 : 6; }

void ReshardCopier::read(std::size_t input, const Wanted& w, std::int64_t first, std::int64_t count, std::byte* out) const {
  const SliceReader& reader = readers_[input];
  for (const Wanted::Piece& piece : w.inputs[input]) {
    const std::int64_t begin = std::max(first - piece.at, std::int64_t{0}), end = first + count - piece.at;
    if (end <= 0) return;
    const auto size = static_cast<std::int64_t>(size_of(reader.dtype(piece.source)));
    auto part = std::partition_point(piece.parts.begin(), piece.parts.end(),
                                     [&](const Wanted::Piece::Part& p) { return p.end <= begin; });
    for (; part != piece.parts.end() && part->begin < end; ++part)
      for_each_common_run(part->copy.box, reader.box(piece.source, part->copy.source), piece.box, begin, end,
                          [&](std::int64_t from, std::int64_t to, std::int64_t n) {
                            std::byte* place = out + (piece.at + to - first) * size;
                            reader.read(piece.source, part->copy.source, from, {place, static_cast<std::size_t>(n * size)});
                          });
  }
}

void ReshardCopier::give(std::size_t part, std::size_t slice, std::int64_t first, std::int64_t count,
                         std::span<std::byte> out) const {
  const Wanted& w = wanted_[part][slice];
  const ContentTensor& t = content_.tensors[w.tensor];
  const DType dtype = t.target.dtype;
  if (t.untouched) return read(0, w, first, count, out.data());
  if (t.rows == RowsFrom::kZero) return std::fill(out.begin(), out.end(), std::byte{0});
  if (t.rows == RowsFrom::kNormal) {
    const Rng rng(content_.seed, t.target.name);
    for (std::int64_t i = 0; i < count; ++i)
      put_value(out.data(), dtype, i, t.std * rng.normal(static_cast<std::uint64_t>(w.begin + first + i)));
    return;
  }
  const DType from = readers_[0].dtype(w.inputs[0][0].source);
  std::vector<std::byte> source(static_cast<std::size_t>(count) * size_of(from));
  std::vector<double> sum(readers_.size() > 1 ? static_cast<std::size_t>(count) : 0, 0.0);
  for (std::size_t k = 0; k < readers_.size(); ++k) {
    read(k, w, first, count, source.data());
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += value_at(source.data(), from, static_cast<std::int64_t>(i));
  }
  if (sum.empty() && from == dtype) {
    std::copy(source.begin(), source.end(), out.begin());
    return;
  }
  for (std::int64_t i = 0; i < count; ++i)
    put_value(out.data(), dtype, i,
              sum.empty() ? value_at(source.data(), from, i)
                          : static_cast<float>(sum[static_cast<std::size_t>(i)] / static_cast<double>(readers_.size())));
}

}  // namespace moe
