#include "lib/run/lr_phases.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "lib/base/error.h"
#include "lib/base/number_text.h"
#include "lib/base/text_list.h"

namespace moe {
namespace {

constexpr std::array kShapes = {"constant", "cosine", "linear"};

}  // namespace

LrPhases::Phase LrPhases::parse_phase(const std::string& text) {
  const std::size_t at = std::min(text.find('@'), text.size()), colon = std::min(text.find(':'), at);
  const auto shape = std::find(kShapes.begin(), kShapes.end(), text.substr(0, colon));
  if (shape == kShapes.end())
    throw Error(Exit::kUsage, "expected constant, cosine or linear, found \"" + text.substr(0, colon) + "\"");
  Phase phase{static_cast<Shape>(shape - kShapes.begin()), {}, {}};
  if (colon < at) phase.level = number_in(text.substr(colon + 1, at - colon - 1), "a level as a fraction of --lr");
  if (at < text.size()) phase.end = RunMark::parse(text.substr(at + 1));
  if (phase.level && *phase.level < 0) throw Error(Exit::kUsage, "expected a level of at least 0, found \"" + text + "\"");
  if (!phase.level && phase.shape != Shape::kConstant)
    throw Error(Exit::kUsage, "expected a level where the phase ends, as in cosine:0.1, found \"" + text + "\"");
  return phase;
}

LrPhases LrPhases::parse(const std::string& text) {
  LrPhases all;
  if (text.empty()) return all;
  for (const std::string& part : split_list(text)) {
    if (!all.phases_.empty() && !all.phases_.back().end)
      throw Error(Exit::kUsage, "expected @POINT at the end of every phase but the last, found \"" + text + "\"");
    all.phases_.push_back(parse_phase(part));
    const std::size_t n = all.phases_.size();
    if (n < 2 || !all.phases_[n - 1].end) continue;
    const RunMark before = *all.phases_[n - 2].end, now = *all.phases_[n - 1].end;
    if (before.in_tokens == now.in_tokens && before.value >= now.value)
      throw Error(Exit::kUsage, "expected points that rise, found \"" + text + "\"");
  }
  return all;
}

std::string LrPhases::text() const {
  std::string all;
  for (const Phase& p : phases_) {
    all += (all.empty() ? "" : ",") + std::string(kShapes[static_cast<std::size_t>(p.shape)]);
    if (p.level) all += ":" + number_text(*p.level);
    if (p.end) all += "@" + p.end->text();
  }
  return all;
}

bool LrPhases::has_tokens() const {
  return std::any_of(phases_.begin(), phases_.end(), [](const Phase& p) { return p.end && p.end->in_tokens; });
}

double LrPhases::factor(const RunPoint& at) const {
  double begin = 0, level = 1;
  for (const Phase& p : phases_) {
    const double end = p.end ? p.end->fraction_of(at) : 1, target = p.level.value_or(level);
    if (at.fraction < end || !p.end) {
      const double part = end > begin ? std::clamp((at.fraction - begin) / (end - begin), 0.0, 1.0) : 1;
      if (p.shape == Shape::kConstant) return target;
      if (p.shape == Shape::kLinear) return level + (target - level) * part;
      return target + (level - target) * 0.5 * (1 + std::cos(std::numbers::pi * part));
    }
    begin = end, level = target;
  }
  return level;
}

}  // namespace moe
