// The surprise at an image of 256 levels under a Gaussian, and its derivatives: the variational bound's first step.
#pragma once

#include <cmath>

#include "floats.hpp"

namespace gdui {

struct Cumulative {
  float value, density;
};

// The usual approximation of the normal distribution, (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2.
GDUI_INLINE Cumulative normal_cdf(float z) {
  constexpr float kTwice = 1.5957691216f; // 2 sqrt(2 / pi)
  const float value = sigmoid(kTwice * (z + 0.044715f * z * z * z));
  return {value, value * (1.0f - value) * kTwice * (1.0f + 0.134145f * z * z)};
}

struct Surprise {
  float value, by_away, by_log_variance;
};

// -ln of the mass within 1/255 of x0, out to infinity at the outermost levels; `away` is x0 less the mean.
// The left tail stands for the right one, so that no two numbers near one are subtracted.
GDUI_INLINE Surprise surprise(float x0, float away, float log_variance) {
  const bool lowest = x0 < -0.999f, highest = x0 > 0.999f;
  const float mirrored = lowest || (!highest && away < 0) ? 1.0f : -1.0f;
  const float inverse = exponential(-0.5f * log_variance);
  const float upper_z = inverse * (mirrored * away + 1.0f / 255), lower_z = inverse * (mirrored * away - 1.0f / 255);
  const Cumulative upper = normal_cdf(upper_z);
  const Cumulative lower = lowest || highest ? Cumulative{0, 0} : normal_cdf(lower_z);
  const float mass = upper.value - lower.value;
  if (mass < 1e-12f)
    return {-std::log(1e-12f), 0, 0};
  return {-std::log(mass), -mirrored * inverse * (upper.density - lower.density) / mass,
          0.5f * (upper_z * upper.density - lower_z * lower.density) / mass};
}

} // namespace gdui
