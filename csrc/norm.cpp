#include "norm.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "parallel.hpp"
#include "vectorise.hpp"

namespace gdui {
namespace {

constexpr std::int64_t kBlock = 64; // pixels summed in float before the sum goes on in double

// Some whole groups of one image: `width` channels of each pixel, `step` apart from pixel to pixel; where they start.
struct Slab {
  Slab(const Images &shape, std::int64_t image, std::int64_t first_group, std::int64_t groups)
      : pixels(shape.pixels), step(shape.channels), group_size(shape.channels / shape.groups),
        width(groups * group_size), channel_start(image * step + first_group * group_size),
        pixel_start(image * pixels * step + first_group * group_size) {}

  std::int64_t pixels, step, group_size, width;
  std::int64_t channel_start, pixel_start;
};

// Two sums for each channel of a slab: in float over a block of pixels, in double over all.
class Sums {
public:
  explicit Sums(std::int64_t width) : width_(width), block_(2 * width), total_(2 * width) {}
  float *first() { return block_.data(); }
  float *second() { return block_.data() + width_; }
  double first(std::int64_t channel) const { return total_[channel]; }
  double second(std::int64_t channel) const { return total_[width_ + channel]; }

  void end_of_pixel(std::int64_t pixel, std::int64_t pixels) {
    if ((pixel + 1) % kBlock != 0 && pixel + 1 != pixels)
      return;
    for (std::size_t i = 0; i < block_.size(); ++i)
      total_[i] += block_[i];
    std::fill(block_.begin(), block_.end(), 0.0f);
  }

private:
  std::int64_t width_;
  std::vector<float> block_;
  std::vector<double> total_;
};

// Each group's mean and 1 / sqrt(variance + eps), from each channel's distances to its first pixel, so nothing cancels.
template <class T> GDUI_INLINE void statistics(const T *x, const Slab &slab, float eps, float *mean, float *rstd) {
  std::vector<float> origin(slab.width);
  for (std::int64_t c = 0; c < slab.width; ++c)
    origin[c] = to_float(x[c]);
  Sums sums(slab.width);
  for (std::int64_t p = 0; p < slab.pixels; ++p) {
    const T *in = x + p * slab.step;
    const float *from = origin.data();
    float *sum = sums.first(), *square = sums.second();
#pragma GCC ivdep
    for (std::int64_t c = 0; c < slab.width; ++c) {
      const float distance = to_float(in[c]) - from[c];
      sum[c] += distance;
      square[c] += distance * distance;
    }
    sums.end_of_pixel(p, slab.pixels);
  }
  const double pixels = static_cast<double>(slab.pixels);
  for (std::int64_t first = 0; first < slab.width; first += slab.group_size) {
    double centre = 0, spread = 0;
    for (std::int64_t c = first; c < first + slab.group_size; ++c)
      centre += (origin[c] + sums.first(c) / pixels) / slab.group_size;
    for (std::int64_t c = first; c < first + slab.group_size; ++c) {
      const double shift = sums.first(c) / pixels, away = origin[c] + shift - centre;
      spread += (std::max(sums.second(c) / pixels - shift * shift, 0.0) + away * away) / slab.group_size;
    }
    std::fill_n(mean + first, slab.group_size, static_cast<float>(centre));
    std::fill_n(rstd + first, slab.group_size, static_cast<float>(1 / std::sqrt(spread + eps)));
  }
}

// out = f(factor in + shift) for each channel.
template <bool silu, class T>
GDUI_INLINE void map_pixels(const T *x, const Slab &slab, const float *factor, const float *shift, T *y) {
  for (std::int64_t p = 0; p < slab.pixels; ++p) {
    const T *in = x + p * slab.step;
    T *out = y + p * slab.step;
#pragma GCC ivdep
    for (std::int64_t c = 0; c < slab.width; ++c) {
      const float z = to_float(in[c]) * factor[c] + shift[c];
      store(silu ? z * sigmoid(z) : z, out[c]);
    }
  }
}

template <class T>
GDUI_INLINE void forward(const T *x, const Slab &slab, const Affine &affine, float eps, bool silu, T *y, float *mean,
                         float *rstd) {
  statistics(x, slab, eps, mean, rstd);
  std::vector<float> factor(slab.width), shift(slab.width);
  for (std::int64_t c = 0; c < slab.width; ++c) {
    factor[c] = affine.gain[c] * rstd[c];
    shift[c] = affine.offset[c] - mean[c] * factor[c];
  }
  if (silu)
    map_pixels<true>(x, slab, factor.data(), shift.data(), y);
  else
    map_pixels<false>(x, slab, factor.data(), shift.data(), y);
}

// What the way back needs of each channel: norm = scale x + shift, dx = slope dz - pull norm - drift.
struct Channels {
  explicit Channels(std::int64_t width) : scale(width), shift(width), slope(width), pull(width), drift(width) {}
  std::vector<float> scale, shift, slope, pull, drift;
};

// The gradient to z = gain norm + offset, from that to f(z).
template <bool silu> GDUI_INLINE float through_silu(float z, float gradient) {
  if (!silu)
    return gradient;
  const float s = sigmoid(z);
  return gradient * s * (1 + z * (1 - s));
}

// Sums dz norm and dz over the pixels of each channel: the gradients to gain and offset.
template <bool silu, class T>
GDUI_INLINE void sum_gradients(const T *x, const T *dy, const Slab &slab, const Affine &affine,
                               const Channels &channels, Sums &sums) {
  const float *scale = channels.scale.data(), *shift = channels.shift.data();
  const float *gain = affine.gain, *offset = affine.offset;
  for (std::int64_t p = 0; p < slab.pixels; ++p) {
    const T *in = x + p * slab.step, *above = dy + p * slab.step;
    float *to_gain = sums.first(), *to_offset = sums.second();
#pragma GCC ivdep
    for (std::int64_t c = 0; c < slab.width; ++c) {
      const float norm = to_float(in[c]) * scale[c] + shift[c];
      const float dz = through_silu<silu>(norm * gain[c] + offset[c], to_float(above[c]));
      to_gain[c] += dz * norm;
      to_offset[c] += dz;
    }
    sums.end_of_pixel(p, slab.pixels);
  }
}

template <bool silu, class T>
GDUI_INLINE void map_gradients(const T *x, const T *dy, const Slab &slab, const Affine &affine,
                               const Channels &channels, T *dx) {
  const float *scale = channels.scale.data(), *shift = channels.shift.data(), *slope = channels.slope.data();
  const float *pull = channels.pull.data(), *drift = channels.drift.data();
  const float *gain = affine.gain, *offset = affine.offset;
  for (std::int64_t p = 0; p < slab.pixels; ++p) {
    const T *in = x + p * slab.step, *above = dy + p * slab.step;
    T *out = dx + p * slab.step;
#pragma GCC ivdep
    for (std::int64_t c = 0; c < slab.width; ++c) {
      const float norm = to_float(in[c]) * scale[c] + shift[c];
      const float dz = through_silu<silu>(norm * gain[c] + offset[c], to_float(above[c]));
      store(slope[c] * dz - pull[c] * norm - drift[c], out[c]);
    }
  }
}

// dx loses each group's mean of gain dz, and of gain dz norm along norm: normalising takes them away.
void group_means(const Slab &slab, const Affine &affine, const Sums &sums, Channels &channels) {
  const double count = static_cast<double>(slab.pixels) * slab.group_size;
  for (std::int64_t first = 0; first < slab.width; first += slab.group_size) {
    double along = 0, level = 0;
    for (std::int64_t c = first; c < first + slab.group_size; ++c) {
      along += affine.gain[c] * sums.first(c) / count;
      level += affine.gain[c] * sums.second(c) / count;
    }
    for (std::int64_t c = first; c < first + slab.group_size; ++c) {
      channels.slope[c] = affine.gain[c] * channels.scale[c];
      channels.pull[c] = static_cast<float>(along) * channels.scale[c];
      channels.drift[c] = static_cast<float>(level) * channels.scale[c];
    }
  }
}

template <bool silu, class T>
GDUI_INLINE void backward(const T *x, const T *dy, const Slab &slab, const Affine &affine, const float *mean,
                          const float *rstd, T *dx, float *dgain, float *doffset) {
  Channels channels(slab.width);
  for (std::int64_t c = 0; c < slab.width; ++c) {
    channels.scale[c] = rstd[c];
    channels.shift[c] = -mean[c] * channels.scale[c];
  }
  Sums sums(slab.width);
  sum_gradients<silu>(x, dy, slab, affine, channels, sums);
  for (std::int64_t c = 0; c < slab.width; ++c) {
    dgain[c] = static_cast<float>(sums.first(c));
    doffset[c] = static_cast<float>(sums.second(c));
  }
  group_means(slab, affine, sums, channels);
  map_gradients<silu>(x, dy, slab, affine, channels, dx);
}

template <class T> struct Forward {
  const T *x;
  Affine affine;
  float eps;
  bool silu;
  T *y;
  float *mean, *rstd;

  GDUI_INLINE void operator()(const Slab &slab) const {
    const std::int64_t at = slab.pixel_start, c = slab.channel_start;
    forward(x + at, slab, {affine.gain + c, affine.offset + c}, eps, silu, y + at, mean + c, rstd + c);
  }
};

template <class T> struct Backward {
  const T *x, *dy;
  Affine affine;
  const float *mean, *rstd;
  bool silu;
  T *dx;
  float *dgain, *doffset;

  GDUI_INLINE void operator()(const Slab &slab) const {
    const std::int64_t at = slab.pixel_start, c = slab.channel_start;
    const Affine here{affine.gain + c, affine.offset + c};
    if (silu)
      backward<true>(x + at, dy + at, slab, here, mean + c, rstd + c, dx + at, dgain + c, doffset + c);
    else
      backward<false>(x + at, dy + at, slab, here, mean + c, rstd + c, dx + at, dgain + c, doffset + c);
  }
};

// Splits images into parts of at least kNarrow channels until every thread has one.
std::int64_t parts_of_an_image(const Images &shape, int threads) {
  constexpr std::int64_t kNarrow = 32;
  std::int64_t parts = 1;
  while (shape.batch * parts < threads && shape.groups % (2 * parts) == 0 && shape.channels >= 2 * parts * kNarrow)
    parts *= 2;
  return parts;
}

template <class Task> void run(const Task &task, const Images &shape, int threads) {
  if (shape.groups < 1 || shape.channels % shape.groups != 0)
    throw std::invalid_argument("the channels must divide into the groups");
  if (shape.pixels < 1 || shape.channels < 1)
    return;
  const std::int64_t parts = parts_of_an_image(shape, threads), groups = shape.groups / parts;
  parallel_chunks(shape.batch * parts, 1, threads, [&](std::int64_t begin, std::int64_t) {
    run_vectorised(task, Slab(shape, begin / parts, begin % parts * groups, groups));
  });
}

} // namespace

template <class T>
void group_norm(const T *x, const Images &shape, const Affine &affine, float eps, bool silu, T *y, float *mean,
                float *rstd, int threads) {
  run(Forward<T>{x, affine, eps, silu, y, mean, rstd}, shape, threads);
}

template <class T>
void group_norm_backward(const T *x, const T *dy, const Images &shape, const Affine &affine, const float *mean,
                         const float *rstd, bool silu, T *dx, float *dgain, float *doffset, int threads) {
  run(Backward<T>{x, dy, affine, mean, rstd, silu, dx, dgain, doffset}, shape, threads);
}

template void group_norm(const float *, const Images &, const Affine &, float, bool, float *, float *, float *, int);
template void group_norm(const BFloat16 *, const Images &, const Affine &, float, bool, BFloat16 *, float *, float *,
                         int);
template void group_norm_backward(const float *, const float *, const Images &, const Affine &, const float *,
                                  const float *, bool, float *, float *, float *, int);
template void group_norm_backward(const BFloat16 *, const BFloat16 *, const Images &, const Affine &, const float *,
                                  const float *, bool, BFloat16 *, float *, float *, int);

} // namespace gdui
