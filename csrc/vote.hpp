// How many of a sample's neighbours share its cluster.
#pragma once

#include "view.hpp"

namespace gdui {

// share[i] = the share of row i's neighbours whose cluster is sample i's own; neighbors is [N, k] with k at least 1.
void consistency(const Matrix &neighbors, const Labels &cluster, double *share, int threads);

} // namespace gdui
