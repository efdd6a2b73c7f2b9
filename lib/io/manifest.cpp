#include "lib/io/manifest.h"

#include <algorithm>
#include <set>

#include "lib/base/error.h"
#include "lib/base/utf8.h"
#include "lib/io/digest.h"
#include "lib/io/files.h"

namespace moe {
namespace {

using nlohmann::json;

// The digest is taken with its own 32 digits as zeros; it stands first, so its place is known.
constexpr std::string_view kHead = "{\n \"manifest_digest\": \"";
constexpr std::size_t kDigits = 32;
constexpr std::int64_t kLimitBytes = std::int64_t{1} << 28;

[[noreturn]] void refuse(const std::string& path, const std::string& what, const std::string& hint = "") {
  throw Error(Exit::kBadInput, path + ": " + what, hint);
}

std::string zeroed(std::string text) { return text.replace(kHead.size(), kDigits, kDigits, '0'); }

// Typed access to a JSON object that names what is missing or wrong.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) refuse(where_, "expected a JSON object");
  }
  const json& at(const char* key) const {
    const auto it = object_.find(key);
    if (it == object_.end()) refuse(where_, std::string("expected the key '") + key + "', found none");
    return *it;
  }
  std::string text(const char* key) const {
    const json& v = at(key);
    if (!v.is_string()) refuse(where_, std::string("key ") + key + ": expected a text");
    return v.get<std::string>();
  }
  std::string digest(const char* key) const {
    const std::string v = text(key);
    if (v.size() != kDigits || v.find_first_not_of("0123456789abcdef") != std::string::npos)
      refuse(where_, std::string("key ") + key + ": expected 32 hexadecimal digits, found '" + v.substr(0, 80) + "'");
    return v;
  }
  std::int64_t count(const char* key) const { return count(at(key), key); }
  std::vector<std::int64_t> counts(const char* key) const {
    if (array(key).size() > 8) refuse(where_, std::string("key ") + key + ": expected at most 8 dimensions");
    std::vector<std::int64_t> values;
    for (const json& v : array(key)) values.push_back(count(v, key));
    return values;
  }
  const json& array(const char* key) const {
    if (!at(key).is_array()) refuse(where_, std::string("key ") + key + ": expected a list");
    return at(key);
  }
  // A plain name: printable, no '/', not hidden.
  std::string name(const char* key, std::size_t limit = 512) const {
    const std::string v = text(key);
    const auto bad = [](char c) { return c <= ' ' || c > '~' || c == '/'; };
    if (v.empty() || v.size() > limit || v[0] == '.' || std::any_of(v.begin(), v.end(), bad))
      refuse(where_, std::string("key ") + key + ": expected a plain name, found '" + v.substr(0, 80) + "'");
    return v;
  }

 private:
  std::int64_t count(const json& v, const char* key) const {
    if (!v.is_number_integer() || v < 0 || v > (std::int64_t{1} << 48))
      refuse(where_, std::string("key ") + key + ": expected a whole number from 0 to 2^48");
    return v.get<std::int64_t>();
  }
  const json& object_;
  std::string where_;
};

ManifestSlice parse_slice(const json& object, std::size_t num_files, const ManifestTensor& t, const std::string& where) {
  const Fields f(object, where);
  ManifestSlice s{static_cast<std::size_t>(f.count("file")),
                  f.name("dataset", 600),
                  {f.counts("offset"), f.counts("extent")},
                  f.digest("digest")};
  if (s.file >= num_files) refuse(where, "slice of file " + std::to_string(s.file) + ": no such file in the list");
  if (s.box.offset.size() != t.shape.size() || s.box.extent.size() != t.shape.size())
    refuse(where, "a slice has another rank than its tensor");
  return s;
}

}  // namespace

ManifestTensor parse_tensor(const json& object, std::size_t num_files, const std::string& path) {
  const Fields f(object, path);
  ManifestTensor t{f.name("name"), f.name("role"), DType::kF32, f.counts("shape"), f.digest("digest"), {}};
  const std::string where = path + ": tensor " + t.label();
  const std::string dtype = f.text("dtype");
  if (dtype != "fp32" && dtype != "bf16") refuse(where, "expected dtype fp32 or bf16, found '" + dtype + "'");
  t.dtype = dtype == "fp32" ? DType::kF32 : DType::kBF16;
  for (const json& s : f.array("slices")) t.slices.push_back(parse_slice(s, num_files, t, where));
  return t;
}

json tensor_json(const ManifestTensor& t) {
  json slices = json::array();
  for (const ManifestSlice& s : t.slices)
    slices.push_back({{"file", s.file},
                      {"dataset", s.dataset},
                      {"offset", s.box.offset},
                      {"extent", s.box.extent},
                      {"digest", s.digest}});
  return {{"name", t.name},   {"role", t.role},     {"dtype", name_of(t.dtype)},
          {"shape", t.shape}, {"digest", t.digest}, {"slices", slices}};
}

std::string ManifestTensor::coverage_fault() const {
  std::vector<Box> boxes;
  boxes.reserve(slices.size());
  for (const ManifestSlice& s : slices) boxes.push_back(s.box);
  return moe::coverage_fault(shape, boxes);
}

std::string ManifestTensor::identity() const { return name + "\n" + role + "\n" + name_of(dtype) + "\n" + joined(shape); }

std::string Manifest::digest_of_tensors() const {
  Xxh3 all;
  for (const ManifestTensor& t : tensors) {
    const std::string line = t.identity() + "\n" + t.digest + "\n";
    all.update(std::as_bytes(std::span(line)));
  }
  return all.digest().hex();
}

