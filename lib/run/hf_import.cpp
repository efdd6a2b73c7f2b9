// moe-reshard import. The checkpoint is written in parts that fit the memory, one shard file each: a part is filled from the
// files block by block, then written, read back and forgotten. Not here: export (hf_export.cpp).
#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

#include "lib/base/byte_size.h"
#include "lib/base/log.h"
#include "lib/base/provenance.h"
#include "lib/io/checkpoint.h"
#include "lib/io/files.h"
#include "lib/io/manifest.h"
#include "lib/io/verify.h"
#include "lib/run/hf_checkpoint.h"
#include "lib/run/hf_names.h"
#include "lib/run/hf_runs.h"
#include "lib/run/hf_source.h"
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

// Router biases are fp32 whatever the weights are.
DType dtype_of(const HfParam& param, DType weights) { return param.role == "bias" ? DType::kF32 : weights; }

std::int64_t bytes_of(const HfParam& param, const Box& box, DType weights) {
  return elements_of(box.extent) * static_cast<std::int64_t>(size_of(dtype_of(param, weights)));
}

// All tensors in order, cut where a part is full.
std::vector<Part> plan_parts(const std::vector<HfParam>& params, DType dtype, std::int64_t most_bytes) {
  std::vector<Part> parts;
  std::int64_t left = 0;
  for (std::size_t p = 0; p < params.size(); ++p) {
    std::vector<Box> boxes;
    cut_box({std::vector<std::int64_t>(params[p].shape.size(), 0), params[p].shape},
            most_bytes / static_cast<std::int64_t>(size_of(dtype_of(params[p], dtype))), boxes);
    for (Box& box : boxes) {
      const std::int64_t n = bytes_of(params[p], box, dtype);
      if (parts.empty() || n > left) parts.emplace_back(), left = most_bytes;
      parts.back().push_back({p, std::move(box)});
      left -= n;
    }
  }
  return parts;
}

HfConfig read_hf_config(const HfOptions& hf) {
  const std::string path = hf.input + "/config.json";
  return parse_hf_config(parse_strict_json(read_text_file(path, 1 << 24), path), path, hf.ignore_keys);
}

class Import {
 public:
  Import(const HfOptions& hf, const CommonOptions& common, const Invocation& invocation)
      : hf_(hf),
        common_(common),
        invocation_(invocation),
        memory_(split_memory(hf.memory_bytes)),
        config_(read_hf_config(hf)),
        source_(hf.input, config_.quantization) {
    layout_ = source_.has_packed() ? HfLayout::kPacked : hf_layout_of(source_.found(), hf.input);
    if (config_.family == HfFamily::kGptOss && layout_ == HfLayout::kPerExpert) layout_ = HfLayout::kFused;
    drop_mtp();
    pieces_ = hf_tensors(config_.model, config_.family, layout_);
    check_tensors();
    params_ = hf_params(config_.model);
    choose_dtype();
    parts_ = plan_parts(params_, dtype_, memory_.part_bytes);
    for (const std::string& other : source_.directory().others())
      notes_.push_back(other + " is not part of the model: not read");
  }

  void run() {
    if (has_checkpoint(hf_.output) && !common_.force)
      throw Error(Exit::kCannotCreate, hf_.output + ": holds the checkpoints of a run", "choose another -o, or --force");
    std::int64_t elements = 0;
    for (const Part& part : parts_)
      for (const PartSlice& s : part) {
        elements += elements_of(s.box.extent);
        bytes_ += bytes_of(params_[s.param], s.box, dtype_);
      }
    if (!common_.dry_run) {
      check_duplicates();
      write();
    }
    tell(elements);
  }

 private:
  // The modules of multi-token prediction, whether the files have them or not.
  void drop_mtp() {
    if (!hf_.drop_mtp || config_.model.num_mtp_layers == 0) return;
    for (int i = config_.model.num_layers; i < config_.model.num_blocks(); ++i)
      dropped_.push_back("model.layers." + std::to_string(i) + ".");
    notes_.push_back("left out: " + std::to_string(dropped_.size()) + " modules of multi-token prediction");
    config_.model.num_mtp_layers = 0;
  }
  bool is_dropped(const std::string& name) const {
    return std::any_of(dropped_.begin(), dropped_.end(), [&](const auto& layer) { return name.starts_with(layer); });
  }

  void check_tensors() const try {
    std::vector<HfFound> found = source_.found();
    std::erase_if(found, [&](const HfFound& f) { return is_dropped(f.name); });
    check_hf_tensors(pieces_, found, hf_.input);
  } catch (const Error& e) {
    if (config_.model.num_mtp_layers == 0) throw;
    throw Error(e.code(), e.what(), e.hint() + "; --drop-mtp imports without the modules of multi-token prediction");
  }

  // bf16 only if no weight is wider, unless asked for; quantised ones are as the others.
  void choose_dtype() {
    std::set<SafeType> types;
    std::set<std::string> quantised;
    for (const HfTensor& piece : pieces_) {
      const auto there = source_.tensors().find(piece.name);
      if (there == source_.tensors().end()) continue;  // a duplicate
      const HfSource::Tensor& t = there->second;
      const SafeType type = t.data.tensor->type;
      if (!t.scales && type != SafeType::kF32 && type != SafeType::kBF16 && type != SafeType::kF16)
        throw Error(Exit::kBadInput,
                    t.data.file->path() + ": tensor " + piece.name + ": expected F32, BF16 or F16, found " + name_of(type),
                    "quantised weights need the quantization_config of config.json: convert the model to BF16 first");
      if (t.scales)
        quantised.insert(piece.name);
      else if (params_[piece.param].role != "bias")
        types.insert(type);
    }
    if (hf_.dtype != "keep" && hf_.dtype != "fp32" && hf_.dtype != "bf16")
      throw Error(Exit::kUsage, "--dtype: expected keep, fp32 or bf16, found " + hf_.dtype);
    const bool all_bf16 = types == std::set{SafeType::kBF16};
    dtype_ = hf_.dtype == "bf16" || (hf_.dtype == "keep" && all_bf16) ? DType::kBF16 : DType::kF32;
    tell_dtype(types, all_bf16, quantised.size());
  }

