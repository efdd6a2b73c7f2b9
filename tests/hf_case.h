// What tests of Hugging Face checkpoints share: golden directories, import and export, spoilt copies. Not here: judgements.
#pragma once

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "lib/io/safetensors_directory.h"
#include "lib/model/model.h"
#include "lib/run/hf_checkpoint.h"
#include "lib/run/hf_names.h"
#include "lib/run/hf_stream.h"
#include "lib/run/train_state.h"
#include "tests/checkpoint_case.h"

namespace moe {

using Bytes = std::vector<std::byte>;

inline const std::string kGolden = std::string(MOE_SOURCE_DIR) + "/tests/golden/hf/";
constexpr double kLogitTolerance = 1e-4;  // of the largest

inline Bytes bytes_of(const SafetensorsFile& file, const SafeTensor& t) {
  Bytes out(static_cast<std::size_t>(t.bytes()));
  file.read(t, 0, t.bytes() / static_cast<std::int64_t>(size_of(t.type)), out.data());
  return out;
}

// The elements of a tensor as they are stored; none if it is not there.
template <class T>
std::vector<T> values_in(const SafetensorsFile& file, const std::string& name) {
  std::vector<T> values;
  for (const SafeTensor& t : file.tensors()) {
    if (t.name != name) continue;
    const Bytes raw = bytes_of(file, t);
    values.resize(raw.size() / sizeof(T));
    std::memcpy(values.data(), raw.data(), raw.size());
  }
  return values;
}

// name -> (dtype and shape, bytes)
inline std::map<std::string, std::pair<std::string, Bytes>> tensors_of(const std::string& directory) {
  std::map<std::string, std::pair<std::string, Bytes>> all;
  const SafetensorsDirectory d(directory);
  for (const auto& [name, e] : d.tensors())
    all[name] = {std::string(name_of(e.tensor->type)) + " " + joined(e.tensor->shape), bytes_of(*e.file, *e.tensor)};
  return all;
}

// The same without quantisation, as the golden files say them.
inline std::map<std::string, std::pair<std::string, Bytes>> values_of(const std::string& directory) {
  if (!fs::exists(directory + ".values.safetensors")) return tensors_of(directory);
  std::map<std::string, std::pair<std::string, Bytes>> all;
  const SafetensorsFile file(directory + ".values.safetensors");
  for (const SafeTensor& t : file.tensors())
    all[t.name] = {std::string(name_of(t.type)) + " " + joined(t.shape), bytes_of(file, t)};
  return all;
}

class HfTest : public CheckpointTest {
 protected:
  void import(const std::string& from, const std::string& to, const std::string& dtype = "keep",
              std::int64_t memory = 1 << 20) {
    ASSERT_EQ(import_hf({.input = from, .output = to, .memory_bytes = memory, .dtype = dtype}, quiet(), invocation_),
              Exit::kOk);
  }
  void give_back(const std::string& from, const std::string& to, HfLayout layout, std::int64_t file_bytes = 1 << 30,
                 const std::string& dtype = "keep", std::int64_t memory = 1 << 20) {
    const HfOptions hf{
        .input = from, .output = to, .memory_bytes = memory, .dtype = dtype, .layout = layout, .file_bytes = file_bytes};
    ASSERT_EQ(export_hf(hf, quiet(), invocation_), Exit::kOk);
  }
  std::string refused(const std::string& from, Exit expected = Exit::kBadInput, const std::string& dtype = "keep") {
    std::string message;
    const HfOptions hf{.input = from, .output = dir_ + "/refused", .memory_bytes = 1 << 20, .dtype = dtype};
    EXPECT_EQ(code_of([&] { import_hf(hf, quiet(), invocation_); }, message), expected);
    EXPECT_FALSE(fs::exists(dir_ + "/refused/latest"));
    if (fs::exists(dir_ + "/refused")) {
      EXPECT_TRUE(names_in(dir_ + "/refused").empty());
    }
    return message;
  }
  // A copy of a golden directory that a test may spoil.
  std::string copy(const std::string& name) {
    fs::remove_all(dir_ + "/copy");
    fs::copy(kGolden + name, dir_ + "/copy", fs::copy_options::recursive);
    return dir_ + "/copy";
  }
  CommonOptions quiet() const { return {.json = dir_ + "/result.json"}; }

  Options options_{"moe-reshard", "", {}};
  Invocation invocation_{options_, {"moe-reshard", "import"}};
};

// Rewrites the one file of a directory with other names; "" leaves a tensor out.
inline void rename_tensors(const std::string& directory, const std::function<std::string(const std::string&)>& rename) {
  const std::string path = directory + "/model.safetensors";
  std::vector<SafeTensor> list;
  std::vector<Bytes> data;
  {
    const SafetensorsFile file(path);
    for (const SafeTensor& t : file.tensors())
      if (const std::string name = rename(t.name); !name.empty()) {
        list.push_back(t), data.push_back(bytes_of(file, t));
        list.back().name = name;
      }
  }
  fs::remove(path);
  SafetensorsWriter w(path, list, {});
  for (std::size_t i = 0; i < list.size(); ++i) w.write(i, 0, elements_of(list[i].shape), data[i].data());
  w.finish();
}

}  // namespace moe
