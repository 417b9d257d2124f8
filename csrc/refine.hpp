// The refinement of matched labels, and the sweep over its threshold.
#pragma once

#include "decide.cuh"
#include "view.hpp"

#include <vector>

namespace gdui {

struct Question {
  Labels cluster;
  Scores confidence, rank_by;
  Labels opinion;
  std::vector<std::int32_t> name; // the class of each cluster, -1 for none
  std::int64_t n;
  Policy policy;
};

// The judgement of every cluster, and its size.
struct Judged {
  std::vector<Judgement> cluster;
  std::vector<std::int64_t> size;
};

Judged judge(const Question &asked, int threads);
void refine(const Question &asked, const Judged &judged, double sigma, std::int32_t *label, std::uint8_t *rule,
            int threads);

// For each value of sigma: how many labels aren't their cluster's name, how many are the opinion's, the classes' sizes.
struct Outcome {
  std::vector<std::int64_t> changed, agreeing, class_size;
};

Outcome sweep(const Question &asked, const Judged &judged, const std::vector<double> &sigma, std::int64_t classes,
              int threads);

} // namespace gdui
