// Tests of paired differences. Pure functions. Not here: what is compared.
#pragma once

#include <span>

namespace moe {

// I_x(a, b), the regularised incomplete beta function, by its continued fraction (Lentz; Abramowitz and Stegun 26.5.8).
double regularized_beta(double x, double a, double b);

// The number below which Student's t with so many degrees of freedom lies with this probability, in 0.5 to below 1.
double student_t_quantile(double probability, double freedom);

struct PairedTest {
  double mean = 0;            // sum of a - b over the sum of weights
  double standard_error = 0;  // of mean, pairs being the sample (Cochran, ratio estimator); NaN of one pair
  double t = 0;
  double p_t = 1;                                    // two-sided, Student's t with pairs - 1 degrees of freedom
  double p_sign = 1;                                 // two-sided sign test, equal pairs left out
  int num_less = 0, num_equal = 0, num_greater = 0;  // pairs with a below, at, above b
};
PairedTest paired_test(std::span<const double> a, std::span<const double> b, std::span<const double> weights);

}  // namespace moe
