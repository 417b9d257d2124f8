// The two costly steps of k-means beside the search for the nearest mean: where it begins, and the sums it moves to.
#pragma once

#include <cstdint>

#include "processor.hpp"

namespace gdui {

// k-means++: which of `n` unit rows of padded width (see similarity.hpp) are the first `k` means. The i-th is drawn by
// draws[i] in [0, 1), a row being likelier the farther it lies from those before it. Nothing but time depends on
// `threads` and on `most`, the instructions that may be used.
void first_means(const float *rows, std::int64_t n, std::int64_t width, std::int64_t k, const double *draws,
                 int threads, Instructions most, std::int64_t *chosen);

// Sums [k, width] of each cluster's rows [n, width], taken in their order.
void cluster_sums(const float *rows, const std::int32_t *cluster, std::int64_t n, std::int64_t width, std::int64_t k,
                  int threads, double *sums);

} // namespace gdui
