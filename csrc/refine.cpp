#include "refine.hpp"

#include "parallel.hpp"
#include "select.hpp"
#include "tally.hpp"

#include <algorithm>
#include <numeric>

namespace gdui {
namespace {

// The opinion and the confidence of the few samples that stand for their clusters, gathered.
struct Witnesses {
  std::vector<std::int32_t> opinion;
  std::vector<double> confidence;
};

Witnesses gather(const Question &asked, const std::int64_t *sample, std::int64_t count) {
  Witnesses out{std::vector<std::int32_t>(static_cast<std::size_t>(count)),
                std::vector<double>(static_cast<std::size_t>(count))};
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    out.opinion[at] = *asked.opinion.read_block(sample[i], sample[i] + 1, &out.opinion[at]);
    out.confidence[at] = *asked.confidence.read_block(sample[i], sample[i] + 1, &out.confidence[at]);
  }
  return out;
}

Judgement judge_cluster(const Question &asked, const Extremes &ends, std::int64_t k) {
  const auto at = static_cast<std::size_t>(k);
  const std::int64_t count = quota(ends.size[at], asked.n);
  const Witnesses top = gather(asked, ends.top.index.data() + ends.top.offset[at], count);
  const Witnesses btm = gather(asked, ends.bottom.index.data() + ends.bottom.offset[at], count);
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < order.size(); ++i)
    order[i] = static_cast<std::int64_t>(i);
  Judgement out{};
  out.delta_top = share_agreeing(order.data(), count, top.opinion.data(), asked.name[at]);
  out.delta_btm = share_agreeing(order.data(), count, btm.opinion.data(), asked.name[at]);
  out.r_btm = mean_confidence(order.data(), count, btm.confidence.data());
  out.branch = count == 0 ? EMPTY : branch_of(out.delta_top, out.delta_btm, asked.policy);
  return out;
}

// Calls visit(begin, count, cluster, confidence, opinion) block by block.
template <class Real, class Visit>
void each_block(const Question &asked, std::int64_t begin, std::int64_t end, const Visit &visit) {
  std::vector<std::int32_t> labels(block_size), voted(block_size);
  std::vector<Real> scores(block_size);
  for (std::int64_t at = begin; at < end; at += block_size) {
    const std::int64_t stop = std::min(end, at + block_size);
    const std::int32_t *k = asked.cluster.read_block(at, stop, labels.data());
    const std::int32_t *c = asked.opinion.read_block(at, stop, voted.data());
    visit(at, stop - at, k, asked.confidence.read_block(at, stop, scores.data()), c);
  }
}

template <class Visit>
void each_block(const Question &asked, std::int64_t begin, std::int64_t end, const Visit &visit) {
  if (asked.confidence.fits_float())
    each_block<float>(asked, begin, end, visit);
  else
    each_block<double>(asked, begin, end, visit);
}

// How many of the sorted values are at most x: the first whose value x is below.
class FirstAbove {
public:
  explicit FirstAbove(const std::vector<double> &sorted) : sorted_(sorted) {}

  std::int64_t operator()(double x) const {
    return std::upper_bound(sorted_.begin(), sorted_.end(), x) - sorted_.begin();
  }

private:
  const std::vector<double> &sorted_;
};

// From which value of sigma on each cluster hands samples to the opinion; one past the last for never.
std::vector<std::int64_t> first_relabelling(const Judged &judged, const std::vector<double> &sigma) {
  const FirstAbove first_above(sigma);
  std::vector<std::int64_t> first;
  for (const Judgement &judgement : judged.cluster) {
    const bool bad = judgement.branch == TOP_BAD || judgement.branch == BOTTOM_BAD;
    first.push_back(judgement.branch == NO_VOTE ? -1
                    : bad                       ? first_above(judgement.r_btm)
                                                : static_cast<std::int64_t>(sigma.size()));
  }
  return first;
}

