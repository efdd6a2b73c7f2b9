// moe-reshard export. Every slice of the checkpoint is read once, in blocks, against its digest; what a block holds of a
// tensor of Hugging Face goes to its place in its file. The directory appears whole or not at all.
// Not here: import (hf_import.cpp).
#include <algorithm>
#include <cstring>
#include <list>
#include <map>

#include "lib/base/byte_size.h"
#include "lib/base/log.h"
#include "lib/io/checkpoint.h"
#include "lib/io/files.h"
#include "lib/io/manifest.h"
#include "lib/io/run_dir.h"
#include "lib/io/safetensors_directory.h"
#include "lib/io/verify.h"
#include "lib/run/hf_checkpoint.h"
#include "lib/run/hf_names.h"
#include "lib/run/hf_runs.h"
#include "lib/run/hf_stream.h"
#include "lib/run/result.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr std::size_t kMostFiles = 500;  // open at the same time

// Where a tensor of Hugging Face goes.
struct Target {
  std::size_t file, index;
};

class Export {
 public:
  Export(const HfOptions& hf, const CommonOptions& common)
      : hf_(hf), common_(common), memory_(split_memory(hf.memory_bytes)), info_(open_checkpoint(hf.input)) {
    manifest_ = read_manifest(info_.path);
    model_ = model_of_state(info_.state, info_.path);
    choose_dtype();
    drop_mtp();
    check_tensors();
    family_ = hf_family_of(model_, info_.path, info_.state.value("huggingface", json::object()).value("model_type", ""));
    layout_ = family_ == HfFamily::kGptOss ? HfLayout::kFused : hf.layout;  // it has no other
    pieces_ = hf_tensors(model_, family_, layout_);
    of_param_.resize(params_.size());
    for (std::size_t i = 0; i < pieces_.size(); ++i) of_param_[pieces_[i].param].push_back(i);
    share_out();
  }

  void run() {
    check_output();
    if (!common_.dry_run) write();
    tell();
  }

 private:
  bool has_role(const std::string& role) const {
    return std::any_of(info_.tensors.begin(), info_.tensors.end(), [&](const auto& t) { return t.role == role; });
  }

  // fp32 from a bf16 run: its masters, which are what the bf16 weights were rounded from.
  void choose_dtype() {
    if (hf_.dtype != "keep" && hf_.dtype != "fp32" && hf_.dtype != "bf16")
      throw Error(Exit::kUsage, "--dtype: expected keep, fp32 or bf16, found " + hf_.dtype);
    role_ = hf_.dtype == "fp32" && has_role("master") ? "master" : "weight";
    DType kept = DType::kF32;  // of the weights
    for (const auto& t : info_.tensors)
      if (t.role == role_) from_ = kept = t.dtype;
    choose_average();
    to_ = hf_.dtype == "keep" ? kept : hf_.dtype == "bf16" ? DType::kBF16 : DType::kF32;
    if (role_ == "master") notes_.push_back("the fp32 masters of a bf16 run were taken");
    if (from_ != to_ && to_ == DType::kBF16) notes_.push_back("weights were rounded to bf16 (nearest even)");
    if (from_ != to_ && to_ == DType::kF32) notes_.push_back("bf16 became fp32, which changes no value");
  }

  void choose_average() {
    if (hf_.weights != "model" && hf_.weights != "ema")
      throw Error(Exit::kUsage, "--weights: expected model or ema, found " + hf_.weights);
    if (hf_.weights == "model") return;
    if (!has_role("ema"))
      throw Error(Exit::kBadInput, info_.path + ": expected a moving average of the parameters (role ema), found none",
                  "moe-train --ema keeps one");
    role_ = "ema";
    from_ = DType::kF32;
    notes_.push_back("the moving average of the parameters was taken");
  }

