// Cosine similarity with one meaning on every machine: the float32 nearest to a sum taken in float64 in a fixed order.
#pragma once

#include <cstdint>

#include "processor.hpp"

namespace gdui {

// Unit rows are padded with zeros to a multiple of this many columns.
constexpr std::int64_t kLanes = 32;

inline std::int64_t padded(std::int64_t columns) { return (columns + kLanes - 1) / kLanes * kLanes; }

// Scales `n` rows of `d` numbers to length one, into `n` rows of padded(d); a row of zeros stays zero.
// `first` is the number of the first row, for the message when a number is not finite.
template <class Real> void unit_rows(const Real *rows, std::int64_t n, std::int64_t d, std::int64_t first, float *unit);

// The dot product of two unit rows. Products of floats are exact in double, so neither fused multiply-add nor the width
// of a vector register can change a bit: the lanes and their summation order are all there is.
using Similarity = float (*)(const double *query, const float *row, std::int64_t width);

// The fastest version that this processor has and that needs no more than these instructions.
Similarity similarity(Instructions most = Instructions::amx);

// Orders each query's `k` candidates (row numbers) by falling similarity, ties by the lower number.
void rank(const float *rows, const float *queries, std::int64_t n_queries, std::int64_t width, std::int64_t k,
          int threads, std::int32_t *indices, float *similarities);

} // namespace gdui