std::string manifest_text(const Manifest& m) {
  json files = json::array(), tensors = json::array();
  for (const ManifestFile& f : m.files) files.push_back({{"name", f.name}, {"bytes", f.bytes}, {"digest", f.digest}});
  for (const ManifestTensor& t : m.tensors) tensors.push_back(tensor_json(t));
  const json body = {{"kind", "moe-checkpoint"},
                     {"format_version", kCheckpointVersion},
                     {"step", m.step},
                     {"nonce", m.nonce},
                     {"digest", m.digest},
                     {"files", files},
                     {"tensors", tensors},
                     {"state", m.state},
                     {"provenance", m.provenance}};
  std::string text = std::string(kHead) + std::string(kDigits, '0') + "\",\n" + body.dump(1).substr(2) + "\n";
  return text.replace(kHead.size(), kDigits, xxh3(text).hex());
}

namespace {

std::vector<ManifestFile> parse_files(const json& list, const std::string& path) {
  std::vector<ManifestFile> files;
  std::set<std::string> seen;
  for (const json& file : list) {
    const Fields f(file, path);
    files.push_back({f.name("name"), f.count("bytes"), f.digest("digest")});
    if (!seen.insert(files.back().name).second) refuse(path, "file " + files.back().name + " is listed twice");
  }
  return files;
}

// Each tensor once and whole; all that are not are named.
void check_tensors(const Manifest& m, const std::string& path) {
  std::set<std::pair<std::string, std::string>> seen;
  std::string faults;
  const auto add = [&](const ManifestTensor& t, const std::string& fault) {
    faults += (faults.empty() ? "" : "; ") + ("tensor " + t.label() + ": ") + fault;
  };
  for (const ManifestTensor& t : m.tensors) {
    if (!seen.insert({t.name, t.role}).second) add(t, "is listed twice");
    if (const std::string fault = t.coverage_fault(); !fault.empty()) add(t, fault);
  }
  if (!faults.empty()) refuse(path, faults);
}

}  // namespace

Manifest parse_manifest(const std::string& text, const std::string& path) {
  if (!text.starts_with(kHead) || text.size() < kHead.size() + kDigits)
    refuse(path, "expected a manifest, found something else", "the file is foreign or damaged");
  if (const std::string want = text.substr(kHead.size(), kDigits), found = xxh3(zeroed(text)).hex(); want != found)
    refuse(path, "expected digest " + want + ", found " + found, "the manifest is damaged: use another checkpoint");
  const json j = parse_strict_json(text, path);
  const Fields f(j, path);
  if (f.text("kind") != "moe-checkpoint") refuse(path, "expected kind 'moe-checkpoint', found '" + f.text("kind") + "'");
  if (const std::int64_t v = f.count("format_version"); v != kCheckpointVersion)
    refuse(path, "expected format version " + std::to_string(kCheckpointVersion) + ", found " + std::to_string(v),
           "a newer version of the tools wrote it");

  Manifest m;
  m.step = f.count("step");
  m.nonce = f.name("nonce", 600);
  m.digest = f.digest("digest");
  m.state = f.at("state");
  m.provenance = f.at("provenance");
  m.files = parse_files(f.array("files"), path);
  for (const json& tensor : f.array("tensors")) m.tensors.push_back(parse_tensor(tensor, m.files.size(), path));
  check_tensors(m, path);
  if (const std::string found = m.digest_of_tensors(); found != m.digest)
    refuse(path, "expected digest of tensors " + m.digest + ", found " + found);
  return m;
}

Manifest read_manifest(const std::string& directory) {
  const std::string path = directory + "/" + kManifestName;
  if (!path_exists(path))
    throw Error(Exit::kNoInput, path + ": expected a manifest, found none",
                "not a checkpoint, or one whose saving did not end");
  return parse_manifest(read_text_file(path, kLimitBytes, Links::kRefuse), path);
}

void check_files(const Manifest& manifest, const std::string& directory) {
  std::string missing;
  for (const ManifestFile& f : manifest.files)
    if (!path_exists(directory + "/" + f.name)) missing += (missing.empty() ? "" : ", ") + f.name;
  if (!missing.empty())
    throw Error(Exit::kNoInput, directory + ": expected the files of its manifest, missing: " + missing,
                "use another checkpoint");
  for (const ManifestFile& f : manifest.files)
    if (const std::int64_t size = File::open(directory + "/" + f.name, Links::kRefuse).size(); size != f.bytes)
      refuse(directory + "/" + f.name, "expected " + std::to_string(f.bytes) + " bytes, found " + std::to_string(size),
             "the file is truncated or foreign");
}

namespace {

// "[json.exception.parse_error.101] parse error at line 1, column 32: syntax error ...": from the place on, that of a single
// line without its number, and without the bytes that are no text.
std::string fault_text(std::string what, const std::string& text) {
  const auto after = [&](std::string_view words) {
    if (const std::size_t at = what.find(words); at != std::string::npos) what.erase(0, at + words.size());
  };
  after("] ");
  after("parse error at ");
  if (text.find('\n') == std::string::npos) after("line 1, ");
  return mended_utf8(what);
}

}  // namespace

nlohmann::json parse_strict_json(const std::string& text, const std::string& path) {
  if (static_cast<std::int64_t>(text.size()) > kLimitBytes) refuse(path, "expected at most 256 MiB of JSON");
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > 64) refuse(path, "expected JSON at most 64 levels deep");
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
      refuse(path, "key '" + value.get<std::string>().substr(0, 80) + "' stands twice in one object");
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& e) {
    refuse(path, "expected JSON, found: " + fault_text(e.what(), text));
  }
}

}  // namespace moe
