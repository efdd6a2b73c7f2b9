#include "lib/run/place_show.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "lib/base/log.h"
#include "lib/io/files.h"
#include "lib/io/h5.h"
#include "lib/run/result.h"

namespace moe {
namespace {

void topology_of_plan(ShowSubject& s, const PlaceInputs& inputs) {
  s.topology.rank2node = s.plan.rank2node;
  if (inputs.topology.empty()) return;
  s.topology = parse_topology(inputs.topology);
  if (s.topology.num_ranks() != s.plan.placement.num_ranks())
    throw Error(Exit::kUsage, "--topology: expected the " + std::to_string(s.plan.placement.num_ranks()) + " ranks of " +
                                  s.path + ", found " + std::to_string(s.topology.num_ranks()));
}

ShowSubject read_subject(const std::string& path, const PlaceInputs& inputs, std::int64_t expert_bytes) {
  ShowSubject s{.path = path, .choice = inputs.replica_choice, .expert_bytes = expert_bytes};
  const bool has_loads = !inputs.routing.empty() || !inputs.loads.empty();
  if (h5_kind(path) == "moe-plan") {
    s.kind = "plan";
    s.plan = read_plan_file(path);
    topology_of_plan(s, inputs);
    if (!has_loads) return s;
    s.loads = read_loads(inputs);
    need_same_model(s.plan.placement, path, s.loads);
    return s;
  }
  if (has_loads)
    throw Error(Exit::kUsage, path + ": expected a plan beside --routing or --loads, found loads",
                "show PLAN --routing " + path);
  s.kind = "routing";
  s.loads = read_loads(path);
  if (!inputs.topology.empty()) s.topology = parse_topology(inputs.topology);
  return s;
}

std::size_t place_of_layer(const ShowFigures& f, int layer, const std::string& path) {
  const auto at = std::find(f.layers.begin(), f.layers.end(), layer);
  if (at != f.layers.end()) return static_cast<std::size_t>(at - f.layers.begin());
  throw Error(Exit::kUsage, "--layer: expected a layer of " + path + " with experts (" + std::to_string(f.layers.front()) +
                                " to " + std::to_string(f.layers.back()) + "), found " + std::to_string(layer));
}

// A terminal shows colours unless told not to; --color alone forces them, for `| less -R`.
bool wants_color(const CommonOptions& common, const Invocation& invocation) {
  if (!common.color) return false;
  if (invocation.options.is_set("color")) return true;
  return isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr;
}

// Both are checked before either is written.
void write_pictures(const ShowSubject& s, const ShowFigures& f, const PlaceShowOptions& show, const CommonOptions& common) {
  for (const std::string& path : {show.svg, show.html})
    if (!path.empty() && !common.force && path_exists(path))
      throw Error(Exit::kCannotCreate, path + ": expected no such file, found one", "--force replaces it");
  if (common.dry_run) return;
  const auto write = [](const std::string& path, const std::string& text) {
    if (path.empty()) return;
    replace_text_file(path, text);
    log_info("wrote " + path);
  };
  if (!show.svg.empty()) write(show.svg, draw_place_svg(show_picture(s, f)));
  if (!show.html.empty()) write(show.html, show_html(s, f));
}

}  // namespace

void add_place_show_options(Options& o, PlaceShowOptions& show) {
  o.group("show");
  o.add("svg", show.svg, "write a heat map of the load, layer x rank, as a picture").value = "FILE";
  o.add("html", show.html, "write the picture and all tables as one web page, with a title on every cell").value = "FILE";
  o.add("layer", show.layer, "show one layer: every rank with its experts and loads; -1 shows all");
}

Exit place_show(const std::string& path, const PlaceInputs& inputs, const PlaceShowOptions& show,
                const CommonOptions& common, const Invocation& invocation) {
  const ShowSubject subject = read_subject(path, inputs, show.expert_bytes);
  const ShowFigures figures = show_figures(subject);
  const bool color = wants_color(common, invocation);
  const std::string text = show.layer < 0 ? show_text(subject, figures, color, common.verbose)
                                          : show_layer_text(subject, figures, place_of_layer(figures, show.layer, path));
  write_pictures(subject, figures, show, common);
  print_result(common, show_json(subject, figures), text);
  return Exit::kOk;
}

}  // namespace moe