  void tell_dtype(const std::set<SafeType>& types, bool all_bf16, std::size_t num_quantised) {
    const bool narrow = dtype_ == DType::kBF16;
    if (narrow && !all_bf16) notes_.push_back("weights were rounded to bf16 (nearest even)");
    if (!narrow)
      for (const SafeType t : types)
        if (t != SafeType::kF32) notes_.push_back(std::string(name_of(t)) + " became fp32, which changes no value");
    if (num_quantised == 0) return;
    const bool mxfp4 = source_.has_packed();  // 2 bits of fraction times a power of two
    notes_.push_back(std::to_string(num_quantised) + " tensors of " + (mxfp4 ? "MXFP4" : "FP8") + " became " +
                     name_of(dtype_) +
                     (mxfp4    ? ", which changes no value"
                      : narrow ? ": each element times its scale, rounded to nearest even"
                               : ": each element times its scale"));
  }

  // What files repeat for the modules of multi-token prediction is the model's own.
  void check_duplicates() {
    for (const HfTensor& piece : pieces_) {
      if (!piece.duplicate || !source_.tensors().contains(piece.name)) continue;
      const auto own = std::find_if(pieces_.begin(), pieces_.end(), [&](const auto& p) { return p.param == piece.param; });
      source_.expect_same(piece.name, own->name, memory_.block_bytes / 4);
    }
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
    for (const PartSlice& s : part) bytes += static_cast<std::size_t>(bytes_of(params_[s.param], s.box, dtype_));
    buffer_.resize(std::max(buffer_.size(), bytes));
    std::vector<TensorSlice> slices;
    std::byte* at = buffer_.data();
    for (const PartSlice& s : part) {
      const HfParam& p = params_[s.param];
      fill(s, at);
      slices.push_back({p.name, p.role, dtype_of(p, dtype_), p.shape, s.box.offset, s.box.extent, at});
      at += bytes_of(p, s.box, dtype_);
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
      if (piece.param != s.param || piece.duplicate || !boxes_meet(piece.box, s.box)) continue;
      const Box common = intersection(piece.box, s.box);
      // fp32 elements; of interleaved ones the others between them are read, too.
      const std::int64_t most = memory_.block_bytes / (piece.step.empty() ? 4 : 8);
      for (const Box& block : hf_blocks(piece, common, most)) read_block(piece, block, s, out);
      filled += elements_of(common.extent);
    }
    if (filled != elements_of(s.box.extent))
      throw Error(Exit::kInternal, "tensor " + params_[s.param].name + ": the names do not cover it");
  }

  void read_block(const HfTensor& piece, const Box& block, const PartSlice& target, std::byte* out) {
    const HfSource::Tensor& tensor = source_.tensors().at(piece.name);
    const DType dtype = dtype_of(params_[target.param], dtype_);
    const std::size_t width = size_of(dtype);
    converted_.resize(static_cast<std::size_t>(elements_of(block.extent)) * width);
    for_each_hf_run(piece, block, [&](const HfRun& r) {
      std::byte* const at = converted_.data() + static_cast<std::size_t>(r.at) * width;
      if (r.step == 1 && r.at_step == 1) return source_.read(tensor, r.first, r.count, dtype, at);
      run_.resize(static_cast<std::size_t>(r.span()) * width);
      source_.read(tensor, r.first, r.span(), dtype, run_.data());
      for (std::int64_t i = 0; i < r.count; ++i)
        std::memcpy(at + static_cast<std::size_t>(i * r.at_step) * width,
                    run_.data() + static_cast<std::size_t>(i * r.step) * width, width);
    });
    copy_common(converted_.data(), block, out, target.box, width);
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

  std::size_t names_read() const {
    std::set<std::string> names;
    for (const HfTensor& piece : pieces_)
      if (source_.tensors().contains(piece.name)) names.insert(piece.name);
    return names.size();
  }

  void tell(std::int64_t elements) const {
    const std::string how = layout_ == HfLayout::kPacked ? "packed" : layout_ == HfLayout::kFused ? "fused" : "per-expert";
    const json result = {{"input", hf_.input},
                         {"output", saved_.path},
                         {"model_type", name_of(config_.family)},
                         {"experts_on_disk", how},
                         {"tensors_read", names_read()},
                         {"tensors_written", params_.size()},
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
                       std::to_string(names_read()) + " tensors (" + how + "), each used once\n";
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
  HfConfig config_;
  HfSource source_;
  HfLayout layout_ = HfLayout::kPerExpert;
  DType dtype_ = DType::kF32;
  std::vector<HfTensor> pieces_;
  std::vector<HfParam> params_;
  std::vector<std::string> dropped_;  // beginnings of names
  std::vector<Part> parts_;
  std::vector<std::string> notes_;
  std::vector<std::byte> buffer_, run_, converted_;
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
