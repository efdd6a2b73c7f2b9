// The law by which loss falls with training compute, L(C) = floor + factor C^-exponent, fitted to runs of a family, and what
// it says of a run that was not made. Pure functions. Not here: where the runs come from (eval_scaling.h), the picture
// (scaling_picture.h).
#pragma once

#include <optional>
#include <span>

namespace moe {

struct ScalingPoint {
  double flop = 0;  // of the whole training
  double loss = 0;  // nats per token
};

struct ScalingLaw {
  double floor = 0;  // what no compute takes away; at least 0
  double factor = 0, exponent = 0;
  double operator()(double flop) const;
};

struct ScalingPrediction {
  double loss = 0;
  std::optional<double> low, high;  // none where no run is left over to tell the noise
};

// The law with the least sum of squares of relative errors (found - law) / found, which are differences of logarithms as
// long as they are small. For each exponent floor and factor are a linear problem; the exponent is looked for on a grid and
// then by golden sections, so there is no start that could be wrong. Two runs: without a floor.
class ScalingFit {
 public:
  // Throws std::invalid_argument for fewer than two runs, runs of the same compute, values that are not above 0, and
  // losses that do not fall with compute.
  explicit ScalingFit(std::span<const ScalingPoint> points);

  const ScalingLaw& law() const { return law_; }
  double relative_error() const { return relative_error_; }  // standard deviation of the residuals; NaN if none is free
  int free_residuals() const { return free_; }               // runs - parameters; a floor of 0 is no parameter

  // low, high: where a new run of that compute lies with this probability. The noise is that of the residuals, the error of
  // the parameters goes along to first order (delta method), Student's t for the few residuals; both on the logarithm of the
  // loss. As far as the law holds: nothing here knows whether it does.
  ScalingPrediction predict(double flop, double probability) const;

 private:
  double leverage(double flop) const;  // variance of ln(law) from the parameters, over that of a residual

  ScalingLaw law_;
  double center_ = 0;  // of ln C, for numbers near 1
  double relative_error_ = 0;
  int free_ = 0;
  double information_[3][3] = {};  // sum of outer products of the slopes of ln(law)
};

// What the runs but the largest said of it. None for fewer than three runs.
std::optional<ScalingPrediction> predict_last(std::span<const ScalingPoint> ascending, double probability);

}  // namespace moe
