// ls and digest: one line per checkpoint, from manifests and sizes of files alone.
#include "lib/base/byte_size.h"
#include "lib/io/files.h"
#include "lib/io/run_dir.h"
#include "lib/run/inspect.h"
#include "lib/run/inspect_parts.h"
#include "lib/run/result.h"
#include "lib/run/target_layout.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

using nlohmann::json;

struct Row {
  std::string path, fault;
  bool is_latest = false;
  Manifest manifest;
};

Row look_at(const std::string& path, bool is_latest) {
  Row row{path, "", is_latest, {}};
  try {
    row.manifest = read_manifest(path);
    check_files(row.manifest, path);
  } catch (const Error& e) {
    row.fault = e.what();
    if (row.fault.starts_with(path + "/")) row.fault.erase(0, path.size() + 1);
    if (row.fault.starts_with(path + ": ")) row.fault.erase(0, path.size() + 2);
  }
  return row;
}

std::vector<Row> rows_of(const std::string& path) {
  if (is_checkpoint(path)) return {look_at(path, false)};
  std::vector<Row> rows;
  const std::string latest = latest_name(path);
  std::vector<std::int64_t> steps = listed_steps(path);
  for (auto step = steps.rbegin(); step != steps.rend(); ++step)
    rows.push_back(look_at(path + "/" + step_name(*step), step_name(*step) == latest));
  return rows;
}

json json_of(const Row& r) {
  json object = {{"path", r.path}, {"complete", r.fault.empty()}, {"latest", r.is_latest}};
  if (!r.fault.empty()) object["fault"] = r.fault;
  if (r.manifest.digest.empty()) return object;
  object.update({{"step", r.manifest.step},
                 {"utc", text_at(last_entry(r.manifest), "utc")},
                 {"tensors", r.manifest.tensors.size()},
                 {"bytes", bytes_of(r.manifest)},
                 {"files", r.manifest.files.size()},
                 {"layout", layout_text(r.manifest)},
                 {"digest", r.manifest.digest}});
  return object;
}

std::string mesh_text(const Manifest& m) {
  const auto mesh = mesh_of(m);
  return mesh ? "shard " + std::to_string(mesh->shard) + " x ep " + std::to_string(mesh->ep) : "of no mesh";
}

void add_row(TextTable& table, const Row& r, const std::string& name) {
  const Manifest& m = r.manifest;
  const std::string state = r.fault.empty() ? (r.is_latest ? "complete, latest" : "complete") : "BROKEN";
  if (m.digest.empty()) return table.add({name, "", "", "", "", "", state});
  table.add({name, text_at(last_entry(m), "utc"), thousands(static_cast<std::int64_t>(m.tensors.size())),
             bytes_text(static_cast<double>(bytes_of(m))), std::to_string(m.files.size()), mesh_text(m), state});
}

// The table of one path: its checkpoints, what is wrong with them, what killed saves left.
std::string text_of(const std::string& path, const std::vector<Row>& rows, const std::vector<std::string>& left) {
  TextTable table({"checkpoint", "when (UTC)", ">tensors", ">bytes", ">files", "layout", "state"});
  std::string faults;
  for (const Row& r : rows) {
    const std::string name = rows.size() == 1 && r.path == path ? path : base_name(r.path);
    add_row(table, r, name);
    if (!r.fault.empty()) faults += labelled(base_name(r.path) + ":", r.fault);
  }
  std::string text = is_checkpoint(path) ? "" : path + "\n";
  text += rows.empty() ? "  no checkpoint\n" : table.text();
  for (const std::string& name : left) faults += labelled("left over:", name + " (of a save that was killed)");
  return text + faults;
}

}  // namespace

Exit list_checkpoints(const std::vector<std::string>& paths, const CommonOptions& common) {
  json all = json::array();
  std::string text;
  for (const std::string& path : paths) {
    const std::vector<Row> rows = rows_of(path);
    const std::vector<std::string> left = is_checkpoint(path) ? std::vector<std::string>{} : leftovers(path);
    json list = json::array();
    for (const Row& r : rows) list.push_back(json_of(r));
    all.push_back({{"path", path}, {"checkpoints", list}, {"leftovers", left}});
    text += (text.empty() ? "" : "\n") + text_of(path, rows, left);
  }
  print_result(common, {{"kind", "moe-reshard ls"}, {"directories", all}}, text);
  return Exit::kOk;
}

Exit digest_checkpoints(const std::vector<std::string>& paths, const CommonOptions& common) {
  json all = json::array();
  std::string text;
  for (const std::string& path : paths) {
    const Opened o = open_manifest(path);
    check_files(o.manifest, o.path);
    all.push_back({{"path", o.path}, {"digest", o.manifest.digest}});
    text += o.manifest.digest + "  " + o.path + "\n";
  }
  print_result(common, {{"kind", "moe-reshard digest"}, {"checkpoints", all}}, text);
  return Exit::kOk;
}

}  // namespace moe