  void drop_mtp() {
    num_layers_read_ = model_.num_blocks();
    if (!hf_.drop_mtp || model_.num_mtp_layers == 0) return;
    notes_.push_back("left out: " + std::to_string(model_.num_mtp_layers) + " modules of multi-token prediction");
    num_layers_read_ = model_.num_layers;
    model_.num_mtp_layers = 0;
  }
  bool is_dropped(const std::string& name) const { return ParamSpec{.name = name}.layer() >= num_layers_read_; }
  // What is taken of a checkpoint: weights in one role, and the router biases of the selection.
  bool is_taken(const std::string& name, const std::string& role) const {
    return (role == role_ || role == "bias") && !is_dropped(name);
  }

  // The checkpoint has exactly the parameters of its model, in the role that is taken.
  void check_tensors() {
    params_ = hf_params(model_);
    const auto label = [](const std::string& name, bool bias) { return bias ? name + " (role bias)" : name; };
    std::vector<HfFound> found;
    std::string left_out;
    for (const auto& t : info_.tensors) {
      if (is_taken(t.name, t.role))
        found.push_back({label(t.name, t.role == "bias"), t.shape});
      else if (!is_dropped(t.name) && left_out.find(t.role) == std::string::npos)
        left_out += (left_out.empty() ? "" : ", ") + t.role;
    }
    std::vector<HfTensor> expected;
    for (const HfParam& p : params_) expected.push_back({label(p.name, p.role == "bias"), p.shape, 0, {}});
    check_hf_tensors(expected, found, info_.path);
    if (!left_out.empty()) notes_.push_back("left out: " + left_out);
  }

  DType from(std::size_t param) const { return params_[param].role == "bias" ? DType::kF32 : from_; }
  DType to(std::size_t param) const { return params_[param].role == "bias" ? DType::kF32 : to_; }

  // Files of at most file_bytes, in the order of the model; a tensor that is larger has one to itself. Several pieces may
  // be parts of one tensor.
  void share_out() {
    if (hf_.file_bytes < 1)
      throw Error(Exit::kUsage, "--file-bytes: expected at least 1, found " + std::to_string(hf_.file_bytes));
    std::int64_t left = 0;
    for (const HfTensor& piece : pieces_) {
      if (target_of_.contains(piece.name)) continue;
      const DType dtype = to(piece.param);
      const std::int64_t bytes = elements_of(piece.shape) * static_cast<std::int64_t>(size_of(dtype));
      if (files_.empty() || bytes > left) files_.emplace_back(), left = hf_.file_bytes;
      target_of_[piece.name] = {files_.size() - 1, files_.back().size()};
      files_.back().push_back({piece.name, dtype == DType::kF32 ? SafeType::kF32 : SafeType::kBF16, piece.shape});
      left -= bytes;
      total_bytes_ += bytes;
    }
    if (files_.size() > kMostFiles)
      throw Error(Exit::kUsage, "--file-bytes: expected at most 500 files, found " + std::to_string(files_.size()),
                  "larger files make fewer");
  }

  // --force replaces an earlier export, never a directory with anything else in it.
  void check_output() const {
    if (!path_exists(hf_.output)) return;
    if (!common_.force)
      throw Error(Exit::kCannotCreate, hf_.output + ": expected no such directory, found one", "--force replaces an export");
    bool is_export = is_directory(hf_.output);
    if (is_export)
      for (const std::string& name : list_directory(hf_.output))
        is_export = is_export && (name.ends_with(".safetensors") || name.ends_with(".json"));
    if (!is_export)
      throw Error(Exit::kCannotCreate, hf_.output + ": expected an export to replace, found other files",
                  "remove it by hand, or choose another -o");
  }

  void write() {
    const std::string parent = parent_directory(hf_.output);
    make_directories(parent);
    remove_leftovers(parent);
    require_free_space(parent, total_bytes_);
    const std::string temporary = parent + "/.tmp-" + base_name(hf_.output) + "-" + unique_suffix();
    try {
      make_directories(temporary);
      write_files(temporary);
      write_texts(temporary);
      check_written(temporary);
      sync_directory(temporary);
      publish(temporary);
    } catch (...) {
      remove_tree(temporary);
      throw;
    }
    sync_directory(parent);
  }

