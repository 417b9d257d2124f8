#include "rough_products.hpp"

#include <cstring>

namespace gdui {
namespace {

constexpr std::int64_t kGroup = 6; // rows that are multiplied together
static_assert(kTile % kGroup == 0, "tiles are whole groups");

Code encode_floats(const double *centred, std::int64_t width, void *values) {
  float *out = static_cast<float *>(values);
  double square = 0, rest_square = 0;
  for (std::int64_t t = 0; t < width; ++t) {
    out[t] = static_cast<float>(centred[t]);
    const double rest = centred[t] - out[t];
    square += centred[t] * centred[t];
    rest_square += rest * rest;
  }
  Code code = summary(square, rest_square, 1);
  code.error += sum_error(width) * code.norm;
  return code;
}

// Columns of a panel that lie together: two registers of the type Vector.
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

// Turns products into upper bounds, and says which reach the threshold.
GDUI_INLINE std::uint64_t bound(const Query &query, const Panel &panel, std::int64_t at, float *upper) {
  const float *along = query.along_centre + at * kPanel;
  const float offset = query.offset[panel.centre];
  for (std::int64_t c = 0; c < kPanel; ++c)
    upper[c] = query.code.scale * (panel.scale[c] * upper[c]) + (offset + along[c]) + doubt(query.code, panel, c);
  std::uint64_t reaches = 0;
  for (std::int64_t c = 0; c < kPanel; ++c)
    reaches |= static_cast<std::uint64_t>(upper[c] >= query.threshold) << c;
  return reaches;
}

template <class Vector>
GDUI_INLINE void float_bounds(const void *values, const Query *queries, const void *panel_values, const Panel &panel,
                              std::int64_t at, std::int64_t width, Bounds &out) {
  for (std::int64_t group = 0; group < kTile; group += kGroup) {
    std::fill_n(out.reaches + group, kGroup, 0);
    if (!any_seeks(queries + group, kGroup))
      continue;
    const float *rows = static_cast<const float *>(values) + group * width;
    for (std::int64_t c = 0; c < kPanel; c += strip<Vector>)
      strip_products<Vector>(rows, static_cast<const float *>(panel_values) + c * width, width, c, out.upper + group);
    for (std::int64_t r = group; r < group + kGroup; ++r)
      out.reaches[r] = bound(queries[r], panel, at, out.upper[r]);
  }
}

using Four = float __attribute__((vector_size(16)));

void bounds_portable(const void *values, const Query *queries, const void *panel_values, const Panel &panel,
                     std::int64_t at, std::int64_t width, Bounds &out) {
  float_bounds<Four>(values, queries, panel_values, panel, at, width, out);
}

#ifdef GDUI_X86

using Eight = float __attribute__((vector_size(32)));

GDUI_AVX2 void bounds_avx2(const void *values, const Query *queries, const void *panel_values, const Panel &panel,
                           std::int64_t at, std::int64_t width, Bounds &out) {
  float_bounds<Eight>(values, queries, panel_values, panel, at, width, out);
}

#endif

} // namespace

Product float_product(Instructions most) {
#ifdef GDUI_X86
  if (most >= Instructions::avx2)
    return {4, encode_floats, place_floats<Eight>, bounds_avx2};
#endif
  static_cast<void>(most);
  return {4, encode_floats, place_floats<Four>, bounds_portable};
}

} // namespace gdui
