// moe-eval curves: what several runs said step by step (metrics.jsonl), as one table and one picture: loss and the imbalance
// of experts. Reads no weights. Not here: the picture (curves_picture.h).
#pragma once

#include <string>
#include <vector>

#include "lib/base/common_options.h"
#include "lib/base/error.h"
#include "lib/run/curves_picture.h"

namespace moe {

// Of a run directory or a metrics.jsonl; named by the directory. Error 66; 65 where no step stands in it.
RunCurve read_run_curve(const std::string& path);

// Prints the table, writes --json and svg ("": no picture).
Exit eval_curves(const std::vector<std::string>& runs, const std::string& svg, const CommonOptions& common);

}  // namespace moe
