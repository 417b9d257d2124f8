#include <cmath>

#include "likelihood.hpp"
#include "tiles.hpp"

namespace gdui {
namespace {

constexpr double kLn2 = 0.6931471805599453;

// What the loss of one image is made of. With d = predicted - truth, the true and the predicted posterior mean are
// slope * d apart, whatever the target.
struct Terms {
  float truth_noise, truth_x0; // truth = truth_noise * noise + truth_x0 * x0
  float square, bound;         // factors of d^2 and of the variational bound in nats
  float slope;
  float log_small, log_range, inverse_small;
  bool first, through_mean;
  bool needs_noise() const { return truth_noise != 0; }
  bool needs_x0() const { return truth_x0 != 0 || (first && bound != 0); }
};

float weight_of(float snr, Target target, Weighting weighting) {
  if (weighting == Weighting::none)
    return 1;
  const float of_x0 = weighting == Weighting::min_snr ? std::min(snr, 5.0f) : snr / (1 + snr);
  return target == Target::eps ? of_x0 / snr : target == Target::v ? of_x0 / (snr + 1) : of_x0;
}

Terms terms_of(const Loss &loss, const float *row, bool first) {
  Terms terms{};
  const bool eps = loss.target == Target::eps, v = loss.target == Target::v;
  terms.truth_noise = eps ? 1 : v ? row[kSignal] : 0;
  terms.truth_x0 = eps ? 0 : v ? -row[kNoise] : 1;
  terms.square = loss.kind == Kind::vlb ? 0 : weight_of(row[kSnr], loss.target, loss.weighting);
  terms.bound = loss.kind == Kind::simple ? 0 : static_cast<float>(loss.bound_scale / kLn2);
  terms.slope = row[kPosteriorX0] * (eps ? row[kNoiseRatio] : v ? row[kNoise] : -1);
  terms.log_small = row[kSmallLogVariance];
  terms.log_range = row[kLogBeta] - row[kSmallLogVariance];
  terms.inverse_small = std::exp(-row[kSmallLogVariance]);
  terms.first = first;
  terms.through_mean = loss.kind == Kind::vlb;
  return terms;
}

// One tile's rows. What a loss has no use for points at the prediction: its factor is zero.
struct Rows {
  const float *predicted, *values, *noise, *x0;
  int length;
  GDUI_INLINE float error(const Terms &terms, int i) const {
    return predicted[i] - terms.truth_noise * noise[i] - terms.truth_x0 * x0[i];
  }
};

struct Buffers {
  alignas(64) float predicted[kTile], values[kTile], noise[kTile], x0[kTile];
};

Rows rows_of(const Shape &shape, const Loss &loss, const Terms &terms, const Tile &tile, Buffers &buffers) {
  const float *predicted = read(shape, loss.predicted, tile, buffers.predicted);
  const float *noise =
      terms.needs_noise() ? read_noise(shape, loss.noise, 0, kTraining, tile, buffers.noise) : predicted;
  const float *x0 = terms.needs_x0() ? read(shape, loss.x0, tile, buffers.x0) : predicted;
  return {predicted, read(shape, loss.values, tile, buffers.values), noise, x0, tile.length};
}

// e^r - 1 - r; near zero, where that cancels, its series.
GDUI_INLINE float excess(float r, float power) {
  const float series = r * r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120))));
  return std::fabs(r) < 0.1f ? series : power - 1.0f - r;
}

// The divergence of two Gaussians whose means are slope * error apart; the ratio of their variances is e^`log_ratio`.
struct Divergence {
  GDUI_INLINE Divergence(const Terms &terms, float error, float value)
      : log_ratio(-0.5f * (value + 1.0f) * terms.log_range), ratio(exponential(log_ratio)),
        over(excess(log_ratio, ratio)), apart(terms.slope * terms.slope * error * ratio * terms.inverse_small),
        error(error) {}
  GDUI_INLINE float value() const { return 0.5f * (over + apart * error); }
  GDUI_INLINE float by_error() const { return apart; }
  GDUI_INLINE float by_log_variance() const { return -0.5f * (log_ratio + over + apart * error); }
  float log_ratio, ratio, over, apart, error;
};

GDUI_INLINE Surprise surprise_at(const Rows &rows, const Terms &terms, int i) {
  const float log_variance = terms.log_small + 0.5f * (rows.values[i] + 1.0f) * terms.log_range;
  return surprise(rows.x0[i], terms.slope * rows.error(terms, i), log_variance);
}

