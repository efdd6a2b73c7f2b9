// moe-reshard import. The checkpoint is written in parts that fit the memory, one shard file each: a part is filled from the
// files block by block, then written, read back and forgotten. Not here: export (hf_export.cpp).
#include <algorithm>
#include <set>

#include "lib/base/byte_size.h"
#include "lib/base/log.h"
#include "lib/base/provenance.h"
#include "lib/io/checkpoint.h"
#include "lib/io/files.h"
#include "lib/io/manifest.h"
#include "lib/io/safetensors_directory.h"
#include "lib/io/verify.h"
#include "lib/model/params.h"
#include "lib/run/hf_checkpoint.h"
#include "lib/run/hf_names.h"
#include "lib/run/hf_stream.h"
#include "lib/run/result.h"

namespace moe {
namespace {

using nlohmann::json;

// A box of one of our tensors.
struct PartSlice {
  std::size_t param;
  Box box;
};
using Part = std::vector<PartSlice>;  // what one shard file holds

// All tensors in order, cut where a part is full.
std::vector<Part> plan_parts(const std::vector<ParamSpec>& specs, std::int64_t most_elements) {
  std::vector<Part> parts;
  std::int64_t left = 0;
  for (std::size_t p = 0; p < specs.size(); ++p) {
    std::vector<Box> boxes;
    cut_box({std::vector<std::int64_t>(specs[p].shape.size(), 0), specs[p].shape}, most_elements, boxes);
    for (Box& box : boxes) {
      const std::int64_t n = elements_of(box.extent);
      if (parts.empty() || n > left) parts.emplace_back(), left = most_elements;
      parts.back().push_back({p, std::move(box)});
      left -= n;
    }
  }
  return parts;
}

class Import {
 public:
  Import(const HfOptions& hf, const CommonOptions& common, const Invocation& invocation)
      : hf_(hf), common_(common), invocation_(invocation), memory_(split_memory(hf.memory_bytes)), source_(hf.input) {
    const std::string path = hf.input + "/config.json";
    config_ = parse_hf_config(parse_strict_json(read_text_file(path, 1 << 24), path), path);
    layout_ = hf_layout_of(source_names(), hf.input);
    pieces_ = hf_tensors(config_.model, config_.family, layout_);
    check_tensors();
    specs_ = parameter_specs(config_.model);
    choose_dtype();
    parts_ = plan_parts(specs_, memory_.part_bytes / static_cast<std::int64_t>(size_of(dtype_)));
    for (const std::string& other : source_.others()) notes_.push_back(other + " is not part of the model: not read");
  }

  void run() {
    if (has_checkpoint(hf_.output) && !common_.force)
      throw Error(Exit::kCannotCreate, hf_.output + ": holds the checkpoints of a run", "choose another -o, or --force");
    std::int64_t elements = 0;
    for (const ParamSpec& s : specs_) elements += s.num_elements();
    bytes_ = elements * static_cast<std::int64_t>(size_of(dtype_));
    if (!common_.dry_run) write();
    tell(elements);
  }

 private:
  std::vector<std::string> source_names() const {
    std::vector<std::string> names;
    for (const auto& [name, entry] : source_.tensors()) names.push_back(name);
    return names;
  }

  void check_tensors() const {
    std::vector<HfFound> found;
    for (const auto& [name, entry] : source_.tensors()) found.push_back({name, entry.tensor->shape});
    check_hf_tensors(pieces_, found, hf_.input);
  }

