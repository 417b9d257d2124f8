#include "rough_reach.hpp"

#ifdef GDUI_X86

#include <algorithm>
#include <cstring>

namespace gdui {
namespace {

GDUI_AVX512 Code encode_bytes(const double *centred, std::int64_t width, void *values) {
  std::int8_t *out = static_cast<std::int8_t *>(values);
  double largest = 0;
  for (std::int64_t t = 0; t < width; ++t)
    largest = std::max(largest, std::abs(centred[t]));
  const double scale = static_cast<float>(largest / 127), inverse = scale > 0 ? 1 / scale : 0;
  double square = 0, rest_square = 0;
  std::int32_t sum = 0;
  for (std::int64_t t = 0; t < width; ++t) {
    const double x = std::clamp(centred[t] * inverse, -127.0, 127.0);
    const int value = static_cast<int>(x + (x < 0 ? -0.5 : 0.5));
    const double rest = centred[t] - scale * value;
    out[t] = static_cast<std::int8_t>(value);
    sum += value;
    square += centred[t] * centred[t];
    rest_square += rest * rest;
  }
  Code code = summary(square, rest_square, scale);
  code.bias = -128 * sum;
  return code;
}

// Four bytes of each of 64 columns side by side.
void place_bytes(const void *values, std::int64_t width, std::int64_t column, void *panel) {
  const std::int8_t *from = static_cast<const std::int8_t *>(values);
  unsigned char *to = static_cast<unsigned char *>(panel) + 4 * column;
  for (std::int64_t t = 0; t < width; t += 4)
    for (std::int64_t j = 0; j < 4; ++j)
      to[t * kPanel + j] = static_cast<unsigned char>(from[t + j] + 128);
}

// Sums of one row with the 64 columns of a panel.
struct ByteSums {
  __m512i a, b, c, d;
};

using SixteenInts = std::int32_t __attribute__((vector_size(64)));

GDUI_AVX512 GDUI_INLINE Sixteen as_floats(__m512i sum) {
  return __builtin_convertvector(reinterpret_cast<SixteenInts>(sum), Sixteen);
}

GDUI_AVX512 GDUI_INLINE std::uint64_t reached(const ByteSums &sums, const Query &query, const Panel &panel,
                                              std::int64_t at, float *upper) {
  return reached(as_floats(sums.a), as_floats(sums.b), as_floats(sums.c), as_floats(sums.d), query, panel, at, upper);
}

GDUI_AVX512 GDUI_INLINE ByteSums biased(const Query &query) {
  const __m512i bias = _mm512_set1_epi32(query.code.bias);
  return {bias, bias, bias, bias};
}

// As _mm512_dpbusd_epi32, for which GCC 12 copies each sum to memory and back.
GDUI_AVX512 GDUI_INLINE void multiply_add(__m512i &sum, __m512i columns, __m512i value) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(columns), "v"(value));
}

// Four bytes of the row against four of each column an instruction.
GDUI_AVX512 GDUI_INLINE void add(ByteSums &sum, const std::int8_t *row, const ByteSums &columns) {
  std::int32_t four;
  std::memcpy(&four, row, sizeof four);
  const __m512i value = _mm512_set1_epi32(four);
  multiply_add(sum.a, columns.a, value);
  multiply_add(sum.b, columns.b, value);
  multiply_add(sum.c, columns.c, value);
  multiply_add(sum.d, columns.d, value);
}

constexpr std::int64_t kGroup = 6; // rows whose sums fit into registers
static_assert(kTile % kGroup == 0 && kPanel == 64, "24 sums in registers");

GDUI_AVX512 void byte_bounds(const void *values, const Query *queries, const void *panel_values, const Panel &panel,
                             std::int64_t at, std::int64_t width, Bounds &out) {
  for (std::int64_t r = 0; r < kTile; r += kGroup) {
    std::fill_n(out.reaches + r, kGroup, 0);
    if (!any_seeks(queries + r, kGroup))
      continue;
    const std::int8_t *left = static_cast<const std::int8_t *>(values) + r * width;
    const unsigned char *right = static_cast<const unsigned char *>(panel_values);
    const Query *query = queries + r;
    ByteSums sum0 = biased(query[0]), sum1 = biased(query[1]), sum2 = biased(query[2]);
    ByteSums sum3 = biased(query[3]), sum4 = biased(query[4]), sum5 = biased(query[5]);
    for (std::int64_t t = 0; t < width; t += 4, left += 4, right += 4 * kPanel) {
      const ByteSums columns{_mm512_loadu_si512(right), _mm512_loadu_si512(right + 64), _mm512_loadu_si512(right + 128),
                             _mm512_loadu_si512(right + 192)};
      add(sum0, left, columns);
      add(sum1, left + width, columns);
      add(sum2, left + 2 * width, columns);
      add(sum3, left + 3 * width, columns);
      add(sum4, left + 4 * width, columns);
      add(sum5, left + 5 * width, columns);
    }
    out.reaches[r] = reached(sum0, query[0], panel, at, out.upper[r]);
    out.reaches[r + 1] = reached(sum1, query[1], panel, at, out.upper[r + 1]);
    out.reaches[r + 2] = reached(sum2, query[2], panel, at, out.upper[r + 2]);
    out.reaches[r + 3] = reached(sum3, query[3], panel, at, out.upper[r + 3]);
    out.reaches[r + 4] = reached(sum4, query[4], panel, at, out.upper[r + 4]);
    out.reaches[r + 5] = reached(sum5, query[5], panel, at, out.upper[r + 5]);
  }
}

} // namespace

Product byte_product() { return {1, encode_bytes, place_bytes, byte_bounds}; }

} // namespace gdui

#endif
