#include <cmath>
#include <limits>

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

void set_x0(const Step &step, const float *row, std::int64_t image, Factors &factors) {
  const bool eps = step.target == Target::eps, v = step.target == Target::v;
  factors.x0_of_x = eps ? row[kInverseSignal] : v ? row[kSignal] : 0;
  factors.x0_of_predicted = eps ? -row[kNoiseRatio] : v ? -row[kNoise] : 1;
  factors.limit = step.limit ? step.limit[image] : std::numeric_limits<float>::infinity();
  factors.inverse_limit = step.limit ? 1 / step.limit[image] : 1;
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
  const double sigma = static_cast<double>(step.eta) * row[kDdimSigma], spread = row[kNoise];
  const double direction = std::sqrt(std::max(row[kPreviousNoiseVariance] - sigma * sigma, 0.0));
  factors.of_x = static_cast<float>(direction / spread);
  factors.of_x0 = static_cast<float>(row[kPreviousSignal] - direction * row[kSignal] / spread);
  factors.of_gradient =
      static_cast<float>(step.scale * spread * (double{row[kPreviousSignal]} * row[kNoiseRatio] - direction));
  factors.of_noise = static_cast<float>(sigma);
}

Factors factors_of(const Step &step, const float *row, std::int64_t image, bool first) {
  Factors factors{};
  set_x0(step, row, image, factors);
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

// One tile's rows. What a step has no use for points at something whose factor is zero.
struct Rows {
  const float *x, *predicted, *values, *gradient, *noise, *unconditional;
  int length;
};

struct Buffers {
  alignas(64) float x[kTile], predicted[kTile], values[kTile], gradient[kTile], noise[kTile], unconditional[kTile];
};

Rows rows_of(const Shape &shape, const Steps &steps, const Step &step, const Factors &factors, const Tile &tile,
             Buffers &buffers) {
  Rows rows{};
  rows.length = tile.length;
  rows.x = read(shape, step.x, tile, buffers.x);
  rows.predicted = read(shape, step.predicted, tile, buffers.predicted);
  rows.values = read(shape, step.values, tile, buffers.values);
  rows.gradient = step.gradient.data ? read(shape, step.gradient, tile, buffers.gradient) : rows.x;
  const float *weak = read(shape, step.unconditional, tile, buffers.unconditional);
  rows.unconditional = weak ? weak : rows.predicted;
  const auto number = static_cast<std::uint32_t>(steps.t[tile.image]);
  rows.noise = factors.of_noise != 0 ? read_noise(shape, step.noise, number, kSampling, tile, buffers.noise) : rows.x;
  return rows;
}

template <bool Learned> struct Advance {
  GDUI_INLINE void operator()(const Factors &factors, const Rows &rows, float *out) const {
    const Factors f = factors;
#pragma GCC ivdep
    for (int i = 0; i < rows.length; ++i) {
      const float weak = rows.unconditional[i];
      const float predicted = weak + f.guidance * (rows.predicted[i] - weak);
      float x0 = f.x0_of_x * rows.x[i] + f.x0_of_predicted * predicted;
      x0 = x0 > f.limit ? f.limit : x0;
      x0 = x0 < -f.limit ? -f.limit : x0;
      float spread = 1.0f;
      if constexpr (Learned)
        spread = exponential(f.half_log_small + 0.5f * (rows.values[i] + 1.0f) * f.half_log_range);
      const float moved = f.of_x * rows.x[i] + f.of_x0 * (x0 * f.inverse_limit);
      out[i] = moved + spread * (f.of_gradient * spread * rows.gradient[i] + f.of_noise * rows.noise[i]);
    }
  }
};

} // namespace

void guided_step(const Shape &shape, const Steps &steps, const Step &step, const Output &out, int threads) {
  require_steps(steps, shape.images);
  const bool learned = step.method == Method::ancestral && step.variance == Variance::learned;
  for_each_tile(shape, threads, [&](const Tile &tile) {
    Buffers buffers;
    const Factors factors = factors_of(step, row_of(steps, tile.image), tile.image, steps.t[tile.image] == 0);
    const Rows rows = rows_of(shape, steps, step, factors, tile, buffers);
    Written written(shape, out, tile);
    if (learned)
      run_vectorised(Advance<true>{}, factors, rows, written.row());
    else
      run_vectorised(Advance<false>{}, factors, rows, written.row());
    written.finish();
  });
}

} // namespace gdui
