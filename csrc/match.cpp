#include "match.hpp"

#include "parallel.hpp"
#include "rank.hpp"
#include "scan.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>
#include <queue>

namespace gdui {
namespace {

template <class T> constexpr T infinity = std::numeric_limits<T>::infinity();

// The market while it is being cleared by taking the highest remaining pair again and again. A class is open (floor
// -inf) while it has a seat, then closed (+inf).
template <class T> class Clearing {
public:
  Clearing(const Market &market, int threads)
      : market_(market), rows_(market.priority), seats_(market.seats), class_of_(size(market.priority.rows), -1),
        favourite_(size(market.priority.rows)), floor_(seats_.size()), left_(0) {
    for (std::size_t c = 0; c < seats_.size(); ++c) {
      floor_[c] = seats_[c] > 0 ? -infinity<T> : infinity<T>;
      left_ += std::min(seats_[c], market.priority.rows);
    }
    find_favourites(threads);
  }

  std::vector<std::int64_t> run() && {
    take_the_highest();
    follow_chains();
    return std::move(class_of_);
  }

private:
  struct Favourite {
    T value;
    std::int32_t at;
  };

  struct Link {
    bool is_row;
    std::int64_t at;
  };

  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

  // The best open class of row k, given the row.
  Favourite favourite(std::int64_t k, const T *row) const {
    const std::int64_t n = market_.priority.cols;
    const Peak<T> peak = highest_where(row, row, floor_.data(), n);
    std::int64_t best = peak.at;
    if (!market_.tie_break.empty())
      for (std::int64_t c = best + 1; c < n; ++c)
        if (row[c] == peak.value && floor_[size(c)] < 0 && wins_tie(market_, k, c, k, best))
          best = c;
    return {peak.value, static_cast<std::int32_t>(best)};
  }

  void find_favourites(int threads) {
    parallel_chunks(market_.priority.rows, rows_at_a_time(market_), threads, [&](std::int64_t begin, std::int64_t end) {
      Rows<T> rows(market_.priority);
      for (std::int64_t k = begin; k < end; ++k)
        favourite_[size(k)] = checked_favourite(k, rows(k));
    });
  }

  Favourite checked_favourite(std::int64_t k, const T *row) const {
    if (!finite(row, market_.priority.cols))
      throw std::invalid_argument("priority holds NaN or infinity; only finite numbers can be ranked");
    return left_ > 0 ? favourite(k, row) : Favourite{};
  }

  void take(std::int64_t k, std::int64_t c) {
    class_of_[size(k)] = c;
    --left_;
    if (--seats_[size(c)] == 0)
      floor_[size(c)] = infinity<T>;
  }

  // As many scans of a row as read no more entries than `follow_chains` would, which reads a column for every match.
  std::int64_t worthwhile_scans() const {
    const std::int64_t rows = market_.priority.rows, cols = std::max<std::int64_t>(1, market_.priority.cols);
    return std::max(3 * rows + 64, std::min(rows, left_) * (rows / cols));
  }

  // Rows queue by their best class as last seen, which is an upper bound: if that class is still open, the pair at the
  // head is the highest of all. Where few rows share a favourite, a row is scanned again less than once on average.
  void take_the_highest() {
    const auto later = [&](std::int64_t k, std::int64_t j) {
      const Favourite &a = favourite_[size(k)], &b = favourite_[size(j)];
      return a.value != b.value ? a.value < b.value : !wins_tie(market_, k, a.at, j, b.at);
    };
    std::vector<std::int32_t> all(left_ > 0 ? class_of_.size() : 0);
    std::iota(all.begin(), all.end(), 0);
    std::priority_queue<std::int32_t, std::vector<std::int32_t>, decltype(later)> queue(later, std::move(all));
    for (std::int64_t scans = worthwhile_scans(); left_ > 0 && !queue.empty() && scans > 0;) {
      const std::int32_t k = queue.top();
      queue.pop();
      if (seats_[size(favourite_[size(k)].at)] > 0) {
        take(k, favourite_[size(k)].at);
      } else {
        favourite_[size(k)] = favourite(k, rows_(k));
        queue.push(k);
        --scans;
      }
    }
  }

  // Where many rows want the same few classes. From any row to its best class, from there to that class's best row,
  // and so on: entries rise along the way, so it ends at two that want each other most. They are matched, and the rest
  // of the chain still stands. Every match costs at most three scans, whatever the table.
  void follow_chains() {
    std::vector<std::int64_t> free;
    for (std::int64_t k = 0; left_ > 0 && k < market_.priority.rows; ++k)
      if (class_of_[size(k)] < 0)
        free.push_back(k);
    std::vector<Link> chain;
    for (std::int64_t matched = 0, open = 0; left_ > 0 && matched < static_cast<std::int64_t>(free.size());) {
      if (chain.empty())
        chain.push_back(start(free, matched, open));
      const Link last = chain.back();
      const Link next = last.is_row ? Link{false, favourite(last.at, rows_(last.at)).at} : best_row(last.at, free);
      if (chain.size() < 2 || chain[chain.size() - 2].at != next.at) {
        chain.push_back(next);
        continue;
      }
      const std::int64_t k = last.is_row ? last.at : next.at, c = last.is_row ? next.at : last.at;
      take(k, c);
      chain.pop_back();
      if (!last.is_row || seats_[size(c)] == 0)
        chain.pop_back();
      if (++matched * 2 > static_cast<std::int64_t>(free.size())) {
        const auto gone = [&](std::int64_t row) { return class_of_[size(row)] >= 0; };
        free.erase(std::remove_if(free.begin(), free.end(), gone), free.end());
        matched = 0;
      }
    }
  }

  // A chain starts on the side that will be served in full, so that it always ends in a match.
  Link start(const std::vector<std::int64_t> &free, std::int64_t matched, std::int64_t &open) const {
    if (static_cast<std::int64_t>(free.size()) - matched <= left_)
      return {true, *std::find_if(free.begin(), free.end(), [&](std::int64_t k) { return class_of_[size(k)] < 0; })};
    while (seats_[size(open)] == 0)
      ++open;
    return {false, open};
  }

  Link best_row(std::int64_t c, const std::vector<std::int64_t> &free) const {
    const Matrix &table = market_.priority;
    const char *column = table.data + c * table.col_stride;
    std::int64_t best = -1;
    with_type(table.kind, [&](auto zero) {
      using From = decltype(zero);
      T highest = -infinity<T>;
      constexpr std::size_t ahead = 16;
      for (std::size_t i = 0; i < free.size(); ++i) {
        if (i + ahead < free.size())
          __builtin_prefetch(column + free[i + ahead] * table.row_stride);
        const std::int64_t k = free[i];
        const T value = static_cast<T>(read<From>(column + k * table.row_stride));
        if (value < highest || class_of_[size(k)] >= 0)
          continue;
        if (value > highest || wins_tie(market_, k, c, best, c)) {
          highest = value;
          best = k;
        }
      }
    });
    return {true, best};
  }

  const Market &market_;
  Rows<T> rows_;
  std::vector<std::int64_t> seats_, class_of_;
  std::vector<Favourite> favourite_;
  std::vector<T> floor_;
  std::int64_t left_; // seats that are left
};

// Deferred acceptance. A class's floor is the entry of the worst cluster it holds once it is full; floors only rise, so
// a row may skip every class that would refuse it now, and each scan ends in an acceptance. Where rows are turned away
// again and again, a scan keeps the row's next best classes, in a small share of the table's memory.
template <class T> class Proposing {
public:
  explicit Proposing(const Market &market)
      : market_(market), rows_(market.priority), class_rows_(market.class_priority), held_(market.seats.size()),
        floor_(market.seats.size()), next_(static_cast<std::size_t>(market.priority.rows)),
        scans_(16 * market.priority.rows + 64) {
    for (std::size_t c = 0; c < floor_.size(); ++c)
      floor_[c] = market.seats[c] > 0 ? -infinity<T> : infinity<T>;
  }

  std::vector<std::int64_t> run() {
    for (std::int64_t k = 0; k < market_.priority.rows; ++k)
      for (std::int64_t seeking = k; seeking >= 0;)
        seeking = settle(seeking);
    std::vector<std::int64_t> class_of(static_cast<std::size_t>(market_.priority.rows), -1);
    for (std::size_t c = 0; c < held_.size(); ++c)
      for (const std::int64_t k : held_[c])
        class_of[static_cast<std::size_t>(k)] = static_cast<std::int64_t>(c);
    return class_of;
  }

private:
  // Seats cluster k at the best class that takes it; returns the cluster that lost its seat to it, or -1.
  std::int64_t settle(std::int64_t k) {
    const std::int64_t c = scans_-- > 0 ? best_taker(k, rows_(k), class_rows_(k)) : next_taker(k);
    if (c < 0)
      return -1;
    auto &held = held_[static_cast<std::size_t>(c)];
    const auto preferred = [&](std::int64_t a, std::int64_t b) { return prefers(c, a, b); };
    held.push_back(k);
    std::push_heap(held.begin(), held.end(), preferred); // the head is the least preferred
    std::int64_t loser = -1;
    const auto seats = static_cast<std::size_t>(market_.seats[static_cast<std::size_t>(c)]);
    if (held.size() > seats) {
      std::pop_heap(held.begin(), held.end(), preferred);
      loser = held.back();
      held.pop_back();
    }
    if (held.size() == seats)
      floor_[static_cast<std::size_t>(c)] = static_cast<T>(entry(market_.class_priority, held.front(), c));
    return loser;
  }

  std::int64_t best_taker(std::int64_t k, const T *mine, const T *theirs) const {
    const std::int64_t n = market_.priority.cols;
    const Peak<T> peak = highest_where(mine, theirs, floor_.data(), n);
    if (peak.at < 0)
      return -1;
    if (market_.tie_break.empty() && theirs[peak.at] > floor_[static_cast<std::size_t>(peak.at)])
      return peak.at;
    std::int64_t best = -1; // an entry equal to a floor may still be refused, so look at every class
    for (std::int64_t c = 0; c < n; ++c)
      if (theirs[c] >= floor_[static_cast<std::size_t>(c)] && (best < 0 || mine[c] >= mine[best]) && takes(c, k) &&
          (best < 0 || mine[c] > mine[best] || wins_tie(market_, k, c, k, best)))
        best = c;
    return best;
  }

  std::int64_t next_taker(std::int64_t k) {
    auto &next = next_[static_cast<std::size_t>(k)];
    for (bool scanned = false;; scanned = true) {
      while (!next.empty()) {
        const std::int64_t c = next.back();
        next.pop_back();
        if (takes(c, k))
          return c;
      }
      if (scanned)
        return -1;
      find_next(k, rows_(k), class_rows_(k), next);
    }
  }

  // The best classes that would take row k now, the best last.
  void find_next(std::int64_t k, const T *mine, const T *theirs, std::vector<std::int32_t> &next) {
    const std::int64_t n = market_.priority.cols;
    takers_.clear();
    for (std::int64_t c = next_pair(mine, -infinity<T>, theirs, floor_.data(), 0, n); c < n;
         c = next_pair(mine, -infinity<T>, theirs, floor_.data(), c + 1, n))
      if (theirs[c] > floor_[static_cast<std::size_t>(c)] || takes(c, k))
        takers_.push_back(static_cast<std::int32_t>(c));
    const auto wanted_more = [&](std::int32_t a, std::int32_t b) {
      return mine[a] != mine[b] ? mine[a] > mine[b] : wins_tie(market_, k, a, k, b);
    };
    const auto kept = std::min(takers_.size(), static_cast<std::size_t>(std::max<std::int64_t>(8, n / 40)));
    const auto end = takers_.begin() + static_cast<std::ptrdiff_t>(kept);
    std::nth_element(takers_.begin(), end, takers_.end(), wanted_more);
    std::sort(takers_.begin(), end, wanted_more);
    next.assign(std::make_reverse_iterator(end), takers_.rend());
  }

  bool takes(std::int64_t c, std::int64_t k) const {
    const auto &held = held_[static_cast<std::size_t>(c)];
    return static_cast<std::int64_t>(held.size()) < market_.seats[static_cast<std::size_t>(c)] ||
           prefers(c, k, held.front());
  }

  bool prefers(std::int64_t c, std::int64_t k, std::int64_t j) const {
    const double one = entry(market_.class_priority, k, c), other = entry(market_.class_priority, j, c);
    return one != other ? one > other : wins_tie(market_, k, c, j, c);
  }

  const Market &market_;
  Rows<T> rows_, class_rows_;
  std::vector<std::vector<std::int64_t>> held_;
  std::vector<T> floor_;
  std::vector<std::vector<std::int32_t>> next_; // of each row, the best last
  std::vector<std::int32_t> takers_;
  std::int64_t scans_; // those that are still made for one class each
};

} // namespace

std::vector<std::int64_t> match_shared(const Market &market, int threads) {
  return fits_float(market) ? Clearing<float>(market, threads).run() : Clearing<double>(market, threads).run();
}

std::vector<std::int64_t> match_two_sided(const Market &market) {
  return fits_float(market) ? Proposing<float>(market).run() : Proposing<double>(market).run();
}

} // namespace gdui
