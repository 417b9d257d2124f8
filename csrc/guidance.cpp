#include <cmath>
#include <limits>
#include <vector>

#include "tiles.hpp"

namespace gdui {
namespace {

// A step of one image is a sum: of_x x + of_x0 x0 + spread (of_gradient spread gradient + of_noise noise), where x0 is
// x0_of_x x + x0_of_predicted predicted, held within the limit and divided by it. The spread is the standard deviation
// where that is learned, and else one.
struct Factors {
  float x0_of_x, x0_of_predicted, limit, inverse_limit, guidance;
  float of_x, of_x0, of_gradient, of_noise;
  float half_log_small, half_log_range;
};

void set_x0(const Step &step, const float *row, Factors &factors) {
  const bool eps = step.target == Target::eps, v = step.target == Target::v;
  factors.x0_of_x = eps ? row[kInverseSignal] : v ? row[kSignal] : 0;
  factors.x0_of_predicted = eps ? -row[kNoiseRatio] : v ? -row[kNoise] : 1;
  factors.limit = step.clip == Clip::one ? 1 : std::numeric_limits<float>::infinity();
  factors.inverse_limit = 1;
  factors.guidance = step.unconditional.data ? step.guidance : 1;
}

void set_ancestral(const Step &step, const float *row, Factors &factors) {
  const bool small = step.variance == Variance::small, learned = step.variance == Variance::learned;
  factors.of_x = row[kPosteriorXt];
  factors.of_x0 = row[kPosteriorX0];
  factors.of_gradient = step.scale * (learned ? 1 : row[small ? kSmallVariance : kLargeVariance]);
  factors.of_noise = learned ? 1 : std::exp(0.5f * row[small ? kSmallLogVariance : kLargeLogVariance]);
  factors.half_log_small = 0.5f * row[kSmallLogVariance];
  factors.half_log_range = 0.5f * (row[kLogBeta] - row[kSmallLogVariance]);
}

void set_ddim(const Step &step, const float *row, Factors &factors) {
  const double eta = step.eta, spread = row[kNoise], sigma = eta * row[kDdimSigma];
  const double old = eta * row[kPosteriorXt] * spread; // direction^2 is 1 - abar' - sigma^2, where nothing cancels
  const double direction = std::sqrt((1 - eta * eta) * row[kPreviousNoiseVariance] + old * old);
  factors.of_x = static_cast<float>(direction / spread);
  factors.of_x0 = static_cast<float>(row[kPreviousSignal] - direction * row[kSignal] / spread);
  factors.of_gradient =
      static_cast<float>(step.scale * spread * (double{row[kPreviousSignal]} * row[kNoiseRatio] - direction));
  factors.of_noise = static_cast<float>(sigma);
}

Factors factors_of(const Step &step, const float *row, bool first) {
  Factors factors{};
  set_x0(step, row, factors);
  if (step.method == Method::ancestral)
    set_ancestral(step, row, factors);
  else
    set_ddim(step, row, factors);
  if (first)
    factors.of_noise = 0;
  if (!step.gradient.data)
    factors.of_gradient = 0;
  return factors;
}

// One tile's rows that the predicted x0 is made of.
struct Seen {
  const float *x, *predicted, *unconditional;
  int length;