// Outcomes are the matched labels' plus all that was gained and lost up to each step.
template <class Count>
Outcome summed(const Question &asked, const Judged &judged, const Tally<Count> &gained, const Tally<Count> &lost,
               std::int64_t agreeing, std::int64_t classes, std::int64_t steps) {
  std::vector<std::int64_t> size(static_cast<std::size_t>(classes), 0);
  for (std::size_t k = 0; k < judged.size.size(); ++k)
    if (asked.name[k] >= 0)
      size[static_cast<std::size_t>(asked.name[k])] += judged.size[k];
  Outcome out;
  std::int64_t changed = 0;
  for (std::int64_t step = 0; step < steps; ++step) {
    for (std::int64_t c = 0; c < classes; ++c) {
      const std::int64_t won = gained.total(step * classes + c);
      changed += won;
      size[static_cast<std::size_t>(c)] += won - lost.total(step * classes + c);
    }
    out.changed.push_back(changed);
    out.agreeing.push_back(agreeing + changed);
    out.class_size.insert(out.class_size.end(), size.begin(), size.end());
  }
  return out;
}

template <class Count>
Outcome count_outcomes(const Question &asked, const Judged &judged, const std::vector<double> &sigma,
                       std::int64_t classes, int threads) {
  const std::int64_t n = asked.cluster.values.size, steps = static_cast<std::int64_t>(sigma.size());
  const std::int64_t grain = std::max<std::int64_t>((n + threads - 1) / threads, 1 << 15);
  const std::int64_t workers = std::max<std::int64_t>(1, (n + grain - 1) / grain);
  const std::vector<std::int64_t> first = first_relabelling(judged, sigma);
  const FirstAbove first_above(sigma);
  Tally<Count> gained(steps * classes, workers), lost(steps * classes, workers);
  std::vector<std::int64_t> agreeing(static_cast<std::size_t>(workers), 0);
  parallel_chunks(n, grain, threads, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t worker = begin / grain;
    std::int64_t agreed = 0;
    each_block(asked, begin, end, [&](std::int64_t, std::int64_t count, const auto *k, const auto *p, const auto *c) {
      for (std::int64_t i = 0; i < count; ++i) {
        const auto own = static_cast<std::size_t>(k[i]);
        agreed += c[i] == asked.name[own];
        if (c[i] == asked.name[own] || first[own] == steps)
          continue;
        const std::int64_t when = first[own] < 0 ? 0 : std::max(first[own], first_above(p[i]));
        if (when < steps) {
          gained.raise(worker, when * classes + c[i]);
          if (asked.name[own] >= 0)
            lost.raise(worker, when * classes + asked.name[own]);
        }
      }
    });
    agreeing[static_cast<std::size_t>(worker)] = agreed;
  });
  return summed(asked, judged, gained, lost, std::accumulate(agreeing.begin(), agreeing.end(), std::int64_t{0}),
                classes, steps);
}

} // namespace

Judged judge(const Question &asked, int threads) {
  Extremes ends = extremes(asked.cluster, asked.rank_by, asked.n, threads);
  Judged out{std::vector<Judgement>(ends.size.size()), std::move(ends.size)};
  ends.size = out.size;
  parallel_chunks(asked.cluster.upper, 16, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k)
      out.cluster[static_cast<std::size_t>(k)] = judge_cluster(asked, ends, k);
  });
  return out;
}

void refine(const Question &asked, const Judged &judged, double sigma, std::int32_t *label, std::uint8_t *rule,
            int threads) {
  std::vector<double> below;
  for (const Judgement &judgement : judged.cluster)
    below.push_back(relabel_below(judgement.branch, judgement.r_btm, sigma));
  parallel_chunks(asked.cluster.values.size, 1 << 16, threads, [&](std::int64_t begin, std::int64_t end) {
    each_block(asked, begin, end,
               [&](std::int64_t at, std::int64_t count, const auto *k, const auto *p, const auto *c) {
                 for (std::int64_t i = 0; i < count; ++i) {
                   const auto own = static_cast<std::size_t>(k[i]);
                   const Decision made = decide(p[i], below[own], judged.cluster[own].branch, c[i], asked.name[own]);
                   label[at + i] = made.label;
                   rule[at + i] = made.rule;
                 }
               });
  });
}

Outcome sweep(const Question &asked, const Judged &judged, const std::vector<double> &sigma, std::int64_t classes,
              int threads) {
  return with_counter(asked.cluster.values.size, [&](auto zero) {
    return count_outcomes<decltype(zero)>(asked, judged, sigma, classes, threads);
  });
}

} // namespace gdui
