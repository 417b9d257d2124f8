#include "select.hpp"

#include "parallel.hpp"
#include "tally.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>

namespace gdui {
namespace {

using Counts = std::vector<std::int64_t>;

template <class Key> struct Entry {
  Key key;
  std::int64_t index;
};

template <class Key> bool better(const Entry<Key> &a, const Entry<Key> &b) {
  return a.key != b.key ? a.key > b.key : a.index < b.index;
}

// The entries of the highest keys of each cluster. Gathers up to twice as many as wanted before it throws half away,
// so an entry costs constant time; `floor` is what a new key must exceed (an equal one comes later, so it loses).
template <class Key> class Keeper {
public:
  explicit Keeper(const Counts &wanted) : wanted_(wanted), kept_(wanted.size()), floor_(wanted.size()) {
    for (std::size_t k = 0; k < wanted.size(); ++k)
      floor_[k] = wanted[k] > 0 ? -std::numeric_limits<Key>::infinity() : std::numeric_limits<Key>::infinity();
  }

  void offer(std::int32_t k, Key key, std::int64_t index) {
    const auto cluster = static_cast<std::size_t>(k);
    if (key > floor_[cluster])
      keep(cluster, {key, index});
  }

  const std::vector<Entry<Key>> &kept(std::size_t k) const { return kept_[k]; }

private:
  void keep(std::size_t k, Entry<Key> entry) {
    auto &kept = kept_[k];
    kept.push_back(entry);
    if (static_cast<std::int64_t>(kept.size()) / 2 < wanted_[k])
      return;
    const auto last = kept.begin() + wanted_[k] - 1;
    std::nth_element(kept.begin(), last, kept.end(), better<Key>);
    floor_[k] = last->key;
    kept.resize(static_cast<std::size_t>(wanted_[k]));
  }

  const Counts &wanted_;
  std::vector<std::vector<Entry<Key>>> kept_;
  std::vector<Key> floor_;
};

std::int64_t share_of(std::int64_t n, int threads) {
  const std::int64_t even = (n + threads - 1) / threads;
  return std::max<std::int64_t>(even, 1 << 15);
}

std::int64_t shares(std::int64_t n, std::int64_t grain) { return std::max<std::int64_t>(1, (n + grain - 1) / grain); }

// Calls visit(worker, cluster, key, index) for every sample, each worker's samples in rising order.
template <class Key, class Visit>
void each_sample(const Labels &cluster, const Scores &confidence, std::int64_t grain, int threads, const Visit &visit) {
  parallel_chunks(cluster.values.size, grain, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::int32_t> labels(block_size);
    std::vector<Key> scores(block_size);
    const auto &take = visit(begin / grain);
    for (std::int64_t at = begin; at < end; at += block_size) {
      const std::int64_t stop = std::min(end, at + block_size);
      const std::int32_t *k = cluster.read_block(at, stop, labels.data());
      const Key *key = confidence.read_block(at, stop, scores.data());
      take(k, key, at, stop - at);
    }
  });
}

// What all workers kept, best first, cut to what is wanted.
template <class Key>
Selection merged(const std::vector<std::unique_ptr<Keeper<Key>>> &parts, const Counts &wanted, int threads) {
  Selection out;
  out.offset.assign(1, 0);
  for (std::size_t k = 0; k < wanted.size(); ++k) {
    std::int64_t found = 0;
    for (const auto &part : parts)
      found += part ? static_cast<std::int64_t>(part->kept(k).size()) : 0;
    out.offset.push_back(out.offset.back() + std::min(found, wanted[k]));
  }
  out.index.resize(static_cast<std::size_t>(out.offset.back()));
  parallel_chunks(static_cast<std::int64_t>(wanted.size()), 16, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<Entry<Key>> all;
    for (auto k = static_cast<std::size_t>(begin); k < static_cast<std::size_t>(end); ++k) {
      all.clear();
      for (const auto &part : parts)
        if (part)
          all.insert(all.end(), part->kept(k).begin(), part->kept(k).end());
      const std::int64_t count = out.offset[k + 1] - out.offset[k];
      std::partial_sort(all.begin(), all.begin() + count, all.end(), better<Key>);
      std::transform(all.begin(), all.begin() + count, out.index.begin() + out.offset[k],
                     [](const Entry<Key> &entry) { return entry.index; });
    }
  });
  return out;
}