  GDUI_INLINE float x0(const Factors &f, int i) const {
    const float weak = unconditional[i];
    return f.x0_of_x * x[i] + f.x0_of_predicted * (weak + f.guidance * (predicted[i] - weak));
  }
};

// One tile's rows. What a step has no use for points at something whose factor is zero.
struct Rows {
  Seen seen;
  const float *values, *gradient, *noise;
};

struct Buffers {
  alignas(64) float x[kTile], predicted[kTile], values[kTile], gradient[kTile], noise[kTile], unconditional[kTile];
};

Seen seen_of(const Shape &shape, const Step &step, const Tile &tile, Buffers &buffers) {
  const float *predicted = read(shape, step.predicted, tile, buffers.predicted);
  const float *weak = read(shape, step.unconditional, tile, buffers.unconditional);
  return {read(shape, step.x, tile, buffers.x), predicted, weak ? weak : predicted, tile.length};
}

Rows rows_of(const Shape &shape, const Steps &steps, const Step &step, const Factors &factors, const Tile &tile,
             Buffers &buffers) {
  Rows rows{};
  rows.seen = seen_of(shape, step, tile, buffers);
  rows.values = read(shape, step.values, tile, buffers.values);
  rows.gradient = step.gradient.data ? read(shape, step.gradient, tile, buffers.gradient) : rows.seen.x;
  const auto number = static_cast<std::uint32_t>(steps.t[tile.image]);
  rows.noise =
      factors.of_noise != 0 ? read_noise(shape, step.noise, number, kSampling, tile, buffers.noise) : rows.seen.x;
  return rows;
}

template <bool Learned> struct Advance {
  GDUI_INLINE void operator()(const Factors &factors, const Rows &rows, float *out) const {
    const Factors f = factors;
#pragma GCC ivdep
    for (int i = 0; i < rows.seen.length; ++i) {
      float x0 = rows.seen.x0(f, i);
      x0 = x0 > f.limit ? f.limit : x0;
      x0 = x0 < -f.limit ? -f.limit : x0;
      float spread = 1.0f;
      if constexpr (Learned)
        spread = exponential(f.half_log_small + 0.5f * (rows.values[i] + 1.0f) * f.half_log_range);
      const float moved = f.of_x * rows.seen.x[i] + f.of_x0 * (x0 * f.inverse_limit);
      out[i] = moved + spread * (f.of_gradient * spread * rows.gradient[i] + f.of_noise * rows.noise[i]);
    }
  }
};

// |x0| by its bits, which order it as numbers do, NaN above all.
struct Measure {
  GDUI_INLINE void operator()(const Factors &factors, const Seen &seen, std::int32_t *sizes) const {
    const Factors f = factors;
#pragma GCC ivdep
    for (int i = 0; i < seen.length; ++i)
      sizes[i] = bits_as<std::int32_t>(seen.x0(f, i)) & 0x7FFFFFFF;
  }
};

GDUI_INLINE std::int64_t count_within(const std::vector<std::int32_t> &sizes, std::int32_t bound) {
  const auto count = static_cast<std::int64_t>(sizes.size());
  std::int64_t within = 0;
  for (std::int64_t first = 0; first < count; first += kTile) {
    std::int32_t part = 0;
    for (std::int64_t i = first; i < std::min(first + kTile, count); ++i)
      part += sizes[i] <= bound;
    within += part;
  }
  return within;
}

// The rank-th smallest size, but no less than one: by halving the range of bits it can have.
struct Select {
  GDUI_INLINE void operator()(const std::vector<std::int32_t> &sizes, std::int64_t rank, float &limit) const {
    std::int32_t low = bits_as<std::int32_t>(1.0f), high = low;
    for (const std::int32_t size : sizes)
      high = size > high ? size : high;
    while (low < high) {
      const std::int32_t middle = low + (high - low) / 2;
      if (count_within(sizes, middle) >= rank)
        high = middle;
      else
        low = middle + 1;
    }
    limit = bits_as<float>(low);
  }
};

void advance(const Shape &shape, const Steps &steps, const Step &step, const Factors &factors, const Tile &tile,
             const Output &out) {
  Buffers buffers;
  const Rows rows = rows_of(shape, steps, step, factors, tile, buffers);
  Written written(shape, out, tile);
  if (step.method == Method::ancestral && step.variance == Variance::learned)
    run_vectorised(Advance<true>{}, factors, rows, written.row());
  else
    run_vectorised(Advance<false>{}, factors, rows, written.row());
  written.finish();
}

// Dynamic thresholding: the limit is known when all of an image has been read, which is then still in a near cache.
void guided_step_by_images(const Shape &shape, const Steps &steps, const Step &step, const Output &out, int threads) {
  parallel_chunks(shape.images, 1, threads, [&](std::int64_t image, std::int64_t) {
    Factors factors = factors_of(step, row_of(steps, image), steps.t[image] == 0);
    std::vector<std::int32_t> sizes(shape.count());
    for (std::int64_t i = 0; i < tiles_of(shape); ++i) {
      Buffers buffers;
      const Tile tile = tile_of(shape, image, i);
      run_vectorised(Measure{}, factors, seen_of(shape, step, tile, buffers), sizes.data() + tile.start);
    }
    run_vectorised(Select{}, sizes, step.rank, factors.limit);
    factors.inverse_limit = 1 / factors.limit;
    for (std::int64_t i = 0; i < tiles_of(shape); ++i)
      advance(shape, steps, step, factors, tile_of(shape, image, i), out);
  });
}

} // namespace

void guided_step(const Shape &shape, const Steps &steps, const Step &step, const Output &out, int threads) {
  require_steps(steps, shape.images);
  if (step.clip == Clip::quantile)
    return guided_step_by_images(shape, steps, step, out, threads);
  for_each_tile(shape, threads, [&](const Tile &tile) {
    const Factors factors = factors_of(step, row_of(steps, tile.image), steps.t[tile.image] == 0);
    advance(shape, steps, step, factors, tile, out);
  });
}

} // namespace gdui
