#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "lib/base/error.h"
#include "lib/io/box.h"
#include "lib/io/safetensors.h"

namespace moe {
namespace {

std::string quoted(const std::string& text) { return nlohmann::json(text).dump(); }

// Gives every tensor its place: wide types first, then by name, so that each lies at a multiple of its width.
std::int64_t place(std::vector<SafeTensor>& tensors) {
  std::vector<SafeTensor*> order;
  for (SafeTensor& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](const SafeTensor* a, const SafeTensor* b) {
    return a->type != b->type ? a->type > b->type : a->name < b->name;
  });
  std::int64_t at = 0;
  for (SafeTensor* t : order) {
    t->begin_bytes = at;
    at += elements_of(t->shape) * static_cast<std::int64_t>(size_of(t->type));
    t->end_bytes = at;
  }
  return at;
}

// The header as the reference writes it: metadata first, tensors in the order of their data, spaces up to a multiple of 8.
std::string header_text(const std::vector<SafeTensor>& tensors, const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + nlohmann::json(metadata).dump();
  std::vector<const SafeTensor*> order;
  for (const SafeTensor& t : tensors) order.push_back(&t);
  std::stable_sort(order.begin(), order.end(), [](const SafeTensor* a, const SafeTensor* b) {
    return std::pair(a->begin_bytes, a->end_bytes) < std::pair(b->begin_bytes, b->end_bytes);
  });
  for (const SafeTensor* t : order)
    text += (text.size() > 1 ? "," : "") + quoted(t->name) + ":{\"dtype\":\"" + name_of(t->type) + "\",\"shape\":[" +
            joined(t->shape) + "],\"data_offsets\":[" + std::to_string(t->begin_bytes) + "," + std::to_string(t->end_bytes) +
            "]}";
  text += "}";
  return text + std::string((8 - text.size() % 8) % 8, ' ');
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<SafeTensor> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(File::create(path)), tensors_(std::move(tensors)), written_bytes_(tensors_.size(), 0) {
  data_bytes_ = place(tensors_);
  const std::string text = header_text(tensors_, metadata);
  parse_safetensors_header(text, data_bytes_, path);  // what no reader would take is not written
  const std::uint64_t length = text.size();
  file_.write_at(0, std::as_bytes(std::span(&length, 1)));
  file_.write_at(8, std::as_bytes(std::span(text)));
  data_begin_ = 8 + static_cast<std::int64_t>(text.size());
  file_.truncate(data_begin_ + data_bytes_);  // a hole until it is written
}

void SafetensorsWriter::write(std::size_t index, std::int64_t first, std::int64_t step, std::int64_t count,
                              const std::byte* data) {
  const SafeTensor& t = tensors_.at(index);
  const std::size_t width = size_of(t.type);
  const auto bytes = [&](std::int64_t elements) { return elements * static_cast<std::int64_t>(width); };
  const std::int64_t span = count == 0 ? 0 : (count - 1) * step + 1;
  if (first < 0 || count < 0 || step < 1 || first + span > t.bytes() / bytes(1))
    throw Error(Exit::kInternal, file_.path() + ": tensor " + t.name + ": given elements that it does not have");
  const std::int64_t at = data_begin_ + t.begin_bytes + bytes(first);
  written_bytes_[index] += bytes(count);
  if (step == 1) return file_.write_at(at, {data, static_cast<std::size_t>(bytes(count))});
  between_.resize(static_cast<std::size_t>(bytes(span)));
  file_.read_at(at, between_);
  for (std::int64_t i = 0; i < count; ++i) std::memcpy(between_.data() + bytes(i * step), data + bytes(i), width);
  file_.write_at(at, between_);
}

void SafetensorsWriter::finish() {
  for (std::size_t i = 0; i < tensors_.size(); ++i)
    if (written_bytes_[i] != tensors_[i].bytes())
      throw Error(Exit::kInternal, file_.path() + ": tensor " + tensors_[i].name + ": expected " +
                                       std::to_string(tensors_[i].bytes()) + " bytes, was given " +
                                       std::to_string(written_bytes_[i]));
  file_.sync();
  file_.close();
}

}  // namespace moe
