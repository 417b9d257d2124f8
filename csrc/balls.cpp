#include "balls.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "multiversion.hpp"
#include "parallel.hpp"
#include "rough.hpp"
#include "similarity.hpp"

namespace gdui {
namespace {

constexpr std::size_t kManyCandidates = 1024; // more than these of one point are thinned out on the way

// Lane l adds up columns l, l + 32, ...; then the lanes are added in order.
GDUI_MULTIVERSION double squared_distance(const float *a, const float *b, std::int64_t width) {
  double lane[kLanes] = {};
  for (std::int64_t t = 0; t < width; t += kLanes)
    for (std::int64_t i = 0; i < kLanes; ++i) {
      const double gap = static_cast<double>(a[t + i]) - static_cast<double>(b[t + i]);
      lane[i] += gap * gap;
    }
  return std::accumulate(lane, lane + kLanes, 0.0);
}

double half_square(const float *row, std::int64_t width) {
  return std::inner_product(row, row + width, row, 0.0, std::plus<>(),
                            [](float a, float b) { return static_cast<double>(a) * b; }) /
         2;
}

// Bounds on the reach (r_b^2 - |a - b|^2) / 2 of every ball b to every point a. It is the product a.b beside what
// depends on one of them alone, which the offsets take in: a few more roundings, hence twice the slack.
struct Field {
  const float *points, *rows;
  std::int64_t n_points, width;
  Product product;
  Similarity similarity;
  Centres centres;
  Columns columns;
};

Field make_field(const float *points, std::int64_t n_points, const float *rows, const double *squares, std::int64_t n,
                 std::int64_t width, int threads, Instructions most) {
  const Similarity dot = similarity(most);
  Field field{points, rows, n_points, width, product(width, most), dot, centres(rows, n, width, dot, threads), {}};
  Columns &columns = field.columns = gdui::columns(field.product, field.centres, dot, rows, n, threads);
  for (std::int64_t c = 0; c < n; ++c) {
    const std::int32_t row = columns.order[c];
    const double own = (squares ? squares[row] / 2 : 0) - half_square(rows + row * width, width);
    for (std::size_t at = c; at < columns.along.size(); at += columns.panels.size() * kPanel)
      columns.along[at] = static_cast<float>(columns.along[at] + own);
  }
  return field;
}

// A ball that a point may lie in, and the most it can reach beyond it.
struct Candidate {
  std::int32_t row;
  float upper;
};

bool higher(const Candidate &a, const Candidate &b) { return a.upper > b.upper; }

// The points [begin, end) against all columns. `take(point, candidate, lower)` is called for every ball whose reach may
// be at least the point's threshold, and may raise it; a point whose threshold is kNever is done.
class Tile {
public:
  Tile(const Field &field, std::int64_t begin, std::int64_t end, float threshold) : field_(field) {
    std::vector<const float *> points;
    for (std::int64_t i = begin; i < end; ++i)
      points.push_back(field.points + i * field.width);
    looking_ = query_tile(field.product, field.centres, field.columns, field.similarity, points, threshold);
    for (std::size_t i = 0; i < points.size(); ++i)
      for (std::int64_t q = 0; q < field.centres.count; ++q) {
        float &offset = looking_.offsets[i * field.centres.count + q];
        offset = static_cast<float>(offset - half_square(points[i], field.width));
      }
  }

  // As far as `upper` is known without the second slack.
  float &threshold(std::int64_t i) { return looking_.queries[i].threshold; }

  template <class Take> void run(const Take &take) {
    const std::int64_t panels = static_cast<std::int64_t>(field_.columns.panels.size());
    for (std::int64_t at = 0; at < panels && any_seeks(looking_.queries.data(), kTile); ++at)
      gather(at, take);
  }

private:
  template <class Take> void gather(std::int64_t at, const Take &take) {
    const Panel &panel = field_.columns.panels[at];
    field_.product.bounds(looking_.values.data(), looking_.queries.data(),
                          field_.columns.values.data() + at * field_.columns.panel_size, panel, at, field_.width,
                          bounds_);
    for (std::int64_t r = 0; r < kTile; ++r)
      for (std::uint64_t left = bounds_.reaches[r]; left != 0; left &= left - 1) {
        const std::int64_t c = __builtin_ctzll(left);
        const float upper = bounds_.upper[r][c] + kSlack;
        const Candidate candidate{field_.columns.order[at * kPanel + c], upper};
        take(r, candidate, upper - 2 * (doubt(looking_.queries[r].code, panel, c) + kSlack));
      }
  }

