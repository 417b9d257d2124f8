// The arithmetic of diffusion on float images: noising, the denoising loss with its gradient, and a guided step.
//
// Images are [batch, channels, positions] with any strides. Noise is given, or drawn on the way from a seed an image.
#pragma once

#include <cstdint>
#include <vector>

namespace gdui {

// The columns of a schedule's table, as kernels/tables.py has them.
enum Column {
  kSignal,
  kNoise,
  kInverseSignal,
  kNoiseRatio,
  kPosteriorX0,
  kPosteriorXt,
  kSmallVariance,
  kSmallLogVariance,
  kLargeVariance,
  kLargeLogVariance,
  kLogBeta,
  kDdimSigma,
  kPreviousSignal,
  kPreviousNoiseVariance,
  kSnr,
  kTimestep,
  kColumns
};

enum class Target { eps, x0, v };
enum class Weighting { none, min_snr, p2 };
enum class Kind { simple, hybrid, vlb };
enum class Method { ancestral, ddim };
enum class Variance { learned, small, large };
enum class Clip { none, one, quantile };

struct Shape {
  std::int64_t images, channels, positions;
  std::int64_t count() const { return channels * positions; }
};

// A tensor of a known shape; an absent one has no data.
template <class T> struct View {
  T *data = nullptr;
  std::int64_t image = 0, channel = 0, position = 0; // strides
};
using Input = View<const float>;
using Output = View<float>;

struct Noise {
  Input given;
  const std::int64_t *seeds = nullptr;
};

// Each image's step, and the rows of the table.
struct Steps {
  const std::int64_t *t;
  const float *table;
  std::int64_t steps;
};

struct Loss {
  Kind kind;
  Target target;
  Weighting weighting;
  float bound_scale; // of the variational bound, beside the mean square
  Input predicted, values, x0;
  Noise noise;
};

// Derivatives of Σ above * loss; those by `values` only where the loss has a variational bound.
struct Gradients {
  const float *above = nullptr; // one an image; all one if null
  Output predicted, values;
};

struct Step {
  Method method;
  Variance variance;
  Target target;
  float scale, eta, guidance;
  Clip clip;
  std::int64_t rank; // of the quantile among an image's sizes, from one
  Input x, predicted, values, gradient, unconditional;
  Noise noise;
};

void noise_images(const Shape &shape, const Steps &steps, const Input &x0, const Noise &noise, const Output &out,
                  int threads);
// Fills `out` with each image's loss and, where `gradients` has room for them, the derivatives in the same pass.
void denoising_loss(const Shape &shape, const Steps &steps, const Loss &loss, const Gradients &gradients, float *out,
                    int threads);
void guided_step(const Shape &shape, const Steps &steps, const Step &step, const Output &out, int threads);

} // namespace gdui
