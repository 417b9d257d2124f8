#include "rough.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "parallel.hpp"
#include "processor.hpp"

#ifdef GDUI_X86
#include <immintrin.h>
#endif

namespace gdui {
namespace {

// The next float above: a bound stays a bound when it is stored.
float above(double x) { return std::nextafter(static_cast<float>(x), std::numeric_limits<float>::infinity()); }

Row summary(double square, double rest_square, double scale) {
  Row row;
  row.scale = static_cast<float>(scale);
  row.error = above(std::sqrt(rest_square));
  row.norm = above(std::sqrt(square) + std::sqrt(rest_square));
  return row;
}

Row encode_floats(const double *centred, std::int64_t width, void *values) {
  float *out = static_cast<float *>(values);
  double square = 0, rest_square = 0;
  for (std::int64_t t = 0; t < width; ++t) {
    out[t] = static_cast<float>(centred[t]);
    const double rest = centred[t] - out[t];
    square += centred[t] * centred[t];
    rest_square += rest * rest;
  }
  Row row = summary(square, rest_square, 1);
  // A float32 sum of `width` products is wrong by at most this share of |a'| |b'|, in whatever order it is taken.
  row.error += static_cast<float>(width + 2) * 0x1p-24F * row.norm * 1.01F;
  return row;
}

// Columns of a panel of floats that lie together: two registers of the type Vector.
template <class Vector> constexpr std::int64_t strip = 2 * sizeof(Vector) / sizeof(float);

template <class Vector> void place_floats(const void *values, std::int64_t width, std::int64_t column, void *panel) {
  constexpr std::int64_t size = strip<Vector>;
  const float *from = static_cast<const float *>(values);
  float *to = static_cast<float *>(panel) + column / size * size * width + column % size;
  for (std::int64_t t = 0; t < width; ++t)
    to[t * size] = from[t];
}

// Sums are named one by one because GCC keeps arrays of them in memory.
template <class Vector> struct Pair {
  Vector a{}, b{};

  GDUI_INLINE void add(float value, const Vector &left, const Vector &right) {
    a += value * left;
    b += value * right;
  }
  GDUI_INLINE void store(float *to) const {
    std::memcpy(to, &a, sizeof a);
    std::memcpy(to + sizeof a / sizeof(float), &b, sizeof b);
  }
};

// The products of a group of rows with a strip of columns.
template <class Vector>
GDUI_INLINE void strip_products(const float *rows, const float *columns, std::int64_t width, std::int64_t first,
                                float (*out)[kPanel]) {
  static_assert(kGroup == 6, "one sum for each row of the group");
  Pair<Vector> sum0, sum1, sum2, sum3, sum4, sum5;
  for (std::int64_t t = 0; t < width; ++t) {
    Vector left, right;
    std::memcpy(&left, columns + t * strip<Vector>, sizeof left);
    std::memcpy(&right, columns + t * strip<Vector> + strip<Vector> / 2, sizeof right);
    sum0.add(rows[t], left, right);
    sum1.add(rows[width + t], left, right);
    sum2.add(rows[2 * width + t], left, right);
    sum3.add(rows[3 * width + t], left, right);
    sum4.add(rows[4 * width + t], left, right);
    sum5.add(rows[5 * width + t], left, right);
  }
  sum0.store(out[0] + first);
  sum1.store(out[1] + first);
  sum2.store(out[2] + first);
  sum3.store(out[3] + first);
  sum4.store(out[4] + first);
  sum5.store(out[5] + first);
}

using Four = float __attribute__((vector_size(16)));
using Eight = float __attribute__((vector_size(32)));

template <class Vector>
GDUI_INLINE void float_bounds(const void *values, const Row *rows, const float *thresholds, const void *panel_values,
                              const Panel &panel, std::int64_t width, Bounds &out) {
  for (std::int64_t c = 0; c < kPanel; c += strip<Vector>) {
    const float *columns = static_cast<const float *>(panel_values) + c * width;
    strip_products<Vector>(static_cast<const float *>(values), columns, width, c, out.upper);
  }
  for (std::int64_t r = 0; r < kGroup; ++r) {
    const Row &row = rows[r];
    float *upper = out.upper[r];
    for (std::int64_t c = 0; c < kPanel; ++c)
      upper[c] = row.scale * (panel.scale[c] * upper[c]) + (row.offset + panel.offset[c]) + doubt(row, panel, c);
    out.reaches[r] = 0;
    for (std::int64_t c = 0; c < kPanel; ++c)
      out.reaches[r] |= static_cast<std::uint64_t>(upper[c] >= thresholds[r]) << c;
  }
}

void float_bounds_portable(const void *values, const Row *rows, const float *thresholds, const void *panel_values,
                           const Panel &panel, std::int64_t width, Bounds &out) {
  float_bounds<Four>(values, rows, thresholds, panel_values, panel, width, out);
}

#ifdef GDUI_X86

GDUI_AVX2 void float_bounds_avx2(const void *values, const Row *rows, const float *thresholds, const void *panel_values,
                                 const Panel &panel, std::int64_t width, Bounds &out) {
  float_bounds<Eight>(values, rows, thresholds, panel_values, panel, width, out);
}

GDUI_AVX512 Row encode_bytes(const double *centred, std::int64_t width, void *values) {
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
  Row row = summary(square, rest_square, scale);
  row.bias = -128 * sum;
  return row;
}

void place_bytes(const void *values, std::int64_t width, std::int64_t column, void *panel) {
  const std::int8_t *from = static_cast<const std::int8_t *>(values);
  unsigned char *to = static_cast<unsigned char *>(panel) + 4 * column;
  for (std::int64_t t = 0; t < width; t += 4)
    for (std::int64_t j = 0; j < 4; ++j)
      to[t * kPanel + j] = static_cast<unsigned char>(from[t + j] + 128);
}

// Wider rows could overflow a sum of products of bytes.
constexpr std::int64_t kWidest = std::numeric_limits<std::int32_t>::max() / (255 * 127);

using Sixteen = float __attribute__((vector_size(64)));
using SixteenInts = std::int32_t __attribute__((vector_size(64)));

// Sums of one row with the 64 columns of a panel.
struct ByteSums {
  __m512i a, b, c, d;
};

GDUI_AVX512 GDUI_INLINE ByteSums byte_sums(const Row &row) {
  const __m512i bias = _mm512_set1_epi32(row.bias);
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

GDUI_AVX512 GDUI_INLINE std::uint64_t bound(__m512i sum, const Row &row, const Panel &panel, int first, float threshold,
                                            float *upper) {
  Sixteen scale, offset, norm, error;
  std::memcpy(&scale, panel.scale + first, sizeof scale);
  std::memcpy(&offset, panel.offset + first, sizeof offset);
  std::memcpy(&norm, panel.norm + first, sizeof norm);
  std::memcpy(&error, panel.error + first, sizeof error);
  const Sixteen products = __builtin_convertvector(reinterpret_cast<SixteenInts>(sum), Sixteen);
  const Sixteen bounds =
      row.scale * (products * scale) + offset + (row.offset + kSlack) + row.error * norm + row.norm * error;
  std::memcpy(upper + first, &bounds, sizeof bounds);
  return static_cast<std::uint64_t>(_mm512_cmp_ps_mask(bounds, _mm512_set1_ps(threshold), _CMP_GE_OQ)) << first;
}

GDUI_AVX512 GDUI_INLINE std::uint64_t bound(const ByteSums &sum, const Row &row, const Panel &panel, float threshold,
                                            float *upper) {
  return bound(sum.a, row, panel, 0, threshold, upper) | bound(sum.b, row, panel, 16, threshold, upper) |
         bound(sum.c, row, panel, 32, threshold, upper) | bound(sum.d, row, panel, 48, threshold, upper);
}

GDUI_AVX512 void byte_bounds(const void *values, const Row *rows, const float *thresholds, const void *panel_values,
                             const Panel &panel, std::int64_t width, Bounds &out) {
  static_assert(kGroup == 6 && kPanel == 64, "24 sums in registers");
  const std::int8_t *left = static_cast<const std::int8_t *>(values);
  const unsigned char *right = static_cast<const unsigned char *>(panel_values);
  ByteSums sum0 = byte_sums(rows[0]), sum1 = byte_sums(rows[1]), sum2 = byte_sums(rows[2]);
  ByteSums sum3 = byte_sums(rows[3]), sum4 = byte_sums(rows[4]), sum5 = byte_sums(rows[5]);
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
  out.reaches[0] = bound(sum0, rows[0], panel, thresholds[0], out.upper[0]);
  out.reaches[1] = bound(sum1, rows[1], panel, thresholds[1], out.upper[1]);
  out.reaches[2] = bound(sum2, rows[2], panel, thresholds[2], out.upper[2]);
  out.reaches[3] = bound(sum3, rows[3], panel, thresholds[3], out.upper[3]);
  out.reaches[4] = bound(sum4, rows[4], panel, thresholds[4], out.upper[4]);
  out.reaches[5] = bound(sum5, rows[5], panel, thresholds[5], out.upper[5]);
}

#endif

} // namespace

Product product(std::int64_t width, bool portable) {
#ifdef GDUI_X86
  if (!portable && has_avx512() && width <= kWidest)
    return {1, encode_bytes, place_bytes, byte_bounds};
  if (!portable && has_avx2())
    return {4, encode_floats, place_floats<Eight>, float_bounds_avx2};
#endif
  static_cast<void>(width);
  static_cast<void>(portable);
  return {4, encode_floats, place_floats<Four>, float_bounds_portable};
}

Centre mean(const float *rows, std::int64_t n, std::int64_t width) {
  Centre centre{std::vector<double>(width), 0};
  const std::int64_t step = n / 10'000 + 1;
  for (std::int64_t i = 0; i < n; i += step)
    for (std::int64_t t = 0; t < width; ++t)
      centre.point[t] += rows[i * width + t];
  for (double &x : centre.point) {
    x /= static_cast<double>((n + step - 1) / step);
    centre.square += x * x;
  }
  return centre;
}

Row encode(const Product &product, const Centre &centre, const float *row, std::vector<double> &scratch, void *values) {
  const std::int64_t width = static_cast<std::int64_t>(centre.point.size());
  double along = 0;
  for (std::int64_t t = 0; t < width; ++t) {
    scratch[t] = row[t] - centre.point[t];
    along += row[t] * centre.point[t];
  }
  Row out = product.encode(scratch.data(), width, values);
  out.offset = static_cast<float>(along - centre.square / 2);
  return out;
}

Columns encode_columns(const Product &product, const Centre &centre, const float *rows,
                       const std::vector<std::int32_t> &order, int threads) {
  const std::int64_t n = static_cast<std::int64_t>(order.size()), panels = (n + kPanel - 1) / kPanel;
  const std::int64_t width = static_cast<std::int64_t>(centre.point.size());
  Columns out;
  out.panel_size = kPanel * width * product.value_size;
  out.values.resize(panels * out.panel_size);
  out.panels.resize(panels);
  parallel_chunks(panels, 16, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> scratch(width);
    Bytes values(width * product.value_size);
    for (std::int64_t i = begin * kPanel; i < end * kPanel; ++i) {
      Row row;
      row.offset = -std::numeric_limits<float>::infinity();
      if (i < n) {
        row = encode(product, centre, rows + order[i] * width, scratch, values.data());
        product.place(values.data(), width, i % kPanel, out.values.data() + i / kPanel * out.panel_size);
      }
      Panel &panel = out.panels[i / kPanel];
      panel.scale[i % kPanel] = row.scale;
      panel.offset[i % kPanel] = row.offset;
      panel.norm[i % kPanel] = row.norm;
      panel.error[i % kPanel] = row.error;
    }
  });
  return out;
}

} // namespace gdui
