#include "lib/run/mesh_save.h"

#include <algorithm>
#include <utility>

#include "lib/comm/collectives.h"
#include "lib/io/box.h"
#include "lib/run/world_text.h"

namespace moe {
namespace {

std::int64_t bytes_in(const TensorSlice& s) { return elements_of(s.extent) * static_cast<std::int64_t>(size_of(s.dtype)); }

// Rows [begin, end) of a slice, along its first dimension that has more than one.
TensorSlice rows_of(const TensorSlice& s, std::size_t dimension, std::int64_t row_bytes, std::int64_t begin,
                    std::int64_t end) {
  TensorSlice part = s;
  part.offset[dimension] += begin;
  part.extent[dimension] = end - begin;
  part.data = static_cast<std::byte*>(s.data) + begin * row_bytes;
  return part;
}

// A slice that says only that the tensor is there.
TensorSlice nothing_of(const TensorSlice& s) {
  TensorSlice none = s;
  std::fill(none.offset.begin(), none.offset.end(), 0);
  none.extent = s.shape;
  none.extent[0] = 0;
  return none;
}

}  // namespace

// The bytes of all slices, side by side, are cut at byte total * share / num_shares, rounded up to a row.
std::vector<TensorSlice> share_of_slices(const std::vector<TensorSlice>& slices, int share, int num_shares) {
  std::int64_t total = 0, at = 0;
  for (const TensorSlice& s : slices) total += bytes_in(s);
  const std::int64_t begin = total * share / num_shares, end = total * (share + 1) / num_shares;
  std::vector<TensorSlice> part;
  for (const TensorSlice& s : slices) {
    const std::int64_t bytes = bytes_in(s);
    std::size_t d = 0;
    while (d + 1 < s.extent.size() && s.extent[d] == 1) ++d;
    const std::int64_t rows = s.extent.empty() ? 1 : s.extent[d], row_bytes = bytes > 0 ? bytes / rows : 1;
    const auto row_at = [&](std::int64_t byte) {
      return std::clamp<std::int64_t>((byte - at + row_bytes - 1) / row_bytes, 0, bytes > 0 ? rows : 0);
    };
    const std::int64_t first = row_at(begin), last = row_at(end);
    part.push_back(first < last ? rows_of(s, d, row_bytes, first, last) : nothing_of(s));
    at += bytes;
  }
  return part;
}

std::vector<TensorSlice> slices_to_write(Model& model) {
  const MeshContext& mesh = model.mesh();
  const int rank = mesh.world().rank(), num_ranks = mesh.num_ranks();
  std::vector<TensorSlice> slices =
      share_of_slices(state_slices(model, true, false), mesh.place().replicate, mesh.options().shape.replicate);
  std::erase_if(slices, [](const TensorSlice& s) { return s.role == "bias"; });
  int index = 0;
  for (TensorSlice& s : state_slices(model, true, true))
    if (s.role == "bias") slices.push_back(index++ % num_ranks == rank ? s : nothing_of(s));
  return slices;
}

MeshSaver::MeshSaver(Model& model, std::string run_dir, SaveMode mode)
    : model_(model), run_dir_(std::move(run_dir)), mode_(mode), slices_(slices_to_write(model)), to_write_(slices_) {
  if (mode == SaveMode::kSync && model.on_host()) return;
  std::int64_t bytes = 0;
  for (const TensorSlice& s : slices_) bytes += bytes_in(s);
  staging_ = std::make_unique<std::byte[]>(static_cast<std::size_t>(bytes));  // zeros: its pages are there
  std::byte* next = staging_.get();
  for (TensorSlice& s : to_write_) s.data = next, next += bytes_in(s);
}

MeshSaver::~MeshSaver() {
  if (thread_.joinable()) thread_.join();
  if (in_flight() && world().rank() == 0) abandon_checkpoint(draft_);
}

void MeshSaver::stage() {
  if (!staging_) return;
  Stream& stream = model_.settled_stream();
  for (std::size_t i = 0; i < slices_.size(); ++i)
    if (const auto bytes = static_cast<std::size_t>(bytes_in(slices_[i])); bytes > 0)
      stream.copy(to_write_[i].data, slices_[i].data, bytes);
  stream.synchronize();
}

void MeshSaver::start(const char* name, std::function<void()> work) {
  failure_.reset();
  const auto guarded = [this, name, work = std::move(work)] {
    try {
      const TraceSpan span(world().trace(), TraceRow::kSaving, {.name = name});
      work();
    } catch (const Error& e) {
      failure_ = e;
    } catch (const std::exception& e) {
      failure_ = Error(Exit::kInternal, std::string("saving: ") + e.what());
    }
    busy_ = false;
  };
  busy_ = true;
  if (mode_ == SaveMode::kSync) return guarded();
  thread_ = std::thread(guarded);
}

// The thread's failure on any rank is that of all; then nothing is left of this save.
void MeshSaver::join_and_agree() {
  if (thread_.joinable()) thread_.join();
  try {
    world().agree([&] {
      if (failure_) throw *failure_;
    });
  } catch (...) {
    phase_ = Phase::kIdle;
    if (world().rank() == 0) abandon_checkpoint(draft_);
    throw;
  }
}

void MeshSaver::begin(SaveRequest request) {
  if (in_flight()) throw Error(Exit::kInternal, "a save began while another was in flight");
  const TraceSpan span(world().trace(), TraceRow::kCompute, {.name = "save"});
  request_ = std::move(request);
  clock_ = Stopwatch();
  std::string text;
  world().agree([&] {
    if (world().rank() == 0) text = begin_checkpoint(run_dir_, request_.step, world().size(), total_bytes(slices_)).text();
  });
  broadcast_text(world(), "checkpoint", text);
  draft_ = CheckpointDraft::parse(text);
  phase_ = Phase::kWriting;
  stage();
  start("write checkpoint", [this] { report_ = write_part(draft_, world().rank(), to_write_); });
  if (mode_ == SaveMode::kSync) advance();
  stall_seconds_ = clock_.seconds();
}

void MeshSaver::start_publishing() {
  std::vector<std::string> reports;
  world().lane().call("checkpoint", [&] { reports = gather_texts_at_first(world().comm(), "checkpoint", report_); });
  phase_ = Phase::kPublishing;
  if (world().rank() != 0) return;
  start("publish checkpoint", [this, reports = std::move(reports)] {
    saved_ = publish_checkpoint(draft_, reports, request_.state, request_.provenance, request_.keep, request_.force);
    if (request_.when_published) request_.when_published();
  });
}

FinishedSave MeshSaver::finish() {
  const nlohmann::json mine = {saved_.path, saved_.digest, stall_seconds_, clock_.seconds()};
  std::string text = mine.dump();
  broadcast_text(world(), "checkpoint", text);
  const auto of_first = nlohmann::json::parse(text);
  phase_ = Phase::kIdle;
  return {request_.step, of_first[0], of_first[1], of_first[2], of_first[3]};
}

std::optional<FinishedSave> MeshSaver::advance() {
  const TraceSpan span(world().trace(), TraceRow::kCompute, {.name = "save"});
  const Stopwatch watch;
  join_and_agree();
  if (phase_ == Phase::kWriting) {
    start_publishing();
    stall_seconds_ += watch.seconds();
    return std::nullopt;
  }
  stall_seconds_ += watch.seconds();
  return finish();
}

std::optional<FinishedSave> MeshSaver::wait() {
  std::optional<FinishedSave> finished;
  while (in_flight() && !finished) finished = advance();
  return finished;
}

FinishedSave save_on_mesh(Model& model, const std::string& run_dir, SaveRequest request) {
  MeshSaver saver(model, run_dir, SaveMode::kSync);
  saver.begin(std::move(request));
  return *saver.wait();
}

}  // namespace moe
