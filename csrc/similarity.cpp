#include "similarity.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "hits.hpp"
#include "parallel.hpp"

#ifdef GDUI_X86
#include <immintrin.h>
#endif

namespace gdui {
namespace {

// Lane l adds up columns l, l + 32, ...; then the upper half of the lanes is added to the lower, until one is left.
float sum_of_lanes(double *lane) {
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2)
    for (std::int64_t i = 0; i < half; ++i)
      lane[i] += lane[i + half];
  return static_cast<float>(lane[0]);
}

float dot_portable(const double *query, const float *row, std::int64_t width) {
  double lane[kLanes] = {};
  for (std::int64_t t = 0; t < width; t += kLanes)
    for (std::int64_t i = 0; i < kLanes; ++i)
      lane[i] += query[t + i] * row[t + i];
  return sum_of_lanes(lane);
}

#ifdef GDUI_X86

GDUI_AVX2 float dot_avx2(const double *query, const float *row, std::int64_t width) {
  constexpr int size = 4, vectors = kLanes / size;
  __m256d lane[vectors];
#pragma GCC unroll 8
  for (int i = 0; i < vectors; ++i)
    lane[i] = _mm256_setzero_pd();
  for (std::int64_t t = 0; t < width; t += kLanes)
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i)
      lane[i] = _mm256_fmadd_pd(_mm256_loadu_pd(query + t + size * i),
                                _mm256_cvtps_pd(_mm_loadu_ps(row + t + size * i)), lane[i]);
  double sum[kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < vectors; ++i)
    _mm256_storeu_pd(sum + size * i, lane[i]);
  return sum_of_lanes(sum);
}

#endif

} // namespace

Similarity similarity(Instructions most) {
#ifdef GDUI_X86
  if (std::min(most, instructions()) >= Instructions::avx2)
    return dot_avx2;
#endif
  static_cast<void>(most);
  return dot_portable;
}

template <class Real>
void unit_rows(const Real *rows, std::int64_t n, std::int64_t d, std::int64_t first, float *unit) {
  const std::int64_t width = padded(d);
  for (std::int64_t i = 0; i < n; ++i) {
    const Real *row = rows + i * d;
    float *out = unit + i * width;
    double largest = 0;
    bool finite = true;
    for (std::int64_t j = 0; j < d; ++j) {
      largest = std::max(largest, std::abs(static_cast<double>(row[j])));
      finite &= std::isfinite(row[j]);
    }
    if (!finite)
      throw std::invalid_argument("row " + std::to_string(first + i) + " holds NaN or infinity");
    std::fill(out, out + width, 0.0F);
    if (largest == 0)
      continue;
    double square = 0;
    for (std::int64_t j = 0; j < d; ++j) {
      const double x = row[j] / largest;
      square += x * x;
    }
    const double length = std::sqrt(square);
    for (std::int64_t j = 0; j < d; ++j)
      out[j] = static_cast<float>(row[j] / largest / length);
  }
}

template void unit_rows(const float *, std::int64_t, std::int64_t, std::int64_t, float *);
template void unit_rows(const double *, std::int64_t, std::int64_t, std::int64_t, float *);

void rank(const float *rows, const float *queries, std::int64_t n_queries, std::int64_t width, std::int64_t k,
          int threads, std::int32_t *indices, float *similarities) {
  const Similarity dot = similarity();
  parallel_chunks(n_queries, 64, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<Hit> hits(k);
    std::vector<double> query(width);
    for (std::int64_t i = begin; i < end; ++i) {
      std::copy_n(queries + i * width, width, query.begin());
      for (std::int64_t j = 0; j < k; ++j) {
        const std::int32_t index = indices[i * k + j];
        hits[j] = {index, dot(query.data(), rows + index * width, width)};
      }
      std::sort(hits.begin(), hits.end(), nearer);
      write(hits.data(), k, indices + i * k, similarities + i * k);
    }
  });
}

} // namespace gdui