  // bf16 only if nothing is wider, unless asked for.
  void choose_dtype() {
    std::set<SafeType> types;
    for (const auto& [name, entry] : source_.tensors()) {
      const SafeType t = entry.tensor->type;
      if (t != SafeType::kF32 && t != SafeType::kBF16 && t != SafeType::kF16)
        throw Error(Exit::kBadInput,
                    entry.file->path() + ": tensor " + name + ": expected F32, BF16 or F16, found " + name_of(t),
                    "quantised weights and other dtypes are not read: convert the model to BF16 first");
      types.insert(t);
    }
    if (hf_.dtype != "keep" && hf_.dtype != "fp32" && hf_.dtype != "bf16")
      throw Error(Exit::kUsage, "--dtype: expected keep, fp32 or bf16, found " + hf_.dtype);
    const bool all_bf16 = types == std::set{SafeType::kBF16};
    dtype_ = hf_.dtype == "bf16" || (hf_.dtype == "keep" && all_bf16) ? DType::kBF16 : DType::kF32;
    if (dtype_ == DType::kBF16 && !all_bf16) notes_.push_back("weights were rounded to bf16 (nearest even)");
    if (dtype_ == DType::kF32)
      for (const SafeType t : types)
        if (t != SafeType::kF32) notes_.push_back(std::string(name_of(t)) + " became fp32, which changes no value");
  }

  void write() {
    const CheckpointDraft draft = begin_checkpoint(hf_.output, 0, static_cast<int>(parts_.size()), bytes_);
    try {
      std::vector<std::string> reports;
      ProgressBar bar("import");
      for (std::size_t i = 0; i < parts_.size(); ++i) {
        reports.push_back(write_one(draft, static_cast<int>(i)));
        bar.show(static_cast<double>(i + 1) / static_cast<double>(parts_.size()), hf_.output);
      }
      saved_ = publish_checkpoint(draft, reports, state(), provenance(), {.keep_last = 1 << 30}, common_.force);
    } catch (...) {
      abandon_checkpoint(draft);
      throw;
    }
  }

  std::string write_one(const CheckpointDraft& draft, int index) {
    const Part& part = parts_[static_cast<std::size_t>(index)];
    std::size_t bytes = 0;
    for (const PartSlice& s : part) bytes += static_cast<std::size_t>(elements_of(s.box.extent)) * size_of(dtype_);
    buffer_.resize(std::max(buffer_.size(), bytes));
    std::vector<TensorSlice> slices;
    std::byte* at = buffer_.data();
    for (const PartSlice& s : part) {
      fill(s, at);
      slices.push_back({specs_[s.param].name, "weight", dtype_, specs_[s.param].shape, s.box.offset, s.box.extent, at});
      at += static_cast<std::size_t>(elements_of(s.box.extent)) * size_of(dtype_);
    }
    try {
      return write_part(draft, index, slices);
    } catch (const Error& e) {
      if (e.code() != Exit::kNumeric) throw;
      throw Error(Exit::kBadInput, hf_.input + ": " + e.what(), "the files hold an infinity or a not-a-number");
    }
  }

  // = what the files hold of a box.
  void fill(const PartSlice& s, std::byte* out) {
    std::int64_t filled = 0;
    for (const HfTensor& piece : pieces_) {
      if (piece.param != s.param || !boxes_meet(piece.box, s.box)) continue;
      std::vector<Box> blocks;
      const Box common = intersection(piece.box, s.box);
      cut_box(common, memory_.block_bytes / 4, blocks);
      for (const Box& block : blocks) read_block(piece, block, s.box, out);
      filled += elements_of(common.extent);
    }
    if (filled != elements_of(s.box.extent))
      throw Error(Exit::kInternal, "tensor " + specs_[s.param].name + ": the names do not cover it");
  }

  void read_block(const HfTensor& piece, const Box& block, const Box& target, std::byte* out) {
    const auto& [file, tensor] = source_.tensors().at(piece.name);
    const auto count = static_cast<std::size_t>(elements_of(block.extent));
    raw_.resize(count * size_of(tensor->type));
    std::byte* at = raw_.data();
    for_each_run(piece.box.extent, relative_to(block, piece.box.offset), [&](std::int64_t first, std::int64_t n) {
      file->read(*tensor, first, n, at);
      at += static_cast<std::size_t>(n) * size_of(tensor->type);
    });
    converted_.resize(count * size_of(dtype_));
    convert_elements(tensor->type, raw_.data(), static_cast<std::int64_t>(count), dtype_, converted_.data());
    copy_common(converted_.data(), block, out, target, size_of(dtype_));
  }