template <class Key, bool most>
Selection select(const Labels &cluster, const Scores &confidence, const Counts &wanted, int threads) {
  const std::int64_t n = cluster.values.size, grain = share_of(n, threads);
  std::vector<std::unique_ptr<Keeper<Key>>> parts(static_cast<std::size_t>(shares(n, grain)));
  each_sample<Key>(cluster, confidence, grain, threads, [&](std::int64_t worker) {
    auto &part = parts[static_cast<std::size_t>(worker)];
    part = std::make_unique<Keeper<Key>>(wanted);
    return [keeper = part.get()](const std::int32_t *k, const Key *key, std::int64_t at, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i)
        keeper->offer(k[i], most ? key[i] : -key[i], at + i);
    };
  });
  return merged(parts, wanted, threads);
}

template <class Key> Extremes both_ends(const Labels &cluster, const Scores &confidence, std::int64_t n, int threads) {
  const Counts wanted(static_cast<std::size_t>(cluster.upper), n);
  const std::int64_t grain = share_of(cluster.values.size, threads);
  const auto workers = static_cast<std::size_t>(shares(cluster.values.size, grain));
  std::vector<std::unique_ptr<Keeper<Key>>> high(workers), low(workers);
  std::vector<Counts> size(workers);
  each_sample<Key>(cluster, confidence, grain, threads, [&](std::int64_t worker) {
    const auto w = static_cast<std::size_t>(worker);
    high[w] = std::make_unique<Keeper<Key>>(wanted);
    low[w] = std::make_unique<Keeper<Key>>(wanted);
    size[w].assign(wanted.size(), 0);
    return [top = high[w].get(), bottom = low[w].get(), &counts = size[w]](const std::int32_t *k, const Key *key,
                                                                           std::int64_t at, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) {
        ++counts[static_cast<std::size_t>(k[i])];
        top->offer(k[i], key[i], at + i);
        bottom->offer(k[i], -key[i], at + i);
      }
    };
  });
  Counts total(wanted.size(), 0);
  for (const Counts &part : size)
    std::transform(part.begin(), part.end(), total.begin(), total.begin(), std::plus<>());
  return {std::move(total), merged(high, wanted, threads), merged(low, wanted, threads)};
}

template <class Count> void count_votes(const Labels &votes, const Labels &cluster, double *table, int threads) {
  const std::int64_t n = votes.values.size, grain = share_of(n, threads), classes = votes.upper;
  Tally<Count> tally(cluster.upper * classes, shares(n, grain));
  parallel_chunks(n, grain, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::int32_t> labels(block_size), voted(block_size);
    for (std::int64_t at = begin; at < end; at += block_size) {
      const std::int64_t stop = std::min(end, at + block_size);
      const std::int32_t *k = cluster.read_block(at, stop, labels.data());
      const std::int32_t *c = votes.read_block(at, stop, voted.data());
      for (std::int64_t i = 0; i < stop - at; ++i)
        tally.raise(begin / grain, k[i] * classes + c[i]);
    }
  });
  parallel_chunks(cluster.upper, 64, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      double *row = table + k * classes, size = 0;
      for (std::int64_t c = 0; c < classes; ++c)
        size += row[c] = static_cast<double>(tally.total(k * classes + c));
      for (std::int64_t c = 0; c < classes && size > 0; ++c)
        row[c] /= size;
    }
  });
}

} // namespace

Selection most_confident(const Labels &cluster, const Scores &confidence, const Counts &wanted, int threads) {
  return confidence.fits_float() ? select<float, true>(cluster, confidence, wanted, threads)
                                 : select<double, true>(cluster, confidence, wanted, threads);
}

Selection least_confident(const Labels &cluster, const Scores &confidence, const Counts &wanted, int threads) {
  return confidence.fits_float() ? select<float, false>(cluster, confidence, wanted, threads)
                                 : select<double, false>(cluster, confidence, wanted, threads);
}

Extremes extremes(const Labels &cluster, const Scores &confidence, std::int64_t n, int threads) {
  return confidence.fits_float() ? both_ends<float>(cluster, confidence, n, threads)
                                 : both_ends<double>(cluster, confidence, n, threads);
}

void vote_shares(const Labels &votes, const Labels &cluster, double *table, int threads) {
  with_counter(votes.values.size, [&](auto zero) { count_votes<decltype(zero)>(votes, cluster, table, threads); });
}

} // namespace gdui