  const Field &field_;
  QueryTile looking_;
  Bounds bounds_;
};

// The k nearest of one point while the columns go by.
struct Nearest {
  std::vector<Candidate> candidates;
  std::vector<float> best; // a heap of the k highest lower bounds, the lowest in front
  std::size_t limit = kManyCandidates;

  void take(std::int64_t k, const Candidate &candidate, float lower, float &threshold) {
    candidates.push_back(candidate);
    best.push_back(lower);
    std::push_heap(best.begin(), best.end(), std::greater<>());
    if (static_cast<std::int64_t>(best.size()) > k) {
      std::pop_heap(best.begin(), best.end(), std::greater<>());
      best.pop_back();
    }
    if (static_cast<std::int64_t>(best.size()) == k)
      threshold = best.front() - kSlack;
    if (candidates.size() > limit) {
      drop_hopeless();
      limit = std::max(kManyCandidates, 2 * candidates.size());
    }
  }

  void drop_hopeless() {
    const float least = best.front();
    candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                    [least](const Candidate &candidate) { return candidate.upper < least; }),
                     candidates.end());
  }

  // The k-th smallest squared distance, found from the most promising candidate on.
  double settle(const Field &field, const float *point, std::int64_t k) {
    drop_hopeless();
    std::sort(candidates.begin(), candidates.end(), higher);
    std::vector<double> heap;
    for (const Candidate &candidate : candidates) {
      const bool full = static_cast<std::int64_t>(heap.size()) == k;
      if (full && -2.0 * candidate.upper > heap.front())
        break;
      heap.push_back(squared_distance(point, field.rows + candidate.row * field.width, field.width));
      std::push_heap(heap.begin(), heap.end());
      if (full) {
        std::pop_heap(heap.begin(), heap.end());
        heap.pop_back();
      }
    }
    return heap.front();
  }
};

// Whether any of the balls that may hold the point does.
bool any_holds(const Field &field, const double *squares, const float *point, std::vector<Candidate> &candidates) {
  std::sort(candidates.begin(), candidates.end(), higher);
  const bool found = std::any_of(candidates.begin(), candidates.end(), [&](const Candidate &candidate) {
    const float *row = field.rows + candidate.row * field.width;
    return squared_distance(point, row, field.width) <= squares[candidate.row];
  });
  candidates.clear();
  return found;
}

} // namespace

void radii(const float *rows, std::int64_t n, std::int64_t width, std::int64_t k, int threads, Instructions most,
           double *squares) {
  const Field field = make_field(rows, n, rows, nullptr, n, width, threads, most);
  parallel_chunks(n, kTile, threads, [&](std::int64_t begin, std::int64_t end) {
    Tile tile(field, begin, end, std::numeric_limits<float>::lowest());
    std::vector<Nearest> nearest(kTile);
    tile.run([&](std::int64_t i, const Candidate &candidate, float lower) {
      nearest[i].take(k, candidate, lower, tile.threshold(i));
    });
    for (std::int64_t i = begin; i < end; ++i)
      squares[i] = nearest[i - begin].settle(field, rows + i * width, k);
  });
}

void inside(const float *points, std::int64_t n_points, const float *rows, const double *squares, std::int64_t n,
            std::int64_t width, int threads, Instructions most, std::uint8_t *out) {
  const Field field = make_field(points, n_points, rows, squares, n, width, threads, most);
  parallel_chunks(n_points, kTile, threads, [&](std::int64_t begin, std::int64_t end) {
    Tile tile(field, begin, end, -kSlack);
    std::vector<std::vector<Candidate>> doubtful(kTile);
    const auto settle = [&](std::int64_t i) {
      return any_holds(field, squares, points + (begin + i) * width, doubtful[i]);
    };
    tile.run([&](std::int64_t i, const Candidate &candidate, float lower) {
      if (tile.threshold(i) == kNever)
        return;
      doubtful[i].push_back(candidate);
      if (lower > 0 || (doubtful[i].size() > kManyCandidates && settle(i)))
        tile.threshold(i) = kNever;
    });
    for (std::int64_t i = 0; i < end - begin; ++i)
      out[begin + i] = static_cast<std::uint8_t>(tile.threshold(i) == kNever || settle(i));
  });
}

} // namespace gdui
