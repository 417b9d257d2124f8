#include "similarity.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "hits.hpp"
#include "parallel.hpp"
#include "processor.hpp"

namespace gdui {
namespace {

using Doubles = double __attribute__((vector_size(64)));
using Floats = float __attribute__((vector_size(32)));

GDUI_INLINE float dot(const float *a, const float *b, std::int64_t width) {
  Doubles lane[4] = {};
  for (std::int64_t t = 0; t < width; t += kLanes)
    for (int i = 0; i < 4; ++i) {
      Floats x, y;
      std::memcpy(&x, a + t + 8 * i, sizeof x);
      std::memcpy(&y, b + t + 8 * i, sizeof y);
      lane[i] += __builtin_convertvector(x, Doubles) * __builtin_convertvector(y, Doubles);
    }
  const Doubles sum = (lane[0] + lane[1]) + (lane[2] + lane[3]);
  return static_cast<float>(((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7])));
}

float dot_portable(const float *a, const float *b, std::int64_t width) { return dot(a, b, width); }
#ifdef GDUI_X86
GDUI_AVX2 float dot_avx2(const float *a, const float *b, std::int64_t width) { return dot(a, b, width); }
GDUI_AVX512 float dot_avx512(const float *a, const float *b, std::int64_t width) { return dot(a, b, width); }
#endif

} // namespace

Similarity similarity(bool portable) {
#ifdef GDUI_X86
  if (!portable && has_avx512())
    return dot_avx512;
  if (!portable && has_avx2())
    return dot_avx2;
#endif
  static_cast<void>(portable);
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
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t j = 0; j < k; ++j) {
        const std::int32_t index = indices[i * k + j];
        hits[j] = {index, dot(queries + i * width, rows + index * width, width)};
      }
      std::sort(hits.begin(), hits.end(), nearer);
      write(hits.data(), k, indices + i * k, similarities + i * k);
    }
  });
}

} // namespace gdui
