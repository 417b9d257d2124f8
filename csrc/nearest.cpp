#include "nearest.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "hits.hpp"
#include "parallel.hpp"
#include "rough.hpp"
#include "similarity.hpp"

namespace gdui {
namespace {

constexpr std::int64_t kTile = 32 * kGroup; // queries that walk through the columns together
constexpr int kAhead = 3;                   // rows to fetch ahead of the one that is compared
constexpr float kNever = std::numeric_limits<float>::infinity();

struct Search {
  const float *rows, *queries;
  std::int64_t n, n_queries, width, k;
  bool self, leave_self_out;
  Product product;
  Centre centre;
  std::vector<std::int32_t> order;       // column c is row order[c]
  std::vector<std::int32_t> query_order; // queries that are near each other stand together, as do columns
  Columns columns;
  Similarity similarity;
};

std::vector<std::int32_t> as_they_stand(std::int64_t n) {
  std::vector<std::int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// Rows of the same nearest pivot side by side: a query that begins among its likes soon has a high threshold, and
// neighbouring queries compare the same rows while these are in the cache.
std::vector<std::int32_t> by_pivot(const float *rows, std::int64_t n, std::int64_t width, Similarity similarity,
                                   int threads) {
  const std::int64_t pivots = std::clamp<std::int64_t>(n / 1000, 1, 64), step = n / pivots;
  std::vector<std::int32_t> pivot(n), order = as_they_stand(n);
  parallel_chunks(n, 256, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> row(width);
    for (std::int64_t i = begin; i < end; ++i) {
      std::copy_n(rows + i * width, width, row.begin());
      Hit best{0, -kNever};
      for (std::int32_t p = 0; p < pivots; ++p)
        best = std::min(best, Hit{p, similarity(row.data(), rows + p * step * width, width)}, nearer);
      pivot[i] = best.index;
    }
  });
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return pivot[a] < pivot[b]; });
  return order;
}

// A column that may be among a query's nearest, and what its similarity lies between.
struct Candidate {
  std::int32_t column;
  float upper, lower;
};

struct Candidates {
  std::vector<Candidate> all;
  std::size_t limit = 0; // how many to gather before the hopeless are dropped
};

// Raises the threshold to the k-th best lower bound, and drops what can't reach it.
void drop_hopeless(std::int64_t k, Candidates &candidates, float &threshold, std::vector<float> &scratch) {
  auto &all = candidates.all;
  scratch.clear();
  for (const Candidate &candidate : all)
    if (candidate.lower >= threshold)
      scratch.push_back(candidate.lower);
  if (static_cast<std::int64_t>(scratch.size()) > k) {
    std::nth_element(scratch.begin(), scratch.begin() + (k - 1), scratch.end(), std::greater<float>());
    threshold = scratch[k - 1];
    const auto hopeless = [threshold](const Candidate &candidate) { return candidate.upper < threshold; };
    all.erase(std::remove_if(all.begin(), all.end(), hopeless), all.end());
  }
  candidates.limit = 2 * std::max(all.size(), static_cast<std::size_t>(2 * k));
}

void prefetch(const float *row, std::int64_t width) {
  for (std::int64_t t = 0; t < width; t += 16)
    __builtin_prefetch(row + t);
}

// Compares the candidates exactly: first the k that look best, then those that can reach the worst of these.
void settle(const Search &search, std::int64_t query, std::vector<Candidate> &candidates, std::int32_t *indices,
            float *similarities) {
  const float *from = search.queries + query * search.width;
  const std::vector<double> wide(from, from + search.width);
  const auto row = [&](const Candidate &candidate) {
    return search.rows + search.order[candidate.column] * search.width;
  };
  std::vector<Hit> hits;
  const auto compare = [&](auto begin, auto end) {
    for (auto candidate = begin; candidate != end; ++candidate) {
      if (end - candidate > kAhead)
        prefetch(row(candidate[kAhead]), search.width);
      hits.push_back({search.order[candidate->column], search.similarity(wide.data(), row(*candidate), search.width)});
    }
  };
  const auto kth = candidates.begin() + search.k;
  std::nth_element(candidates.begin(), kth - 1, candidates.end(),
                   [](const Candidate &a, const Candidate &b) { return a.upper > b.upper; });
  compare(candidates.begin(), kth);
  const float threshold = std::max_element(hits.begin(), hits.end(), nearer)->similarity;
  compare(kth, std::remove_if(kth, candidates.end(), [threshold](const Candidate &c) { return c.upper < threshold; }));
  std::nth_element(hits.begin(), hits.begin() + (search.k - 1), hits.end(), nearer);
  std::sort(hits.begin(), hits.begin() + search.k, nearer);
  write(hits.data(), search.k, indices + query * search.k, similarities + query * search.k);
}

