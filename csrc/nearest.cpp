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

constexpr int kAhead = 3; // rows to fetch ahead of the one that is compared

struct Search {
  const float *rows, *queries;
  std::int64_t n, n_queries, width, k;
  bool self, leave_self_out;
  Product product;
  Similarity similarity;
  Centres centres;
  Columns columns;

  // Queries that are near each other stand together, as columns do: a query that begins among its likes soon has a high
  // threshold, and neighbours compare the same rows while these are in the cache.
  std::int64_t query_at(std::int64_t place) const { return self ? columns.order[place] : place; }
};

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
    return search.rows + search.columns.order[candidate.column] * search.width;
  };
  std::vector<Hit> hits;
  const auto compare = [&](auto begin, auto end) {
    for (auto candidate = begin; candidate != end; ++candidate) {
      if (end - candidate > kAhead)
        prefetch(row(candidate[kAhead]), search.width);
      hits.push_back(
          {search.columns.order[candidate->column], search.similarity(wide.data(), row(*candidate), search.width)});
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
      : search_(search), begin_(begin), end_(end), looking_(tile_of(search, begin, end)), candidates_(kTile) {
    for (Candidates &candidates : candidates_)
      candidates.limit = 4 * search.k;
  }

  void run(std::int32_t *indices, float *similarities) {
    const std::int64_t panels = static_cast<std::int64_t>(search_.columns.panels.size());
    const std::int64_t start = search_.self ? begin_ / kPanel : 0;
    for (std::int64_t p = 0; p < panels; ++p)
      gather((start + p) % panels);
    for (std::int64_t i = 0; i < end_ - begin_; ++i) {
      drop_hopeless(search_.k, candidates_[i], looking_.queries[i].threshold, scratch_);
      settle(search_, search_.query_at(begin_ + i), candidates_[i].all, indices, similarities);
    }
  }

private:
  static QueryTile tile_of(const Search &search, std::int64_t begin, std::int64_t end) {
    std::vector<const float *> rows;
    for (std::int64_t place = begin; place < end; ++place)
      rows.push_back(search.queries + search.query_at(place) * search.width);
    return query_tile(search.product, search.centres, search.columns, search.similarity, rows,
                      std::numeric_limits<float>::lowest());
  }

  void gather(std::int64_t at) {
    const Panel &panel = search_.columns.panels[at];
    search_.product.bounds(looking_.values.data(), looking_.queries.data(),
                           search_.columns.values.data() + at * search_.columns.panel_size, panel, at, search_.width,
                           bounds_);
    for (std::int64_t r = 0; r < end_ - begin_; ++r) {
      Candidates &candidates = candidates_[r];
      for (std::uint64_t left = bounds_.reaches[r]; left != 0; left &= left - 1) {
        const std::int64_t column = __builtin_ctzll(left), place = at * kPanel + column;
        if (search_.leave_self_out && place == begin_ + r)
          continue;
        const float upper = bounds_.upper[r][column];
        candidates.all.push_back(
            {static_cast<std::int32_t>(place), upper, upper - 2 * doubt(looking_.queries[r].code, panel, column)});
      }
      if (candidates.all.size() > candidates.limit)
        drop_hopeless(search_.k, candidates, looking_.queries[r].threshold, scratch_);
    }
  }

  const Search &search_;
  std::int64_t begin_, end_;
  QueryTile looking_;
  std::vector<float> scratch_;
  std::vector<Candidates> candidates_;
  Bounds bounds_;
};

} // namespace

void nearest(const float *rows, std::int64_t n, const float *queries, std::int64_t n_queries, std::int64_t width,
             std::int64_t k, bool leave_self_out, int threads, Instructions most, std::int32_t *indices,
             float *similarities) {
  const Similarity similarity = gdui::similarity(most);
  Search search{rows,
                queries,
                n,
                n_queries,
                width,
                k,
                rows == queries && n == n_queries,
                leave_self_out,
                product(width, most),
                similarity,
                centres(rows, n, width, similarity, threads),
                {}};
  search.columns = columns(search.product, search.centres, similarity, rows, n, threads);
  parallel_chunks(n_queries, kTile, threads,
                  [&](std::int64_t begin, std::int64_t end) { Tile(search, begin, end).run(indices, similarities); });
}

} // namespace gdui
