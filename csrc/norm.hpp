// Group normalisation, a gain and an offset for each channel, and SiLU, as one operation on channels-last images.
#pragma once

#include <cstdint>

#include "floats.hpp"

namespace gdui {

struct Images {
  std::int64_t batch, pixels, channels, groups;
};

// Gain and offset (batch, channels) of each channel after normalisation.
struct Affine {
  const float *gain, *offset;
};

// y = f(gain (x - mean) rstd + offset) for x (batch, pixels, channels), where f is SiLU or nothing; mean and rstd are
// those of each channel's group, and written (batch, channels) for the way back.
template <class T>
void group_norm(const T *x, const Images &shape, const Affine &affine, float eps, bool silu, T *y, float *mean,
                float *rstd, int threads);

// From the gradient dy to y: those to x, and to gain and offset (batch, channels).
template <class T>
void group_norm_backward(const T *x, const T *dy, const Images &shape, const Affine &affine, const float *mean,
                         const float *rstd, bool silu, T *dx, float *dgain, float *doffset, int threads);

} // namespace gdui