// The queries [begin, end) against all columns.
class Tile {
public:
  Tile(const Search &search, std::int64_t begin, std::int64_t end)
      : search_(search), begin_(begin), end_(end), stride_(search.width * search.product.value_size),
        values_(kTile * stride_), rows_(kTile), thresholds_(kTile, kNever), candidates_(kTile) {
    std::vector<double> scratch(search.width);
    for (std::int64_t i = begin; i < end; ++i) {
      const float *query = search.queries + search.query_order[i] * search.width;
      rows_[i - begin] = encode(search.product, search.centre, query, scratch, values_.data() + (i - begin) * stride_);
      thresholds_[i - begin] = -kNever;
      candidates_[i - begin].limit = 4 * search.k;
    }
  }

  void run(std::int32_t *indices, float *similarities) {
    const std::int64_t panels = static_cast<std::int64_t>(search_.columns.panels.size());
    const std::int64_t start = search_.self ? begin_ / kPanel : 0;
    for (std::int64_t p = 0; p < panels; ++p)
      for (std::int64_t group = 0; group < end_ - begin_; group += kGroup)
        gather(group, (start + p) % panels);
    for (std::int64_t i = 0; i < end_ - begin_; ++i) {
      drop_hopeless(search_.k, candidates_[i], thresholds_[i], scratch_);
      settle(search_, search_.query_order[begin_ + i], candidates_[i].all, indices, similarities);
    }
  }

private:
  void gather(std::int64_t group, std::int64_t panel) {
    const Columns &columns = search_.columns;
    search_.product.bounds(values_.data() + group * stride_, &rows_[group], &thresholds_[group],
                           columns.values.data() + panel * columns.panel_size, columns.panels[panel], search_.width,
                           bounds_);
    for (std::int64_t r = 0; r < kGroup; ++r) {
      Candidates &candidates = candidates_[group + r];
      for (std::uint64_t left = bounds_.reaches[r]; left != 0; left &= left - 1) {
        const std::int64_t column = __builtin_ctzll(left), place = panel * kPanel + column;
        if (search_.leave_self_out && place == begin_ + group + r)
          continue;
        const float upper = bounds_.upper[r][column];
        const float lower = upper - 2 * doubt(rows_[group + r], columns.panels[panel], column);
        candidates.all.push_back({static_cast<std::int32_t>(place), upper, lower});
      }
      if (candidates.all.size() > candidates.limit)
        drop_hopeless(search_.k, candidates, thresholds_[group + r], scratch_);
    }
  }

  const Search &search_;
  std::int64_t begin_, end_, stride_;
  Bytes values_;
  std::vector<Row> rows_;
  std::vector<float> thresholds_, scratch_;
  std::vector<Candidates> candidates_;
  Bounds bounds_;
};

} // namespace

void nearest(const float *rows, std::int64_t n, const float *queries, std::int64_t n_queries, std::int64_t width,
             std::int64_t k, bool leave_self_out, int threads, bool portable, std::int32_t *indices,
             float *similarities) {
  const bool self = rows == queries;
  const Similarity similarity = gdui::similarity(portable);
  Search search{rows,
                queries,
                n,
                n_queries,
                width,
                k,
                self,
                leave_self_out,
                product(width, portable),
                mean(rows, n, width),
                by_pivot(rows, n, width, similarity, threads),
                {},
                {},
                similarity};
  search.query_order = self ? search.order : as_they_stand(n_queries);
  search.columns = encode_columns(search.product, search.centre, rows, search.order, threads);
  parallel_chunks(n_queries, kTile, threads,
                  [&](std::int64_t begin, std::int64_t end) { Tile(search, begin, end).run(indices, similarities); });
}

} // namespace gdui