  void publish(const std::string& temporary) const {
    if (!path_exists(hf_.output)) return rename_path(temporary, hf_.output);
    if (!exchange_paths(temporary, hf_.output)) {
      remove_tree(hf_.output);
      return rename_path(temporary, hf_.output);
    }
    remove_tree(temporary);
  }

  void write_files(const std::string& directory) {
    for (std::size_t i = 0; i < files_.size(); ++i)
      writers_.emplace_back(directory + "/" + safetensors_file_name(i, files_.size()), files_[i],
                            std::map<std::string, std::string>{{"format", "pt"}});
    ProgressBar bar("export");
    for (std::size_t i = 0; i < manifest_.files.size(); ++i) {
      const H5Reader shard = open_shard(manifest_, i, info_.path);
      for (const ManifestTensor& t : manifest_.tensors)
        for (const ManifestSlice& s : t.slices)
          if (s.file == i && is_taken(t.name, t.role)) copy_slice(shard, t, s);
      bar.show(static_cast<double>(i + 1) / static_cast<double>(manifest_.files.size()), hf_.output);
    }
    for (SafetensorsWriter& w : writers_) w.finish();
    writers_.clear();
  }

  std::size_t param_of(const ManifestTensor& t) const {
    const auto param = std::find_if(params_.begin(), params_.end(), [&](const HfParam& p) {
      return p.name == t.name && (p.role == "bias") == (t.role == "bias");
    });
    return static_cast<std::size_t>(param - params_.begin());
  }

  void copy_slice(const H5Reader& shard, const ManifestTensor& t, const ManifestSlice& s) {
    const std::size_t param = param_of(t);
    const std::int64_t row = elements_of(s.box.extent) / s.box.extent[0] * static_cast<std::int64_t>(size_of(from(param)));
    if (4 * row > hf_.memory_bytes && row > memory_.block_bytes)
      throw Error(Exit::kUsage, "--memory: expected at least " + bytes_text(4.0 * static_cast<double>(row)) +
                                    " for tensor " + t.name + ", found " +
                                    bytes_text(static_cast<double>(hf_.memory_bytes)));
    const std::string path = info_.path + "/" + manifest_.files[s.file].name;
    read_slice_in_blocks(shard, t, s, path, memory_.block_bytes, [&](const Box& block, const std::byte* elements) {
      for (const std::size_t i : of_param_[param])
        if (boxes_meet(pieces_[i].box, block)) copy_block(pieces_[i], block, elements);
    });
  }

  void copy_block(const HfTensor& piece, const Box& block, const std::byte* elements) {
    const Box common = intersection(piece.box, block);
    const std::int64_t count = elements_of(common.extent);
    const DType in = from(piece.param), out = to(piece.param);
    raw_.resize(static_cast<std::size_t>(count) * size_of(in));
    copy_common(elements, block, raw_.data(), common, size_of(in));
    converted_.resize(static_cast<std::size_t>(count) * size_of(out));
    convert_elements(in == DType::kF32 ? SafeType::kF32 : SafeType::kBF16, raw_.data(), count, out, converted_.data());
    const auto [file, index] = target_of_.at(piece.name);
    SafetensorsWriter& writer = *std::next(writers_.begin(), static_cast<std::ptrdiff_t>(file));
    for_each_hf_run(piece, common, [&](const HfRun& r) { write_run(writer, index, r, size_of(out)); });
  }