// The sum of term(i) over i below `length`, in as many parts as a vector has lanes, so that compilers make one of it.
template <class Term> GDUI_INLINE float sum_of(int length, const Term &term) {
  constexpr int kParts = 16;
  float parts[kParts] = {}, sum = 0;
  int i = 0;
  for (; i + kParts <= length; i += kParts)
    for (int j = 0; j < kParts; ++j)
      parts[j] += term(i + j);
  for (; i < length; ++i)
    sum += term(i);
  for (const float part : parts)
    sum += part;
  return sum;
}

struct SquaredError {
  GDUI_INLINE float operator()(int i) const {
    const float error = rows.error(terms, i);
    return error * error;
  }
  const Terms &terms;
  const Rows &rows;
};

struct FirstStep {
  GDUI_INLINE float operator()(int i) const { return surprise_at(rows, terms, i).value; }
  const Terms &terms;
  const Rows &rows;
};

struct LaterStep {
  GDUI_INLINE float operator()(int i) const { return Divergence(terms, rows.error(terms, i), rows.values[i]).value(); }
  const Terms &terms;
  const Rows &rows;
};

struct Sum {
  GDUI_INLINE void operator()(const Terms &terms, const Rows &rows, float &out) const {
    float sum = 0;
    if (terms.square != 0)
      sum = terms.square * sum_of(rows.length, SquaredError{terms, rows});
    if (terms.bound != 0)
      sum += terms.bound *
             (terms.first ? sum_of(rows.length, FirstStep{terms, rows}) : sum_of(rows.length, LaterStep{terms, rows}));
    out = sum;
  }
};

struct Gradient {
  GDUI_INLINE void operator()(const Terms &terms, const Rows &rows, float above, float *dpredicted,
                              float *dvalues) const {
    const float of_square = 2.0f * above * terms.square, of_bound = above * terms.bound;
    const float of_mean = terms.through_mean ? of_bound : 0.0f;
    if (terms.bound == 0) {
#pragma GCC ivdep
      for (int i = 0; i < rows.length; ++i)
        dpredicted[i] = of_square * rows.error(terms, i);
    } else if (terms.first) {
      for (int i = 0; i < rows.length; ++i) {
        const Surprise at = surprise_at(rows, terms, i);
        dpredicted[i] = of_square * rows.error(terms, i) + of_mean * terms.slope * at.by_away;
        dvalues[i] = of_bound * 0.5f * terms.log_range * at.by_log_variance;
      }
    } else {
#pragma GCC ivdep
      for (int i = 0; i < rows.length; ++i) {
        const float error = rows.error(terms, i);
        const Divergence at(terms, error, rows.values[i]);
        dpredicted[i] = of_square * error + of_mean * at.by_error();
        dvalues[i] = of_bound * 0.5f * terms.log_range * at.by_log_variance();
      }
    }
  }
};

} // namespace

void denoising_loss(const Shape &shape, const Steps &steps, const Loss &loss, const Gradients &gradients, float *out,
                    int threads) {
  require_steps(steps, shape.images);
  const std::int64_t tiles = tiles_of(shape);
  const auto count = static_cast<float>(shape.count());
  std::vector<float> sums(shape.images * tiles);
  for_each_tile(shape, threads, [&](const Tile &tile) {
    Buffers buffers;
    const Terms terms = terms_of(loss, row_of(steps, tile.image), steps.t[tile.image] == 0);
    const Rows rows = rows_of(shape, loss, terms, tile, buffers);
    run_vectorised(Sum{}, terms, rows, sums[tile.image * tiles + tile.start / kTile]);
    if (!gradients.predicted.data)
      return;
    const float above = gradients.above ? gradients.above[tile.image] : 1.0f;
    Written to_predicted(shape, gradients.predicted, tile), to_values(shape, gradients.values, tile);
    run_vectorised(Gradient{}, terms, rows, above / count, to_predicted.row(), to_values.row());
    to_predicted.finish();
    if (loss.kind != Kind::simple)
      to_values.finish();
  });
  for (std::int64_t image = 0; image < shape.images; ++image) {
    double sum = 0;
    for (std::int64_t i = 0; i < tiles; ++i)
      sum += sums[image * tiles + i];
    out[image] = static_cast<float>(sum / count);
  }
}

} // namespace gdui
