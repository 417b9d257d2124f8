#include "norm.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "parallel.hpp"
#include "vectorise.hpp"

namespace gdui {
namespace {

constexpr std::int64_t kBlock = 16; // pixels summed in float before the sum goes on in double
constexpr std::int64_t kFew = 8;    // pixels whose mean stands for all, so far as rounding goes

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

// The mean of each channel's first pixels: near the others, even where one pixel is far from them.
template <class T> GDUI_INLINE std::vector<float> origin_of(const T *x, const Slab &slab) {
  std::vector<float> origin(slab.width);
  const std::int64_t some = std::min(kFew, slab.pixels);
  const float share = 1.0f / some;
  for (std::int64_t p = 0; p < some; ++p)
    for (std::int64_t c = 0; c < slab.width; ++c)
      origin[c] += to_float(x[p * slab.step + c]) * share;
  return origin;
}

// Each group's mean and 1 / sqrt(variance + eps), from each channel's distances to its origin, so that little cancels.
template <class T> GDUI_INLINE void statistics(const T *x, const Slab &slab, float eps, float *mean, float *rstd) {
  const std::vector<float> origin = origin_of(x, slab);
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

// out = f((in - mean) factor + offset) for each channel; in this order a flat group gives its offset, and no rounding.
template <bool silu, class T>
GDUI_INLINE void map_pixels(const T *x, const Slab &slab, const float *mean, const float *factor, const float *offset,
                            T *y) {
  for (std::int64_t p = 0; p < slab.pixels; ++p) {
    const T *in = x + p * slab.step;
    T *out = y + p * slab.step;
#pragma GCC ivdep
    for (std::int64_t c = 0; c < slab.width; ++c) {
      const float z = (to_float(in[c]) - mean[c]) * factor[c] + offset[c];
      store(silu ? z * sigmoid(z) : z, out[c]);
    }
  }
}

template <class T>
GDUI_INLINE void forward(const T *x, const Slab &slab, const Affine &affine, float eps, bool silu, T *y, float *mean,
                         float *rstd) {
  statistics(x, slab, eps, mean, rstd);
  std::vector<float> factor(slab.width);
  for (std::int64_t c = 0; c < slab.width; ++c)
    factor[c] = affine.gain[c] * rstd[c];
  if (silu)
    map_pixels<true>(x, slab, mean, factor.data(), affine.offset, y);
  else
    map_pixels<false>(x, slab, mean, factor.data(), affine.offset, y);
}

// What the way back needs of each channel: z = gain norm + offset with norm = (x - mean) rstd.
struct Channels {
  const float *gain, *offset, *mean, *rstd;
};

// The gradient to z, from that to f(z).
template <bool silu> GDUI_INLINE float through_silu(float z, float gradient) {
  if (!silu)
    return gradient;
  const float s = sigmoid(z);
  return gradient * s * (1 + z * (1 - s));
}

// Sums dz norm and dz over the pixels of each channel: the gradients to gain and offset.
template <bool silu, class T>
GDUI_INLINE void sum_gradients(const T *x, const T *dy, const Slab &slab, const Channels &of, Sums &sums) {
  for (std::int64_t p = 0; p < slab.pixels; ++p) {
    const T *in = x + p * slab.step, *above = dy + p * slab.step;
    float *to_gain = sums.first(), *to_offset = sums.second();
#pragma GCC ivdep
    for (std::int64_t c = 0; c < slab.width; ++c) {
      const float norm = (to_float(in[c]) - of.mean[c]) * of.rstd[c];
      const float dz = through_silu<silu>(norm * of.gain[c] + of.offset[c], to_float(above[c]));
      to_gain[c] += dz * norm;
      to_offset[c] += dz;
    }
    sums.end_of_pixel(p, slab.pixels);
  }
}

// dx = rstd (gain dz - level - along norm) for each channel.
template <bool silu, class T>
GDUI_INLINE void map_gradients(const T *x, const T *dy, const Slab &slab, const Channels &of, const float *level,
                               const float *along, T *dx) {
  for (std::int64_t p = 0; p < slab.pixels; ++p) {
    const T *in = x + p * slab.step, *above = dy + p * slab.step;
    T *out = dx + p * slab.step;
#pragma GCC ivdep
    for (std::int64_t c = 0; c < slab.width; ++c) {
      const float norm = (to_float(in[c]) - of.mean[c]) * of.rstd[c];
      const float dz = through_silu<silu>(norm * of.gain[c] + of.offset[c], to_float(above[c]));
      store(of.rstd[c] * (of.gain[c] * dz - level[c] - along[c] * norm), out[c]);
    }
  }
}

// Each group's means of gain dz and of gain dz norm, for its channels: what moving and stretching x can't change.
GDUI_INLINE void group_means(const Slab &slab, const float *gain, const Sums &sums, float *level, float *along) {
  const double count = static_cast<double>(slab.pixels) * slab.group_size;
  for (std::int64_t first = 0; first < slab.width; first += slab.group_size) {
    double with_norm = 0, alone = 0;
    for (std::int64_t c = first; c < first + slab.group_size; ++c) {
      with_norm += gain[c] * sums.first(c) / count;
      alone += gain[c] * sums.second(c) / count;
    }
    std::fill_n(level + first, slab.group_size, static_cast<float>(alone));
    std::fill_n(along + first, slab.group_size, static_cast<float>(with_norm));
  }
}

template <bool silu, class T>
GDUI_INLINE void backward(const T *x, const T *dy, const Slab &slab, const Channels &of, T *dx, float *dgain,
                          float *doffset) {
  Sums sums(slab.width);
  sum_gradients<silu>(x, dy, slab, of, sums);
  for (std::int64_t c = 0; c < slab.width; ++c) {
    dgain[c] = static_cast<float>(sums.first(c));
    doffset[c] = static_cast<float>(sums.second(c));
  }
  std::vector<float> level(slab.width), along(slab.width);
  group_means(slab, of.gain, sums, level.data(), along.data());
  map_gradients<silu>(x, dy, slab, of, level.data(), along.data(), dx);
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
    const Channels of{affine.gain + c, affine.offset + c, mean + c, rstd + c};
    if (silu)
      backward<true>(x + at, dy + at, slab, of, dx + at, dgain + c, doffset + c);
    else
      backward<false>(x + at, dy + at, slab, of, dx + at, dgain + c, doffset + c);
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
