// Stable matching of clusters (rows) with classes (columns), and the certificate of any matching.
//
// Pairs are ranked strictly: the higher entry first, then the higher in each tie-break table in turn, then the lower
// cluster, then the lower class. Entries must be finite.
#pragma once

#include "view.hpp"

#include <vector>

namespace gdui {

struct Market {
  Matrix priority;                 // what a cluster ranks classes by
  Matrix class_priority;           // what a class ranks clusters by; of the same shape
  std::vector<Matrix> tie_break;   // for both sides
  std::vector<std::int64_t> seats; // how many clusters each class takes
};

// Where both sides rank by the same table: the one stable matching, which is also the greedy one. -1 for no class.
std::vector<std::int64_t> match_shared(const Market &market, int threads);

// The stable matching that is best for every cluster: deferred acceptance, clusters propose.
std::vector<std::int64_t> match_two_sided(const Market &market);

struct Certificate {
  std::int64_t blocking_pairs;
  std::uint64_t checksum;     // of the table that clusters rank by
  std::vector<double> margin; // own entry less the best other one; NaN for a cluster without a class
  std::vector<double> value;  // own entry; NaN likewise
};

Certificate certify(const Market &market, const std::vector<std::int64_t> &class_of_cluster, int threads);

} // namespace gdui
