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

constexpr std::int64_t kTile = 32 * kGroup;   // points that walk through the columns together
constexpr std::size_t kManyCandidates = 1024; // more than these of one point are thinned out on the way
constexpr float kNever = std::numeric_limits<float>::infinity();

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
  Centre centre;
  Columns columns;
};

Field make_field(const float *points, std::int64_t n_points, const float *rows, const double *squares, std::int64_t n,
                 std::int64_t width, int threads, bool portable) {
  Field field{points, rows, n_points, width, product(width, portable), mean(rows, n, width), {}};
  std::vector<std::int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  field.columns = encode_columns(field.product, field.centre, rows, order, threads);
  for (std::int64_t i = 0; i < n; ++i) {
    float &offset = field.columns.panels[i / kPanel].offset[i % kPanel];
    const double own = (squares ? squares[i] / 2 : 0) - half_square(rows + i * width, width);
    offset = static_cast<float>(offset + own);
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
  Tile(const Field &field, std::int64_t begin, std::int64_t end, float threshold)
      : field_(field), count_(end - begin), stride_(field.width * field.product.value_size), values_(kTile * stride_),
        rows_(kTile), thresholds(kTile, kNever) {
    std::vector<double> scratch(field.width);
    for (std::int64_t i = 0; i < count_; ++i) {
      const float *point = field.points + (begin + i) * field.width;
      rows_[i] = encode(field.product, field.centre, point, scratch, values_.data() + i * stride_);
      rows_[i].offset = static_cast<float>(rows_[i].offset - half_square(point, field.width));
      thresholds[i] = threshold;
    }
  }

  template <class Take> void run(const Take &take) {
    for (std::size_t panel = 0; panel < field_.columns.panels.size(); ++panel)
      for (std::int64_t group = 0; group < count_; group += kGroup)
        if (!std::all_of(&thresholds[group], &thresholds[group] + kGroup, [](float t) { return t == kNever; }))
          gather(group, static_cast<std::int64_t>(panel), take);
  }

private:
  template <class Take> void gather(std::int64_t group, std::int64_t panel, const Take &take) {
    const Panel &columns = field_.columns.panels[panel];
    field_.product.bounds(values_.data() + group * stride_, &rows_[group], &thresholds[group],
                          field_.columns.values.data() + panel * field_.columns.panel_size, columns, field_.width,
                          bounds_);
    for (std::int64_t r = 0; r < kGroup; ++r)
      for (std::uint64_t left = bounds_.reaches[r]; left != 0; left &= left - 1) {
        const std::int64_t c = __builtin_ctzll(left);
        const float upper = bounds_.upper[r][c] + kSlack;
        const Candidate candidate{static_cast<std::int32_t>(panel * kPanel + c), upper};
        take(group + r, candidate, upper - 2 * (doubt(rows_[group + r], columns, c) + kSlack));
      }
  }

  const Field &field_;
  std::int64_t count_, stride_;
  Bytes values_;
  std::vector<Row> rows_;
  Bounds bounds_;

public:
  std::vector<float> thresholds; // as far as `upper` is known without the second slack
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

void radii(const float *rows, std::int64_t n, std::int64_t width, std::int64_t k, int threads, bool portable,
           double *squares) {
  const Field field = make_field(rows, n, rows, nullptr, n, width, threads, portable);
  parallel_chunks(n, kTile, threads, [&](std::int64_t begin, std::int64_t end) {
    Tile tile(field, begin, end, std::numeric_limits<float>::lowest());
    std::vector<Nearest> nearest(kTile);
    tile.run([&](std::int64_t i, const Candidate &candidate, float lower) {
      nearest[i].take(k, candidate, lower, tile.thresholds[i]);
    });
    for (std::int64_t i = begin; i < end; ++i)
      squares[i] = nearest[i - begin].settle(field, rows + i * width, k);
  });
}

void inside(const float *points, std::int64_t n_points, const float *rows, const double *squares, std::int64_t n,
            std::int64_t width, int threads, bool portable, std::uint8_t *out) {
  const Field field = make_field(points, n_points, rows, squares, n, width, threads, portable);
  parallel_chunks(n_points, kTile, threads, [&](std::int64_t begin, std::int64_t end) {
    Tile tile(field, begin, end, -kSlack);
    std::vector<std::vector<Candidate>> doubtful(kTile);
    const auto settle = [&](std::int64_t i) {
      return any_holds(field, squares, points + (begin + i) * width, doubtful[i]);
    };
    tile.run([&](std::int64_t i, const Candidate &candidate, float lower) {
      if (tile.thresholds[i] == kNever)
        return;
      doubtful[i].push_back(candidate);
      if (lower > 0 || (doubtful[i].size() > kManyCandidates && settle(i)))
        tile.thresholds[i] = kNever;
    });
    for (std::int64_t i = 0; i < end - begin; ++i)
      out[begin + i] = static_cast<std::uint8_t>(tile.thresholds[i] == kNever || settle(i));
  });
}

} // namespace gdui
