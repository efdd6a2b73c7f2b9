// moe-eval compare: two models on the same windows of the same data, one after the other in memory.
#include <cmath>
#include <optional>

#include "lib/comm/collectives.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/eval_perplexity.h"
#include "lib/run/paired.h"
#include "lib/run/result.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

// What is known of a model when it has left memory.
struct Scored {
  nlohmann::json model, data, protocol;
  std::string name, protocol_text;
  int seq = 0;
  bool document_mask = false;
  WindowLosses losses;
};

Scored scored(const std::string& path, const EvalDataOptions& options, const EvalModelOptions& model_options, World& world,
              Env env) {
  EvalModel model(path, model_options, world, env);
  const TokenSource data = open_eval_data(options, model);
  const RollingWindows windows = eval_windows(data, options, model);
  return {model.json(),
          data_json(data),
          protocol_json(windows, options, model),
          model.text(),
          protocol_text(windows, options, model),
          model.seq(),
          model.document_mask(),
          window_losses(model, data, windows)};
}

std::string p_text(double p) { return p >= 1e-4 ? format_text("%.4f", p) : p > 0 ? short_float(p) : "below 1e-300"; }

std::string table_of(const Scored& a, const Scored& b, const PairedTest& test) {
  TextTable table({"model", ">nats per token", ">standard error", ">perplexity"});
  for (const Scored* s : {&a, &b})
    table.add({s == &a ? "A" : "B", format_text("%.5f", s->losses.mean()), format_text("%.5f", s->losses.standard_error()),
               format_text("%.4f", std::exp(s->losses.mean()))});
  table.add({"A - B", format_text("%+.5f", test.mean), format_text("%.5f", test.standard_error), ""});
  return table.text();
}

std::string verdict(const PairedTest& test) {
  const std::string windows = std::to_string(test.num_less) + " windows to A, " + std::to_string(test.num_greater) +
                              " to B, " + std::to_string(test.num_equal) + " equal";
  if (test.num_less + test.num_greater == 0) return "the two are equal; " + windows;
  if (std::isnan(test.standard_error)) return "one window says nothing of the error; a smaller --seq makes more";
  const std::string better =
      test.p_t < 0.05 ? std::string(test.mean < 0 ? "A" : "B") + " is better" : "no difference is proved";
  return better + ": t " + format_text("%.2f", test.t) + ", p " + p_text(test.p_t) + "; sign test p " + p_text(test.p_sign) +
         " (" + windows + ")";
}

nlohmann::json number_or_null(double x) { return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json(nullptr); }

nlohmann::json result_json(const Scored& a, const Scored& b, const PairedTest& test) {
  const auto side = [](const Scored& s) {
    return nlohmann::json{{"model", s.model},
                          {"nats_per_token", s.losses.mean()},
                          {"standard_error", number_or_null(s.losses.standard_error())},
                          {"seconds", s.losses.seconds}};
  };
  return {{"command", "compare"},
          {"data", a.data},
          {"protocol", a.protocol},
          {"tokens", static_cast<std::int64_t>(a.losses.tokens())},
          {"a", side(a)},
          {"b", side(b)},
          {"difference",
           {{"nats_per_token", test.mean},
            {"standard_error", number_or_null(test.standard_error)},
            {"t", number_or_null(test.t)},
            {"p_t", number_or_null(test.p_t)},
            {"p_sign", test.p_sign},
            {"windows_less", test.num_less},
            {"windows_equal", test.num_equal},
            {"windows_greater", test.num_greater}}}};
}

}  // namespace

Exit eval_compare(const std::string& path_a, const std::string& path_b, const EvalDataOptions& options,
                  const EvalModelOptions& model_options, const CommonOptions& common, World& world, Env env) {
  const Scored a = scored(path_a, options, model_options, world, env);
  EvalModelOptions same = model_options;  // the windows of A
  same.seq = a.seq;
  same.document_mask = a.document_mask ? MaskChoice::kOn : MaskChoice::kOff;
  const Scored b = scored(path_b, options, same, world, env);
  const PairedTest test = paired_test(a.losses.loss_W, b.losses.loss_W, a.losses.tokens_W);
  world.agree([&] {
    if (world.rank() != 0) return;
    print_result(common, result_json(a, b, test),
                 labelled("A", a.name) + labelled("B", b.name) + labelled("data", a.data["path"].get<std::string>()) +
                     labelled("protocol", a.protocol_text) + table_of(a, b, test) + labelled("verdict", verdict(test)));
  });
  return Exit::kOk;
}

}  // namespace moe
