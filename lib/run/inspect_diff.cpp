// diff: two checkpoints side by side. Not here: the arithmetic (tensor_difference.h).
#include <algorithm>
#include <cmath>

#include "lib/run/inspect.h"
#include "lib/run/inspect_parts.h"
#include "lib/run/result.h"
#include "lib/run/tensor_difference.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

using nlohmann::json;
using Key = std::pair<std::string, std::string>;

// A tensor that both have and that is not the same in both.
struct Row {
  const ManifestTensor *a, *b;
  bool same_shape;
  TensorDifference difference;
};

struct Diff {
  std::vector<std::string> only_a, only_b;
  std::vector<Row> rows;
  std::int64_t num_same = 0;
  json state = json::array();  // {name, a, b}
};

// Members of the state that differ, but for the wall time of the run (no two runs have the same) and the layout, which says
// who wrote it, not what it holds.
json state_differences(const json& a, const json& b) {
  const json x = a.flatten(), y = b.flatten();
  std::map<std::string, std::pair<json, json>> values;
  for (const auto& [name, value] : x.items()) values[name].first = value;
  for (const auto& [name, value] : y.items()) values[name].second = value;
  json list = json::array();
  for (const auto& [name, both] : values)
    if (both.first != both.second && name != "/seconds" && !name.starts_with("/layout/")) {
      std::string dotted = name.substr(std::min<std::size_t>(name.size(), 1));
      std::replace(dotted.begin(), dotted.end(), '/', '.');
      list.push_back({{"name", dotted}, {"a", both.first}, {"b", both.second}});
    }
  return list;
}

std::map<Key, const ManifestTensor*> by_name(const Manifest& m) {
  std::map<Key, const ManifestTensor*> all;
  for (const ManifestTensor& t : m.tensors) all[{t.name, t.role}] = &t;
  return all;
}

// Tensors with the same digest are the same and are not read.
Diff compare(const Opened& a, const Opened& b, std::int64_t memory_bytes) {
  Diff diff;
  diff.state = state_differences(a.manifest.state, b.manifest.state);
  BoxReader reader_a(a.manifest, a.path), reader_b(b.manifest, b.path);
  const auto tensors_b = by_name(b.manifest);
  for (const ManifestTensor& t : a.manifest.tensors) {
    const auto other = tensors_b.find({t.name, t.role});
    if (other == tensors_b.end()) {
      diff.only_a.push_back(t.label());
      continue;
    }
    const ManifestTensor& u = *other->second;
    if (t.identity() == u.identity() && t.digest == u.digest) {
      ++diff.num_same;
      continue;
    }
    Row row{&t, &u, t.shape == u.shape, {}};
    if (row.same_shape) row.difference = difference_of(reader_a, t, reader_b, u, is_expert_tensor(t), memory_bytes);
    diff.rows.push_back(std::move(row));
  }
  const auto tensors_a = by_name(a.manifest);
  for (const auto& [key, t] : tensors_b)
    if (!tensors_a.contains(key)) diff.only_b.push_back(t->label());
  return diff;
}

bool is_same(const Diff& d) { return d.rows.empty() && d.only_a.empty() && d.only_b.empty() && d.state.empty(); }

std::string kind_text(const ManifestTensor& t) {
  std::string text = name_of(t.dtype);
  for (const std::int64_t n : t.shape) text += " " + std::to_string(n);
  return text;
}

json json_of(const Difference& d) {
  return {{"largest", d.largest},          {"norm", d.norm()},         {"norm_a", std::sqrt(d.sum_aa)},
          {"norm_b", std::sqrt(d.sum_bb)}, {"relative", d.relative()}, {"elements", d.num_elements},
          {"different", d.num_different}};
}

json json_of(const Row& r) {
  json object = {{"name", r.a->name}, {"role", r.a->role}, {"a", kind_text(*r.a)}, {"b", kind_text(*r.b)}};
  if (!r.same_shape) return object;
  object.update(json_of(r.difference.all));
  for (const Difference& e : r.difference.experts) object["experts"].push_back(json_of(e));
  return object;
}

std::vector<std::string> figures(const Difference& d) {
  return {short_float(d.largest), short_float(d.norm()), short_float(std::sqrt(d.sum_aa)), short_float(std::sqrt(d.sum_bb)),
          short_float(d.relative())};
}

