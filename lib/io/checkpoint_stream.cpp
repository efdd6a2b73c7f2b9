#include "lib/io/checkpoint_stream.h"

#include <algorithm>
#include <cstdio>
#include <future>
#include <optional>

#include "lib/base/byte_size.h"
#include "lib/base/error.h"
#include "lib/base/threads.h"
#include "lib/io/checkpoint_part.h"
#include "lib/io/files.h"
#include "lib/io/h5.h"
#include "lib/io/verify.h"

namespace moe {
namespace {

constexpr std::int64_t kMostBlockBytes = std::int64_t{1} << 20;  // stays in the cache from reading to writing
constexpr std::int64_t kLeastBlockBytes = 4096;

std::string shard_name(int part) {
  char name[32];
  std::snprintf(name, sizeof name, "shard-%05d.h5", part);
  return name;
}

}  // namespace

struct CheckpointStream::Part {
  CheckpointPart report;
  std::vector<PlacedSlice> placed;
  std::vector<H5Dataset> datasets;  // of placed
  std::vector<Digest> sums;         // of placed: ElementSum
  std::string path;
  std::unique_ptr<H5Writer> h5;
  std::future<void> work;  // the sync, then the reading back; last, so that it has ended before the rest goes
};

namespace {

std::int64_t block_bytes_for(const StreamOptions& o) {
  const std::int64_t bytes = std::min(kMostBlockBytes, o.memory_bytes / (o.threads + 2)) / 64 * 64;  // two read back
  if (bytes >= kLeastBlockBytes) return bytes;
  throw Error(Exit::kUsage, "--memory: expected at least " +
                                bytes_text(static_cast<double>(kLeastBlockBytes * (o.threads + 2))) + " for " +
                                std::to_string(o.threads) + " threads, found " +
                                bytes_text(static_cast<double>(o.memory_bytes)));
}

}  // namespace

CheckpointStream::CheckpointStream(const CheckpointDraft& draft, const StreamOptions& options)
    : draft_(draft),
      threads_(std::max(options.threads, 1)),
      block_bytes_(block_bytes_for(options)),
      buffers_(static_cast<std::size_t>(threads_)) {}
CheckpointStream::~CheckpointStream() = default;

void CheckpointStream::write_slices(Part& p, const std::vector<TensorSlice>& slices, const GiveBlock& give) {
  p.sums.resize(p.placed.size());
  for_each_on_threads(p.placed.size(), threads_, [&](std::size_t i, std::size_t thread) {
    const TensorSlice& s = *p.placed[i].slice;
    ManifestTensor& tensor = p.report.tensors[p.placed[i].tensor];
    const auto size = static_cast<std::int64_t>(size_of(s.dtype)), whole = elements_of(s.extent);
    SliceDigest digest(tensor, s);
    std::vector<std::byte>& buffer = buffers_[thread];
    for (std::int64_t first = 0; first < whole;) {
      const std::int64_t count = std::min(block_bytes_ / size, whole - first);
      if (static_cast<std::int64_t>(buffer.size()) < count * size) buffer.resize(static_cast<std::size_t>(count * size));
      const auto block = give(static_cast<std::size_t>(&s - slices.data()), first, count,
                              std::span(buffer).first(static_cast<std::size_t>(count * size)), thread);
      digest.add(block);
      p.h5->write_bytes(p.datasets[i], first * size, block);
      first += count;
    }
    p.sums[i] = digest.elements();
    tensor.slices[p.placed[i].entry].digest = digest.bytes();
  });
}

void CheckpointStream::write_part(int part, const std::vector<TensorSlice>& slices, const GiveBlock& give) {
  auto p = std::make_unique<Part>();
  p->report = {.index = part, .nonce = draft_.nonce};
  p->report.tensors = arrange_slices(slices, p->placed);
  if (!p->placed.empty()) {
    if (!is_directory(draft_.directory))
      throw Error(Exit::kCannotCreate, draft_.directory + ": expected the directory that the first process made, found none",
                  "the run directory must be on a file system that all hosts share");
    p->path = draft_.directory + "/" + shard_name(part);
    p->h5 = std::make_unique<H5Writer>(p->path, kShardKind, kCheckpointVersion);
    p->h5->attribute("step", draft_.step);
    p->h5->attribute("nonce", draft_.nonce);
    for (const auto& [slice, dataset, tensor, entry] : p->placed) {
      const std::vector<std::int64_t> dims = slice->extent.empty() ? std::vector<std::int64_t>{1} : slice->extent;
      p->datasets.push_back(p->h5->create(dataset, slice->dtype == DType::kF32 ? H5Type::kF32 : H5Type::kU16, dims));
      p->h5->attribute("dtype", name_of(slice->dtype), dataset);
    }
    write_slices(*p, slices, give);
    std::vector<std::optional<ElementSum>> sums(p->report.tensors.size());
    for (std::size_t i = 0; i < p->placed.size(); ++i) {
      auto& sum = sums[p->placed[i].tensor];
      if (!sum) sum.emplace(p->report.tensors[p->placed[i].tensor].identity());
      sum->add(p->sums[i]);
    }
    for (std::size_t t = 0; t < sums.size(); ++t)
      if (sums[t]) p->report.tensors[t].digest = sums[t]->value().hex();
    p->work = std::async(std::launch::async, [h5 = p->h5.get()] { h5->sync(); });
  }
  if (!parts_.empty()) close(*parts_.back());
  parts_.push_back(std::move(p));
  while (parts_.size() > 2) {
    if (parts_.front()->work.valid()) parts_.front()->work.get();
    reports_.push_back(part_text(parts_.front()->report));
    parts_.pop_front();
  }
}

// HDF5 is not for several threads: only this one, which writes the files, calls it. What runs beside it reads bytes.
void CheckpointStream::close(Part& p) {
  if (p.placed.empty() || !p.h5) return;
  p.work.get();
  p.h5->finish();
  p.h5.reset();
  const std::string name = shard_name(p.report.index);
  p.report.files = {{name, File::open(p.path).size(), ""}};
  Manifest m{.step = draft_.step, .nonce = draft_.nonce, .files = p.report.files, .tensors = p.report.tensors};
  std::vector<SliceBytes> places = slice_bytes(m, 0, draft_.directory);
  p.work = std::async(std::launch::async, [&p, places = std::move(places), block = block_bytes_] {
    p.report.files[0].digest = verify_bytes(p.path, places, block);
  });
}

std::vector<std::string> CheckpointStream::finish() {
  if (!parts_.empty()) close(*parts_.back());
  for (; !parts_.empty(); parts_.pop_front()) {
    if (parts_.front()->work.valid()) parts_.front()->work.get();
    reports_.push_back(part_text(parts_.front()->report));
  }
  return std::move(reports_);
}

}  // namespace moe
