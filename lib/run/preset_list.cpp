#include "lib/run/preset_list.h"

#include "lib/model/params.h"
#include "lib/model/presets.h"
#include "lib/run/result.h"
#include "lib/run/summary.h"
#include "lib/run/text_table.h"

namespace moe {

void list_presets(const CommonOptions& common) {
  TextTable table({"preset", ">parameters", ">active", ">FLOP/token", "about"});
  nlohmann::json list = nlohmann::json::array();
  for (const Preset& p : presets()) {
    TrainOptions t;
    Options options = train_options(t);
    apply_preset(options, p.name);
    if (t.model.vocab_size == 0) t.model.vocab_size = 256;
    const ParamCounts n = count_parameters(t.model);
    const double work = flop_per_token(t.model, t.seq);
    table.add({p.name, count_text(static_cast<double>(n.total)), count_text(static_cast<double>(n.active_no_embedding)),
               count_text(work), p.about});
    list.push_back({{"preset", p.name},
                    {"about", p.about},
                    {"params_total", n.total},
                    {"params_active", n.active},
                    {"params_active_no_embedding", n.active_no_embedding},
                    {"params_mtp", n.mtp},
                    {"flop_per_token", work}});
  }
  print_result(common, {{"kind", "moe-train --list-presets"}, {"presets", list}}, table.text());
}

}  // namespace moe
