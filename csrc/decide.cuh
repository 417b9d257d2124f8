// The decisions of label-matching refinement, a cluster or a sample at a time. The CPU core and, at run time, the GPU
// compile this same text, so the two can't disagree. Nothing here may be contracted into fused multiply-adds.
#pragma once

#ifdef __CUDACC__
#define GDUI_BOTH __host__ __device__
#else
#define GDUI_BOTH
#endif

namespace gdui {

enum Branch : unsigned char { EMPTY, AGREED, BOTH_GOOD, TOP_BAD, BOTTOM_BAD, NO_VOTE };
enum Rule : unsigned char { BY_MATCH, BY_OPINION, BY_NO_VOTE, UNNAMED };

struct Policy {
  double weight_top, weight_btm; // normalised
  double lambda_delta, lambda_top, lambda_btm;
  bool relabel_no_vote;
};

struct Judgement {
  double delta_top, delta_btm, r_btm;
  Branch branch;
};

struct Decision {
  int label;
  Rule rule;
};

// The share of the listed samples whose opinion is the cluster's name.
template <class Index>
GDUI_BOTH double share_agreeing(const Index *sample, long long count, const int *opinion, int name) {
  long long agreeing = 0;
  for (long long i = 0; i < count; ++i)
    agreeing += opinion[sample[i]] == name;
  return static_cast<double>(agreeing) / static_cast<double>(count);
}

template <class Index, class Real>
GDUI_BOTH double mean_confidence(const Index *sample, long long count, const Real *confidence) {
  double sum = 0;
  for (long long i = 0; i < count; ++i)
    sum += static_cast<double>(confidence[sample[i]]);
  return sum / static_cast<double>(count);
}

// A tenth of a cluster rounded up, at most n.
GDUI_BOTH inline long long quota(long long size, long long n) {
  const long long tenth = size / 10 + (size % 10 != 0);
  return tenth < n ? tenth : n;
}

GDUI_BOTH inline Branch branch_of(double delta_top, double delta_btm, const Policy &policy) {
  if (policy.relabel_no_vote && delta_top == 0)
    return NO_VOTE;
  if (policy.weight_top * delta_top + policy.weight_btm * delta_btm > policy.lambda_delta)
    return AGREED;
  if (delta_top < policy.lambda_top)
    return TOP_BAD;
  return delta_btm < policy.lambda_btm ? BOTTOM_BAD : BOTH_GOOD;
}

// The samples of a cluster whose confidence is below this take the opinion's class.
GDUI_BOTH inline double relabel_below(Branch branch, double r_btm, double sigma) {
  const double infinity = 1e308 * 10;
  if (branch == NO_VOTE)
    return infinity;
  return (branch == TOP_BAD || branch == BOTTOM_BAD) && r_btm < sigma ? sigma : -infinity;
}

GDUI_BOTH inline Decision decide(double confidence, double below, Branch branch, int opinion, int name) {
  if (confidence < below)
    return {opinion, branch == NO_VOTE ? BY_NO_VOTE : BY_OPINION};
  return {name, name < 0 ? UNNAMED : BY_MATCH};
}

} // namespace gdui

#ifdef __CUDACC__

// One thread a cluster. Cluster k's samples are by_top[start[k]:start[k + 1]], the most confident first, and by_btm
// likewise, the least confident first.
template <class Real>
__global__ void gdui_judge(const long long *by_top, const long long *by_btm, const long long *start, long long clusters,
                           long long n, const Real *confidence, const int *opinion, const int *name, double weight_top,
                           double weight_btm, double lambda_delta, double lambda_top, double lambda_btm,
                           int relabel_no_vote, unsigned char *branch, double *delta_top, double *delta_btm,
                           double *r_btm) {
  const long long k = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= clusters)
    return;
  const gdui::Policy policy{weight_top, weight_btm, lambda_delta, lambda_top, lambda_btm, relabel_no_vote != 0};
  const long long count = gdui::quota(start[k + 1] - start[k], n);
  delta_top[k] = gdui::share_agreeing(by_top + start[k], count, opinion, name[k]);
  delta_btm[k] = gdui::share_agreeing(by_btm + start[k], count, opinion, name[k]);
  r_btm[k] = gdui::mean_confidence(by_btm + start[k], count, confidence);
  branch[k] = count == 0 ? gdui::EMPTY : gdui::branch_of(delta_top[k], delta_btm[k], policy);
}

// One thread a sample.
template <class Real>
__global__ void gdui_refine(const int *cluster, const Real *confidence, const int *opinion, long long samples,
                            const int *name, const unsigned char *branch, const double *r_btm, double sigma, int *label,
                            unsigned char *rule) {
  const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= samples)
    return;
  const int k = cluster[i];
  const gdui::Branch own = static_cast<gdui::Branch>(branch[k]);
  const double below = gdui::relabel_below(own, r_btm[k], sigma);
  const gdui::Decision made = gdui::decide(confidence[i], below, own, opinion[i], name[k]);
  label[i] = made.label;
  rule[i] = made.rule;
}

#endif
