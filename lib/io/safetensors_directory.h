// A model on disk as Hugging Face keeps it: model.safetensors, or several files and model.safetensors.index.json that says
// which tensor is in which. Not here: config.json (lib/run/hf_config.h).
#pragma once

#include <string>
#include <vector>

#include "lib/io/safetensors.h"

namespace moe {

inline constexpr const char* kSafetensorsName = "model.safetensors";
inline constexpr const char* kSafetensorsIndexName = "model.safetensors.index.json";

class SafetensorsDirectory {
 public:
  // Error 66 naming what is not there; 65 unless the index is a JSON object whose weight_map names plain file names and
  // exactly the tensors of these files, each in its file. A total_size that is not the size of all is warned of.
  explicit SafetensorsDirectory(const std::string& directory);

  struct Entry {
    const SafetensorsFile* file;
    const SafeTensor* tensor;
  };
  const std::map<std::string, Entry>& tensors() const { return tensors_; }  // by name
  const std::vector<SafetensorsFile>& files() const { return files_; }
  // Files beside them that end in .safetensors and are not part of the model; they are not read.
  const std::vector<std::string>& others() const { return others_; }

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Entry> tensors_;
  std::vector<std::string> others_;
};

// The text of an index: names of tensors with their files, and the bytes of all.
std::string safetensors_index_text(const std::map<std::string, std::string>& file_of_tensor, std::int64_t total_bytes);
// model-00002-of-00007.safetensors; model.safetensors if there is one file. `index` from 0.
std::string safetensors_file_name(std::size_t index, std::size_t count);

}  // namespace moe