// "8 of 8, most 5": how many experts differ, and the one whose relative difference is the largest.
std::string experts_text(const std::vector<Difference>& experts) {
  if (experts.empty()) return "";
  const auto differs = [](const Difference& d) { return d.num_different > 0; };
  const auto worst = std::max_element(experts.begin(), experts.end(),
                                      [](const Difference& x, const Difference& y) { return x.relative() < y.relative(); });
  return std::to_string(std::count_if(experts.begin(), experts.end(), differs)) + " of " + std::to_string(experts.size()) +
         ", most " + std::to_string(worst - experts.begin());
}

// Most names end in .weight: without it they fit the line.
std::string short_name(const std::string& name) {
  return name.ends_with(".weight") ? name.substr(0, name.size() - 7) : name;
}

std::string rows_text(const std::vector<Row>& rows, bool by_expert) {
  TextTable table({"tensor", "role", ">largest", ">|A-B|", ">|A|", ">|B|", ">relative", "experts"});
  std::string others;
  const auto add = [&](const std::string& name, const std::string& role, const Difference& d, const std::string& experts) {
    std::vector<std::string> cells = figures(d);
    cells.insert(cells.begin(), {name, role});
    cells.push_back(experts);
    table.add(std::move(cells));
  };
  for (const Row& r : rows) {
    const std::string kinds = kind_text(*r.a) + " in A, " + kind_text(*r.b) + " in B";
    if (!r.same_shape || r.a->dtype != r.b->dtype) others += labelled("kind", r.a->label() + ": " + kinds);
    if (!r.same_shape) continue;
    add(short_name(r.a->name), r.a->role, r.difference.all, experts_text(r.difference.experts));
    for (std::size_t e = 0; by_expert && e < r.difference.experts.size(); ++e)
      if (const Difference& d = r.difference.experts[e]; d.num_different > 0)
        add("  expert " + std::to_string(e), "", d, "");
  }
  return (table.empty() ? "" : table.text()) + others;
}

std::string text_of(const Opened& a, const Opened& b, const Diff& diff, bool verbose) {
  std::string text = "A " + a.path + "  " + a.manifest.digest + "\nB " + b.path + "  " + b.manifest.digest + "\n";
  TextTable state({"state", "A", "B"});
  const auto cell = [](const json& v) {
    return v.is_null()           ? "-"
           : v.is_number_float() ? short_float(v)
                                 : printable(v.is_string() ? v.get<std::string>() : v.dump());
  };
  for (const json& s : diff.state) state.add({printable(s["name"]), cell(s["a"]).substr(0, 32), cell(s["b"]).substr(0, 32)});
  if (!state.empty()) text += "\n" + state.text();
  if (!diff.rows.empty()) text += "\n" + rows_text(diff.rows, verbose);
  std::string rest;
  for (const std::string& label : diff.only_a) rest += labelled("only in A", label);
  for (const std::string& label : diff.only_b) rest += labelled("only in B", label);
  return text + "\n" + rest + (is_same(diff) ? "The same: " : "They differ; the same: ") + thousands(diff.num_same) +
         " tensors of " + thousands(static_cast<std::int64_t>(a.manifest.tensors.size())) + " in A and " +
         thousands(static_cast<std::int64_t>(b.manifest.tensors.size())) + " in B\n";
}

}  // namespace

Exit diff_checkpoints(const std::vector<std::string>& paths, const CommonOptions& common, std::int64_t memory_bytes) {
  const Opened a = open_manifest(paths.at(0)), b = open_manifest(paths.at(1));
  check_files(a.manifest, a.path);
  check_files(b.manifest, b.path);
  const Diff diff = compare(a, b, memory_bytes);
  json tensors = json::array();
  for (const Row& r : diff.rows) tensors.push_back(json_of(r));
  print_result(common,
               {{"kind", "moe-reshard diff"},
                {"a", {{"path", a.path}, {"digest", a.manifest.digest}}},
                {"b", {{"path", b.path}, {"digest", b.manifest.digest}}},
                {"same", is_same(diff)},
                {"same_tensors", diff.num_same},
                {"only_a", diff.only_a},
                {"only_b", diff.only_b},
                {"state", diff.state},
                {"tensors", tensors}},
               text_of(a, b, diff, common.verbose));
  return is_same(diff) ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
