// moe-place show as one web page: pictures and tables, no scripts, nothing loaded from elsewhere. Every text of a file is
// escaped. Not here: pictures (place_show_picture.cpp), the cells of the tables (place_show_tables.cpp).
#include "lib/run/place_show.h"
#include "lib/run/svg.h"

namespace moe {
namespace {

constexpr std::size_t kMostChars = 4000;  // of a cell

constexpr const char* kStyle =
    "body{font:14px/1.5 'DejaVu Sans',Verdana,Arial,sans-serif;color:#1f2328;background:#fff;max-width:1280px;"
    "margin:24px auto;padding:0 16px}"
    "h1{font-size:22px}h2{font-size:17px;margin-top:36px}svg{max-width:100%;height:auto}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}"
    "th{position:sticky;top:0;background:#f6f8fa;border-bottom:2px solid #8c959f}"
    "th,td{padding:3px 10px;text-align:left;vertical-align:top}td.n,th.n{text-align:right}"
    "tbody tr:nth-child(even){background:#f6f8fa}tbody tr:hover{background:#ddeaf7}"
    "dl{display:grid;grid-template-columns:max-content auto;gap:2px 20px}dt{color:#656d76}dd{margin:0}"
    ".cells rect:hover{stroke:#000;stroke-width:2px;vector-effect:non-scaling-stroke}"
    "summary{cursor:pointer;padding:3px 0}.scroll{overflow-x:auto}";

std::string safe(const std::string& text) { return svg_text(text, kMostChars); }

std::string cell_html(const char* tag, const std::string& text, bool is_number) {
  return std::string("<") + tag + (is_number ? " class=\"n\">" : ">") + safe(text) + "</" + tag + ">";
}

std::string table_html(const ShowTable& t) {
  std::string out = "<div class=\"scroll\"><table><thead><tr>";
  for (const std::string& heading : t.headings) {
    const bool number = heading.starts_with('>');
    out += cell_html("th", heading.substr(number), number);
  }
  out += "</tr></thead><tbody>\n";
  for (const auto& row : t.rows) {
    out += "<tr>";
    for (std::size_t c = 0; c < row.size(); ++c) out += cell_html("td", row[c], t.headings[c].starts_with('>'));
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string section_html(const ShowTable& t) {
  return t.rows.empty() ? "" : "<h2>" + safe(t.title) + "</h2>\n" + table_html(t);
}

std::string folded_html(const ShowTable& t) {
  return "<details><summary>" + safe(t.title) + "</summary>\n" + table_html(t) + "</details>\n";
}

// Without the declaration, which belongs to a file of its own.
std::string inline_svg(const PlacePicture& picture) {
  const std::string svg = draw_place_svg(picture);
  return "<div class=\"scroll\">" + svg.substr(svg.find("<svg")) + "</div>\n";
}

}  // namespace

std::string show_html(const ShowSubject& s, const ShowFigures& f) {
  std::string out = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"UTF-8\"/><title>moe-place: " + safe(s.path) +
                    "</title><style>" + kStyle + "</style></head>\n<body>\n";
  out += inline_svg(show_picture(s, f));
  out += "<h2>Summary</h2>\n<dl>";
  for (const auto& [name, value] : summary_lines(s, f)) out += cell_html("dt", name, false) + cell_html("dd", value, false);
  out += "</dl>\n" + section_html(placed_table(s, f)) + section_html(rank_table(s, f));
  if (!f.experts_L.empty() && !f.placed.empty()) out += "<h2>Experts</h2>\n" + inline_svg(expert_picture(s, f));
  out += section_html(expert_table(f)) + section_html(copies_table(f)) + section_html(pins_table(s, f));
  out += "<h2>Layer by layer</h2>\n";
  for (std::size_t l = 0; l < f.layers.size(); ++l) out += folded_html(layer_table(s, f, l));
  return out + "</body></html>\n";
}

}  // namespace moe
