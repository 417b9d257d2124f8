// The inner loops of matching: scans along one row of a table, for each instruction set.
#pragma once

#include <cstdint>

namespace gdui {

template <class T> struct Peak {
  T value;
  std::int64_t at; // the first place of the value; -1 where there is none
};

// Whether all n numbers are finite.
bool finite(const float *x, std::int64_t n);
bool finite(const double *x, std::int64_t n);

// A step of SplitMix64: any change of the argument changes about half of the bits.
inline std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// A number that another value or order of the entries would change, all but surely.
std::uint64_t checksum(const float *x, std::int64_t n);
std::uint64_t checksum(const double *x, std::int64_t n);

// The highest of n finite numbers.
Peak<float> highest(const float *x, std::int64_t n);
Peak<double> highest(const double *x, std::int64_t n);

// The highest x[i] among those with y[i] >= floor[i].
Peak<float> highest_where(const float *x, const float *y, const float *floor, std::int64_t n);
Peak<double> highest_where(const double *x, const double *y, const double *floor, std::int64_t n);

// The first i >= from with x[i] >= least and y[i] >= floor[i], or n.
std::int64_t next_pair(const float *x, float least, const float *y, const float *floor, std::int64_t from,
                       std::int64_t n);
std::int64_t next_pair(const double *x, double least, const double *y, const double *floor, std::int64_t from,
                       std::int64_t n);

} // namespace gdui
