#include "scan.hpp"

#include "multiversion.hpp"

#include <limits>

namespace gdui {
namespace {

constexpr std::int64_t stretch = 512; // entries scanned before the place of a new maximum is noted

// The highest value(i) over [0, n), and its first place. Lanes, so that the compiler may use vectors without being
// allowed to reorder floating-point arithmetic.
template <class T, class Value> GDUI_INLINE Peak<T> highest_impl(std::int64_t n, const Value &value) {
  constexpr std::int64_t lanes = 128 / sizeof(T);
  T best = -std::numeric_limits<T>::infinity();
  std::int64_t found = -1;
  for (std::int64_t begin = 0; begin < n; begin += stretch) {
    const std::int64_t end = n - begin < stretch ? n : begin + stretch;
    T top[lanes];
    for (std::int64_t l = 0; l < lanes; ++l)
      top[l] = -std::numeric_limits<T>::infinity();
    std::int64_t i = begin;
    for (; i + lanes <= end; i += lanes)
      for (std::int64_t l = 0; l < lanes; ++l) {
        const T x = value(i + l);
        top[l] = x > top[l] ? x : top[l];
      }
    T highest = -std::numeric_limits<T>::infinity();
    for (; i < end; ++i)
      highest = value(i) > highest ? value(i) : highest;
    for (std::int64_t l = 0; l < lanes; ++l)
      highest = top[l] > highest ? top[l] : highest;
    if (highest > best) {
      best = highest;
      found = begin;
    }
  }
  while (found >= 0 && value(found) != best)
    ++found;
  return {best, found};
}

template <class T> GDUI_INLINE Peak<T> highest_where_impl(const T *x, const T *y, const T *floor, std::int64_t n) {
  return highest_impl<T>(n,
                         [=](std::int64_t i) { return y[i] >= floor[i] ? x[i] : -std::numeric_limits<T>::infinity(); });
}

template <class T>
GDUI_INLINE std::int64_t next_pair_impl(const T *x, T least, const T *y, const T *floor, std::int64_t from,
                                        std::int64_t n) {
  constexpr std::int64_t step = 128 / sizeof(T);
  std::int64_t i = from;
  for (; i + step <= n; i += step) {
    int any = 0;
    for (std::int64_t l = 0; l < step; ++l)
      any |= static_cast<int>(x[i + l] >= least) & static_cast<int>(y[i + l] >= floor[i + l]);
    if (any)
      break;
  }
  while (i < n && !(x[i] >= least && y[i] >= floor[i]))
    ++i;
  return i;
}

template <class T> GDUI_INLINE bool finite_impl(const T *x, std::int64_t n) {
  constexpr int lanes = 64 / sizeof(T);
  T sum[lanes] = {}; // x * 0 is 0 for a finite x, else NaN
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int l = 0; l < lanes; ++l)
      sum[l] += x[i + l] * T(0);
  T total = 0;
  for (; i < n; ++i)
    total += x[i] * T(0);
  for (int l = 0; l < lanes; ++l)
    total += sum[l];
  return total == 0;
}

} // namespace

GDUI_MULTIVERSION bool finite(const float *x, std::int64_t n) { return finite_impl(x, n); }
GDUI_MULTIVERSION bool finite(const double *x, std::int64_t n) { return finite_impl(x, n); }
GDUI_MULTIVERSION Peak<float> highest(const float *x, std::int64_t n) {
  return highest_impl<float>(n, [=](std::int64_t i) { return x[i]; });
}
GDUI_MULTIVERSION Peak<double> highest(const double *x, std::int64_t n) {
  return highest_impl<double>(n, [=](std::int64_t i) { return x[i]; });
}
GDUI_MULTIVERSION Peak<float> highest_where(const float *x, const float *y, const float *floor, std::int64_t n) {
  return highest_where_impl(x, y, floor, n);
}
GDUI_MULTIVERSION Peak<double> highest_where(const double *x, const double *y, const double *floor, std::int64_t n) {
  return highest_where_impl(x, y, floor, n);
}
GDUI_MULTIVERSION std::int64_t next_pair(const float *x, float least, const float *y, const float *floor,
                                         std::int64_t from, std::int64_t n) {
  return next_pair_impl(x, least, y, floor, from, n);
}
GDUI_MULTIVERSION std::int64_t next_pair(const double *x, double least, const double *y, const double *floor,
                                         std::int64_t from, std::int64_t n) {
  return next_pair_impl(x, least, y, floor, from, n);
}

} // namespace gdui
