// The most and the least confident samples of each cluster, and histograms of votes: one pass over the data.
#pragma once

#include "view.hpp"

#include <vector>

namespace gdui {

// Cluster k owns index[offset[k]] to index[offset[k + 1]], the best first; ties go to the lower index.
struct Selection {
  std::vector<std::int64_t> index, offset;
};

struct Extremes {
  std::vector<std::int64_t> size; // samples of each cluster
  Selection top, bottom;
};

Selection most_confident(const Labels &cluster, const Scores &confidence, const std::vector<std::int64_t> &wanted,
                         int threads);
Selection least_confident(const Labels &cluster, const Scores &confidence, const std::vector<std::int64_t> &wanted,
                          int threads);
// Both ends at once, at most n samples each.
Extremes extremes(const Labels &cluster, const Scores &confidence, std::int64_t n, int threads);

// table[k, c] = the share of cluster k's samples that vote for c; table holds cluster.upper * votes.upper cells.
void vote_shares(const Labels &votes, const Labels &cluster, double *table, int threads);

} // namespace gdui
