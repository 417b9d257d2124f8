#include "match.hpp"

#include "parallel.hpp"
#include "rank.hpp"
#include "scan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <type_traits>

namespace gdui {
namespace {

template <class T> class Certifying {
public:
  Certifying(const Market &market, const std::vector<std::int64_t> &class_of)
      : market_(market), class_of_(class_of), last_(market.seats.size(), -1), floor_(market.seats.size()) {
    std::vector<std::int64_t> taken(market.seats.size(), 0);
    for (std::int64_t k = 0; k < market.priority.rows; ++k)
      if (const std::int64_t c = class_of[at(k)]; c >= 0) {
        ++taken[at(c)];
        if (last_[at(c)] < 0 || class_prefers(c, last_[at(c)], k))
          last_[at(c)] = k;
      }
    for (std::size_t c = 0; c < last_.size(); ++c) {
      if (taken[c] < market.seats[c])
        last_[c] = -1; // a free seat takes anyone
      floor_[c] = market.seats[c] == 0 ? infinity
                  : last_[c] < 0 ? -infinity
                                 : static_cast<T>(entry(market.class_priority, last_[c], static_cast<std::int64_t>(c)));
    }
  }

  Certificate run(int threads) {
    const std::int64_t rows = market_.priority.rows, grain = rows_at_a_time(market_);
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    Certificate out{0, 0, std::vector<double>(at(rows), none), std::vector<double>(at(rows), none)};
    std::vector<std::int64_t> blocking(at((rows + grain - 1) / grain), 0);
    std::vector<std::uint64_t> sums(at(rows));
    const bool widened = std::is_same_v<T, double> && fits_float(market_.priority); // for class_priority's sake
    parallel_chunks(rows, grain, threads, [&](std::int64_t begin, std::int64_t end) {
      Rows<T> mine(market_.priority), theirs(market_.class_priority);
      Rows<float> as_given(market_.priority);
      for (std::int64_t k = begin; k < end; ++k) {
        const T *row = mine(k), *class_row = shared() ? row : theirs(k);
        sums[at(k)] = widened ? checksum(as_given(k), market_.priority.cols) : checksum(row, market_.priority.cols);
        if (class_of_[at(k)] >= 0) {
          out.value[at(k)] = static_cast<double>(row[class_of_[at(k)]]);
          out.margin[at(k)] = margin(out.value[at(k)], best_other(row, class_of_[at(k)]));
        }
        blocking[at(begin / grain)] += blocking_in(k, row, class_row);
      }
    });
    out.blocking_pairs = std::accumulate(blocking.begin(), blocking.end(), std::int64_t{0});
    out.checksum = std::accumulate(sums.begin(), sums.end(), std::uint64_t{0},
                                   [](std::uint64_t all, std::uint64_t row) { return mixed(all + row); });
    return out;
  }

private:
  static constexpr T infinity = std::numeric_limits<T>::infinity();

  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

  bool shared() const {
    const Matrix &a = market_.priority, &b = market_.class_priority;
    return a.data == b.data && a.kind == b.kind && a.row_stride == b.row_stride && a.col_stride == b.col_stride;
  }

  bool class_prefers(std::int64_t c, std::int64_t k, std::int64_t j) const {
    const double one = entry(market_.class_priority, k, c), other = entry(market_.class_priority, j, c);
    return one != other ? one > other : wins_tie(market_, k, c, j, c);
  }

  // Infinite for the lack of another class alone.
  static double margin(double own, double other) {
    constexpr double most = std::numeric_limits<double>::max();
    return std::isinf(other) ? own - other : std::clamp(own - other, -most, most);
  }

  double best_other(const T *row, std::int64_t own) const {
    const Peak<T> before = highest(row, own), after = highest(row + own + 1, market_.priority.cols - own - 1);
    return static_cast<double>(std::max(before.value, after.value));
  }

  std::int64_t blocking_in(std::int64_t k, const T *row, const T *class_row) const {
    const std::int64_t own = class_of_[at(k)], n = market_.priority.cols;
    const T least = own < 0 ? -infinity : row[own];
    std::int64_t found = 0;
    for (std::int64_t c = next_pair(row, least, class_row, floor_.data(), 0, n); c < n;
         c = next_pair(row, least, class_row, floor_.data(), c + 1, n)) {
      const bool wants = own < 0 || row[c] > least || (c != own && wins_tie(market_, k, c, k, own));
      found += c != own && wants &&
               (last_[at(c)] < 0 || class_row[c] > floor_[at(c)] || wins_tie(market_, k, c, last_[at(c)], c));
    }
    return found;
  }

  const Market &market_;
  const std::vector<std::int64_t> &class_of_;
  std::vector<std::int64_t> last_; // the least preferred cluster of each full class, else -1
  std::vector<T> floor_;           // its entry
};

} // namespace

Certificate certify(const Market &market, const std::vector<std::int64_t> &class_of_cluster, int threads) {
  return fits_float(market) ? Certifying<float>(market, class_of_cluster).run(threads)
                            : Certifying<double>(market, class_of_cluster).run(threads);
}

} // namespace gdui
