// The tables of moe-place show, as cells of text: for the terminal (place_show.cpp) and for HTML (place_show_html.cpp).
// Pure. Not here: the figures (place_show_figures.h), how tables look.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lib/run/place_show_figures.h"

namespace moe {

struct ShowTable {
  std::string title;
  std::vector<std::string> headings;  // '>' first: aligned to the right; the last column may be long and is wrapped
  std::vector<std::vector<std::string>> rows;
  bool is_list = false;  // the terminal shows its beginning only, unless --verbose
};

// Name and value of what holds for the whole file.
std::vector<std::pair<std::string, std::string>> summary_lines(const ShowSubject& subject, const ShowFigures& figures);

ShowTable expert_table(const ShowFigures& figures);                              // a row per layer: its experts' load
ShowTable placed_table(const ShowSubject& subject, const ShowFigures& figures);  // a row per layer: its ranks' load
ShowTable rank_table(const ShowSubject& subject, const ShowFigures& figures);    // a row per rank, the worst first
ShowTable copies_table(const ShowFigures& figures);
ShowTable pins_table(const ShowSubject& subject, const ShowFigures& figures);

// Of one layer (place l in `layers`): every rank with its experts, or every expert where ranks are not known.
ShowTable layer_table(const ShowSubject& subject, const ShowFigures& figures, std::size_t l);

// "17:1.20x2*": expert 17, 1.20 times the mean load of an expert, two copies, pinned here.
std::string slot_text(const ShowSubject& subject, const ShowFigures& figures, std::size_t l, int rank);

}  // namespace moe
