// The tensors of a directory of Hugging Face as numbers: those that quantization_config makes of several are one here.
// FP8: NAME (F8_E4M3, [out, in]) and NAME_scale_inv (F32, or BF16), the scale of each block; value = element * scale.
// MXFP4: NAME_blocks (U8, [..., columns / 32, 16]) and NAME_scales (U8, [..., columns / 32]) are NAME [..., columns].
// Not here: which tensor is which of ours (hf_names.h), the codes (hf_dequantize.h).
#pragma once

#include "kernels/view.h"
#include "lib/io/safetensors_directory.h"
#include "lib/run/hf_config.h"
#include "lib/run/hf_names.h"

namespace moe {

class HfSource {
 public:
  using Entry = SafetensorsDirectory::Entry;
  struct Tensor {
    std::vector<std::int64_t> shape;
    Entry data;
    std::optional<Entry> scales = {};  // quantised
    bool is_packed = false;            // MXFP4
  };

  // Error(kBadInput) if a tensor that is to be quantised lacks its scales, or they have another shape or dtype.
  HfSource(const std::string& directory, const HfQuantization& quantization);

  const SafetensorsDirectory& directory() const { return directory_; }
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  std::vector<HfFound> found() const;
  bool has_packed() const;

  // = elements [first, first + count) of a tensor, row-major, rounded to nearest even where `to` is narrower.
  void read(const Tensor& tensor, std::int64_t first, std::int64_t count, DType to, std::byte* out);

  // Error(kBadInput) unless both have the same values; reads at most so many elements at once.
  void expect_same(const std::string& copy, const std::string& own, std::int64_t most);

 private:
  void add_fp8(const std::string& name, const Entry& scales);
  void add_packed(const std::string& name, const Entry& scales);
  void read_fp8(const Tensor& tensor, std::int64_t first, std::int64_t count);
  void read_packed(const Tensor& tensor, std::int64_t first, std::int64_t count);

  SafetensorsDirectory directory_;
  HfQuantization quantization_;
  std::map<std::string, Tensor> tensors_;  // by name
  std::vector<std::byte> raw_, raw_scales_;
  std::vector<float> scales_, values_;
};

}  // namespace moe
