// What every part of matching needs of a market: its rows as plain arrays, and the strict order of pairs.
#pragma once

#include "match.hpp"

#include <algorithm>
#include <vector>

namespace gdui {

inline bool fits_float(const Matrix &table) { return table.kind == Kind::f16 || table.kind == Kind::f32; }

inline bool fits_float(const Market &market) {
  return fits_float(market.priority) && fits_float(market.class_priority);
}

// Rows a thread takes at a time: enough of them to be worth a thread.
inline std::int64_t rows_at_a_time(const Market &market) {
  return std::max<std::int64_t>(1, (1 << 18) / std::max<std::int64_t>(1, market.priority.cols));
}

// Whether pair (k, c) comes before pair (j, b) when their entries are equal.
inline bool wins_tie(const Market &market, std::int64_t k, std::int64_t c, std::int64_t j, std::int64_t b) {
  for (const Matrix &table : market.tie_break) {
    const double one = entry(table, k, c), other = entry(table, j, b);
    if (one != other)
      return one > other;
  }
  return k != j ? k < j : c < b;
}

// Row k of a table: in place, or converted into a buffer that lasts until the next row.
template <class T> class Rows {
public:
  explicit Rows(const Matrix &table) : table_(table) {}

  const T *operator()(std::int64_t k) {
    if (buffer_.empty())
      buffer_.resize(static_cast<std::size_t>(table_.cols));
    return block(table_.row(k), 0, table_.cols, buffer_.data());
  }

private:
  const Matrix &table_;
  std::vector<T> buffer_;
};

} // namespace gdui
