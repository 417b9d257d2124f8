// Euclidean balls: how far the k-th nearest row lies, and which points lie in any ball. Cheap products leave few
// candidates, and those are measured exactly.
#pragma once

#include <cstdint>

#include "processor.hpp"

namespace gdui {

// All rows and points have padded width and a length of at most 1/2, beyond which the bounds don't hold. Distances are
// float64 sums in a fixed order; nothing but time depends on `threads` and `most`.

// The squared distance from each of `n` rows to its `k`-th nearest; a row is the first of its own nearest.
void radii(const float *rows, std::int64_t n, std::int64_t width, std::int64_t k, int threads, Instructions most,
           double *squares);

// For each point 1 if some row lies within the radius of its ball, else 0. Radii come squared, as from `radii`.
void inside(const float *points, std::int64_t n_points, const float *rows, const double *squares, std::int64_t n,
            std::int64_t width, int threads, Instructions most, std::uint8_t *out);

} // namespace gdui
