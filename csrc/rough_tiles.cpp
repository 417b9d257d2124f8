#include "rough_reach.hpp"

#ifdef GDUI_AMX

namespace gdui {
namespace {

// The nearest bfloat16, ties to even: the upper half of a float.
std::uint16_t half(double x) {
  const float value = static_cast<float>(x);
  std::uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  return static_cast<std::uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

double whole(std::uint16_t half) {
  const std::uint32_t word = static_cast<std::uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

Code encode_halves(const double *centred, std::int64_t width, void *values) {
  std::uint16_t *out = static_cast<std::uint16_t *>(values);
  double square = 0, rest_square = 0;
  for (std::int64_t t = 0; t < width; ++t) {
    out[t] = half(centred[t]);
    const double rest = centred[t] - whole(out[t]);
    square += centred[t] * centred[t];
    rest_square += rest * rest;
  }
  Code code = summary(square, rest_square, 1);
  code.error += sum_error(width) * code.norm;
  return code;
}

// Two halves of each of 64 columns side by side.
void place_halves(const void *values, std::int64_t width, std::int64_t column, void *panel) {
  const char *from = static_cast<const char *>(values);
  char *to = static_cast<char *>(panel) + 4 * column;
  for (std::int64_t t = 0; t < width; t += 2)
    std::memcpy(to + t * 2 * kPanel, from + 2 * t, 4);
}

constexpr std::int64_t kRows = 16;  // of a tile of AMX
constexpr std::int64_t kStep = 32;  // halves in a row of it
constexpr int kStride = 4 * kPanel; // bytes from one pair of halves of a column to its next, and in a row of sums
static_assert(kTile % (2 * kRows) == 0 && kPanel % (2 * kRows) == 0, "squares of four tiles of sums");

struct alignas(64) Shape {
  std::uint8_t palette = 1, start = 0, reserved[14] = {};
  std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The products of 32 rows with 32 columns, in tiles 0 to 3. Tiles 4 and 5 hold a step of the rows, 6 and 7 of the
// columns.
GDUI_AMX GDUI_INLINE void square(const char *rows, const char *columns, std::int64_t width, float *out) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t t = 0; t < width; t += kStep, rows += 2 * kStep, columns += kStep / 2 * kStride) {
    _tile_loadd(4, rows, 2 * width);
    _tile_loadd(6, columns, kStride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, columns + 4 * kRows, kStride);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, rows + 2 * kRows * width, 2 * width);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, out, kStride);
  _tile_stored(1, out + kRows, kStride);
  _tile_stored(2, out + kRows * kPanel, kStride);
  _tile_stored(3, out + kRows * kPanel + kRows, kStride);
}

GDUI_AMX void bounds(const void *values, const Query *queries, const void *panel_values, const Panel &panel,
                     std::int64_t at, std::int64_t width, Bounds &out) {
  const char *rows = static_cast<const char *>(values), *columns = static_cast<const char *>(panel_values);
  alignas(64) float sums[2 * kRows][kPanel];
  const Shape shape;
  _tile_loadconfig(&shape);
  for (std::int64_t group = 0; group < kTile; group += 2 * kRows, rows += 4 * kRows * width) {
    std::fill_n(out.reaches + group, 2 * kRows, 0);
    if (!any_seeks(queries + group, 2 * kRows))
      continue;
    for (std::int64_t c = 0; c < kPanel; c += 2 * kRows)
      square(rows, columns + 4 * c, width, sums[0] + c);
    for (std::int64_t r = 0; r < 2 * kRows; ++r) {
      const float *sum = sums[r];
      out.reaches[group + r] = reached(load(sum), load(sum + 16), load(sum + 32), load(sum + 48), queries[group + r],
                                       panel, at, out.upper[group + r]);
    }
  }
  _tile_release();
}

} // namespace

Product tile_product() { return {2, encode_halves, place_halves, bounds}; }

} // namespace gdui

#endif