  void write_run(SafetensorsWriter& writer, std::size_t index, const HfRun& r, std::size_t width) {
    const std::byte* const at = converted_.data() + static_cast<std::size_t>(r.at) * width;
    if (r.at_step == 1) return writer.write(index, r.first, r.step, r.count, at);
    run_.resize(static_cast<std::size_t>(r.count) * width);
    for (std::int64_t i = 0; i < r.count; ++i)
      std::memcpy(run_.data() + static_cast<std::size_t>(i) * width, at + static_cast<std::size_t>(i * r.at_step) * width,
                  width);
    writer.write(index, r.first, r.step, r.count, run_.data());
  }

  void write_texts(const std::string& directory) const {
    const json carried = info_.state.value("huggingface", json::object()).value("carried", json::object());
    const json config = hf_config_json(model_, family_, to_ == DType::kF32 ? "float32" : "bfloat16", carried);
    write_text_file(directory + "/config.json", config.dump(2) + "\n");
    if (files_.size() == 1) return;
    std::map<std::string, std::string> file_of_tensor;
    for (const auto& [name, target] : target_of_) file_of_tensor[name] = safetensors_file_name(target.file, files_.size());
    write_text_file(directory + "/" + kSafetensorsIndexName, safetensors_index_text(file_of_tensor, total_bytes_));
  }

  // What was written is what an import would take.
  void check_written(const std::string& directory) const {
    const SafetensorsDirectory there(directory);
    std::vector<HfFound> found;
    for (const auto& [name, entry] : there.tensors()) found.push_back({name, entry.tensor->shape});
    check_hf_tensors(pieces_, found, directory);
    const std::string path = directory + "/config.json";
    parse_hf_config(parse_strict_json(read_text_file(path, 1 << 24), path), path);
  }

  void tell() const {
    const std::string how = layout_ == HfLayout::kFused ? "fused" : "per-expert";
    const json result = {{"input", info_.path},
                         {"output", hf_.output},
                         {"model_type", name_of(family_)},
                         {"experts_on_disk", how},
                         {"tensors_read", params_.size()},
                         {"tensors_written", target_of_.size()},
                         {"dtype", name_of(to_)},
                         {"bytes", total_bytes_},
                         {"files", files_.size()},
                         {"digest", info_.digest},
                         {"notes", notes_}};
    std::string text = std::string(common_.dry_run ? "would export " : "exported ") + info_.path + ": " + name_of(family_) +
                       ", " + std::to_string(target_of_.size()) + " tensors (" + how + ")\n";
    for (const std::string& line : notes_) text += "  note     " + line + "\n";
    text += "  " + std::string(common_.dry_run ? "as       " : "wrote    ") + hf_.output + ": " + name_of(to_) + ", " +
            bytes_text(static_cast<double>(total_bytes_)) + " in " + std::to_string(files_.size()) +
            (files_.size() == 1 ? " file" : " files") + "; tokenizer files are not made\n";
    print_result(common_, result, text);
  }

  const HfOptions& hf_;
  const CommonOptions& common_;
  HfMemory memory_;
  CheckpointInfo info_;
  Manifest manifest_;
  ModelConfig model_;
  HfFamily family_ = HfFamily::kMixtral;
  HfLayout layout_ = HfLayout::kPerExpert;
  int num_layers_read_ = 0;  // blocks that are not dropped
  std::string role_ = "weight";
  DType from_ = DType::kF32, to_ = DType::kF32;
  std::vector<HfParam> params_;
  std::vector<HfTensor> pieces_;
  std::vector<std::vector<std::size_t>> of_param_;  // pieces of each parameter
  std::map<std::string, Target> target_of_;         // by name
  std::vector<std::vector<SafeTensor>> files_;
  std::list<SafetensorsWriter> writers_;
  std::vector<std::string> notes_;
  std::vector<std::byte> raw_, converted_, run_;
  std::int64_t total_bytes_ = 0;
};

}  // namespace

Exit export_hf(const HfOptions& hf, const CommonOptions& common, const Invocation&) {
  if (hf.output.empty()) throw Error(Exit::kUsage, "export: expected --output, found none");
  Export(hf, common).run();
  return Exit::kOk;
}

}  // namespace moe