  // As moe-train writes it, with nothing trained: a run that starts from here (--init-from) takes the model's options.
  json state() const {
    return {{"options", model_options_json(config_.model, dtype_)},
            {"step", 0},
            {"updates", 0},
            {"consumed_samples", 0},
            {"skipped", 0},
            {"seconds", 0.0},
            {"first_loss", nullptr},
            {"last_loss", nullptr},
            {"data", {{"fingerprint", ""}, {"num_tokens", 0}, {"vocab_size", config_.model.vocab_size}}},
            {"tokenizer", {{"name", "unknown"}, {"model", ""}}},
            {"huggingface", {{"model_type", name_of(config_.family)}, {"carried", config_.carried}}}};
  }

  json provenance() const {
    std::vector<std::pair<std::string, std::string>> inputs;
    for (const char* name : {"config.json", kSafetensorsIndexName})
      if (const std::string path = hf_.input + "/" + name; path_exists(path)) inputs.emplace_back(path, file_digest(path));
    return provenance_chain(invocation_, nullptr, inputs);
  }

  void tell(std::int64_t elements) const {
    const std::string how = layout_ == HfLayout::kFused ? "fused" : "per-expert";
    const json result = {{"input", hf_.input},
                         {"output", saved_.path},
                         {"model_type", name_of(config_.family)},
                         {"experts_on_disk", how},
                         {"tensors_read", pieces_.size()},
                         {"tensors_written", specs_.size()},
                         {"parameters", elements},
                         {"bytes", bytes_},
                         {"dtype", name_of(dtype_)},
                         {"files", parts_.size()},
                         {"digest", saved_.digest},
                         {"assumed", config_.assumed},
                         {"ignored", config_.ignored},
                         {"notes", notes_}};
    std::string text = std::string(common_.dry_run ? "would import " : "imported ") + hf_.input + ": " +
                       name_of(config_.family) + ", " + std::to_string(elements) + " parameters, " +
                       std::to_string(pieces_.size()) + " tensors (" + how + "), each used once\n";
    for (const std::string& line : config_.assumed) text += "  assumed  " + line + "\n";
    for (const std::string& line : config_.ignored) text += "  ignored  " + line + "\n";
    for (const std::string& line : notes_) text += "  note     " + line + "\n";
    text += "  " + std::string(common_.dry_run ? "as       " : "wrote    ") +
            (saved_.path.empty() ? hf_.output : saved_.path) + ": " + name_of(dtype_) + ", " +
            bytes_text(static_cast<double>(bytes_)) + " in " + std::to_string(parts_.size()) +
            (parts_.size() == 1 ? " file\n" : " files\n");
    if (!saved_.digest.empty()) text += "  digest   " + saved_.digest + "\n";
    print_result(common_, result, text);
  }

  const HfOptions& hf_;
  const CommonOptions& common_;
  const Invocation& invocation_;
  HfMemory memory_;
  SafetensorsDirectory source_;
  HfConfig config_;
  HfLayout layout_ = HfLayout::kPerExpert;
  DType dtype_ = DType::kF32;
  std::vector<HfTensor> pieces_;
  std::vector<ParamSpec> specs_;
  std::vector<Part> parts_;
  std::vector<std::string> notes_;
  std::vector<std::byte> buffer_, raw_, converted_;
  std::int64_t bytes_ = 0;
  SavedCheckpoint saved_;
};

}  // namespace

Exit import_hf(const HfOptions& hf, const CommonOptions& common, const Invocation& invocation) {
  if (hf.output.empty()) throw Error(Exit::kUsage, "import: expected --output, found none");
  Import(hf, common, invocation).run();
  return Exit::kOk;
}

}  // namespace moe
