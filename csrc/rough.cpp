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
float above(double x) {
  return std::nextafter(static_cast<float>(x), std::numeric_limits<float>::infinity());
}

Row summary(double square, double rest_square, double scale) {
  Row row;
  row.scale = static_cast<float>(scale);
  row.error = above(std::sqrt(rest_square));
  row.norm = above(std::sqrt(square) + std::sqrt(rest_square));
  return row;
}

constexpr std::int64_t kStrip = 16; // columns of a panel of floats that lie together

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

void place_floats(const void *values, std::int64_t width, std::int64_t column, void *panel) {
  const float *from = static_cast<const float *>(values);
  float *to = static_cast<float *>(panel) + column / kStrip * kStrip * width + column % kStrip;
  for (std::int64_t t = 0; t < width; ++t)
    to[t * kStrip] = from[t];
}

using Floats = float __attribute__((vector_size(32)));

// The products of a group of rows with 16 columns.
GDUI_INLINE void strip_products(const float *rows, const float *strip, std::int64_t width, float (*out)[kPanel]) {
  Floats sum[kGroup][2] = {};
  for (std::int64_t t = 0; t < width; ++t) {
    Floats column[2];
    std::memcpy(column, strip + t * kStrip, sizeof column);
    for (std::int64_t r = 0; r < kGroup; ++r) {
      const Floats value = rows[r * width + t] - Floats{};
      sum[r][0] += value * column[0];
      sum[r][1] += value * column[1];
    }
  }
  for (std::int64_t r = 0; r < kGroup; ++r)
    std::memcpy(out[r], sum[r], sizeof sum[r]);
}

GDUI_INLINE void float_bounds(const void *values, const Row *rows, const float *thresholds, const void *panel_values,
                              const Panel &panel, std::int64_t width, Bounds &out) {
  for (std::int64_t c = 0; c < kPanel; c += kStrip) {
    float products[kGroup][kPanel];
    strip_products(static_cast<const float *>(values), static_cast<const float *>(panel_values) + c * width, width,
                   products);
    for (std::int64_t r = 0; r < kGroup; ++r)
      std::memcpy(out.upper[r] + c, products[r], kStrip * sizeof(float));
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
  float_bounds(values, rows, thresholds, panel_values, panel, width, out);
}

#ifdef GDUI_X86

GDUI_AVX2 void float_bounds_avx2(const void *values, const Row *rows, const float *thresholds,
                                 const void *panel_values, const Panel &panel, std::int64_t width, Bounds &out) {
  float_bounds(values, rows, thresholds, panel_values, panel, width, out);
}

Row encode_bytes(const double *centred, std::int64_t width, void *values) {
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

// Four bytes of a row against four of each column an instruction; 24 sums stay in registers.
GDUI_AVX512 void byte_bounds(const void *values, const Row *rows, const float *thresholds, const void *panel_values,
                             const Panel &panel, std::int64_t width, Bounds &out) {
  const std::int8_t *left = static_cast<const std::int8_t *>(values);
  const unsigned char *right = static_cast<const unsigned char *>(panel_values);
  __m512i sum[kGroup][4];
  for (int r = 0; r < kGroup; ++r)
    for (int c = 0; c < 4; ++c)
      sum[r][c] = _mm512_set1_epi32(rows[r].bias);
  for (std::int64_t t = 0; t < width; t += 4) {
    __m512i column[4];
    for (int c = 0; c < 4; ++c)
      column[c] = _mm512_loadu_si512(right + t * kPanel + 64 * c);
    for (int r = 0; r < kGroup; ++r) {
      std::int32_t four;
      std::memcpy(&four, left + r * width + t, sizeof four);
      const __m512i value = _mm512_set1_epi32(four);
      for (int c = 0; c < 4; ++c)
        sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], column[c], value);
    }
  }
  for (int r = 0; r < kGroup; ++r) {
    const Row &row = rows[r];
    out.reaches[r] = 0;
    for (int c = 0; c < 4; ++c) {
      const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][c]), _mm512_loadu_ps(panel.scale + 16 * c));
      __m512 upper = _mm512_add_ps(_mm512_loadu_ps(panel.offset + 16 * c), _mm512_set1_ps(row.offset + kSlack));
      upper = _mm512_fmadd_ps(_mm512_set1_ps(row.error), _mm512_loadu_ps(panel.norm + 16 * c), upper);
      upper = _mm512_fmadd_ps(_mm512_set1_ps(row.norm), _mm512_loadu_ps(panel.error + 16 * c), upper);
      upper = _mm512_fmadd_ps(_mm512_set1_ps(row.scale), product, upper);
      _mm512_store_ps(out.upper[r] + 16 * c, upper);
      const std::uint64_t reaches = _mm512_cmp_ps_mask(upper, _mm512_set1_ps(thresholds[r]), _CMP_GE_OQ);
      out.reaches[r] |= reaches << (16 * c);
    }
  }
}

#endif

} // namespace

Product product(std::int64_t width, bool portable) {
#ifdef GDUI_X86
  if (!portable && has_avx512() && width <= kWidest)
    return {1, encode_bytes, place_bytes, byte_bounds};
  if (!portable && has_avx2())
    return {4, encode_floats, place_floats, float_bounds_avx2};
#endif
  static_cast<void>(width);
  static_cast<void>(portable);
  return {4, encode_floats, place_floats, float_bounds_portable};
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
