#include "scan.hpp"

#include "multiversion.hpp"

#include <cstring>
#include <limits>

namespace gdui {
namespace {

constexpr std::int64_t stretch = 512; // entries scanned before the place of a new maximum is noted

template <class T> struct Wide {
  typedef T Lanes __attribute__((vector_size(64)));
  static constexpr std::int64_t count = 64 / sizeof(T);

  static GDUI_INLINE Lanes load(const T *x) {
    Lanes out;
    std::memcpy(&out, x, sizeof out);
    return out;
  }
};

template <class T> constexpr T lowest = -std::numeric_limits<T>::infinity();

template <class T> GDUI_INLINE T largest(T a, T b) { return a > b ? a : b; }

// The entries of a row as they are, one or a vectorful at a time.
template <class T> struct Plain {
  const T *x;

  GDUI_INLINE T one(std::int64_t i) const { return x[i]; }
  GDUI_INLINE typename Wide<T>::Lanes many(std::int64_t i) const { return Wide<T>::load(x + i); }
};

// Those with y >= floor as they are, the others as -infinity.
template <class T> struct Admitted {
  const T *x, *y, *floor;

  GDUI_INLINE T one(std::int64_t i) const { return y[i] >= floor[i] ? x[i] : lowest<T>; }
  GDUI_INLINE typename Wide<T>::Lanes many(std::int64_t i) const {
    const typename Wide<T>::Lanes none = lowest<T> - typename Wide<T>::Lanes{};
    return Wide<T>::load(y + i) >= Wide<T>::load(floor + i) ? Wide<T>::load(x + i) : none;
  }
};

template <class T, class Entries> GDUI_INLINE T highest_of(const Entries &entry, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t lanes = Wide<T>::count;
  typename Wide<T>::Lanes a = lowest<T> - typename Wide<T>::Lanes{}, b = a, c = a, d = a;
  std::int64_t i = begin;
  for (; i + 4 * lanes <= end; i += 4 * lanes) {
    const auto e = entry.many(i), f = entry.many(i + lanes), g = entry.many(i + 2 * lanes),
               h = entry.many(i + 3 * lanes);
    a = e > a ? e : a;
    b = f > b ? f : b;
    c = g > c ? g : c;
    d = h > d ? h : d;
  }
  a = a > b ? a : b;
  c = c > d ? c : d;
  a = a > c ? a : c;
  T highest = lowest<T>;
  for (std::int64_t l = 0; l < lanes; ++l)
    highest = largest<T>(highest, a[l]);
  for (; i < end; ++i)
    highest = largest(highest, entry.one(i));
  return highest;
}

// The highest of the entries, and its first place.
template <class T, class Entries> GDUI_INLINE Peak<T> peak_of(const Entries &entry, std::int64_t n) {
  Peak<T> best{lowest<T>, -1};
  for (std::int64_t begin = 0; begin < n; begin += stretch)
    if (const T highest = highest_of<T>(entry, begin, n - begin < stretch ? n : begin + stretch); highest > best.value)
      best = {highest, begin};
  while (best.at >= 0 && entry.one(best.at) != best.value)
    ++best.at;
  return best;
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

// Sums, and sums of sums (in which an entry counts by its place), of every 16th word.
GDUI_INLINE std::uint64_t checksum_of(const char *x, std::int64_t bytes) {
  typedef std::uint32_t Words __attribute__((vector_size(64)));
  Words word{}, sum{}, placed{};
  std::int64_t at = 0;
  for (; at + 64 <= bytes; at += 64) {
    std::memcpy(&word, x + at, 64);
    sum += word;
    placed += sum;
  }
  if (at < bytes) {
    word = Words{};
    std::memcpy(&word, x + at, static_cast<std::size_t>(bytes - at));
    sum += word;
    placed += sum;
  }
  std::uint64_t all = 0;
  for (int l = 0; l < 16; ++l)
    all = mixed(all + (std::uint64_t{sum[l]} << 32 | placed[l]));
  return all;
}

} // namespace

GDUI_MULTIVERSION std::uint64_t checksum(const float *x, std::int64_t n) {
  return checksum_of(reinterpret_cast<const char *>(x), n * 4);
}
GDUI_MULTIVERSION std::uint64_t checksum(const double *x, std::int64_t n) {
  return checksum_of(reinterpret_cast<const char *>(x), n * 8);
}
GDUI_MULTIVERSION bool finite(const float *x, std::int64_t n) { return finite_impl(x, n); }
GDUI_MULTIVERSION bool finite(const double *x, std::int64_t n) { return finite_impl(x, n); }
GDUI_MULTIVERSION Peak<float> highest(const float *x, std::int64_t n) { return peak_of<float>(Plain<float>{x}, n); }
GDUI_MULTIVERSION Peak<double> highest(const double *x, std::int64_t n) { return peak_of<double>(Plain<double>{x}, n); }
GDUI_MULTIVERSION Peak<float> highest_where(const float *x, const float *y, const float *floor, std::int64_t n) {
  return peak_of<float>(Admitted<float>{x, y, floor}, n);
}
GDUI_MULTIVERSION Peak<double> highest_where(const double *x, const double *y, const double *floor, std::int64_t n) {
  return peak_of<double>(Admitted<double>{x, y, floor}, n);
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
