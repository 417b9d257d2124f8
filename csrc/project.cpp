#include "project.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "parallel.hpp"
#include "vectorise.hpp"

namespace gdui {
namespace {

constexpr std::int64_t kRowsAtOnce = 480; // a thread's turn: whole tiles
constexpr std::int64_t kTile = 12;        // rows multiplied while they are in the nearest cache
constexpr std::int64_t kLanes = 16;
constexpr double kHuge = 1e30; // a factor up to this, or down to its inverse, may as well be a float

using Floats = float __attribute__((vector_size(4 * kLanes)));

GDUI_INLINE Floats load(const float *from) {
  Floats value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

GDUI_INLINE void store(const Floats &value, float *to) { std::memcpy(to, &value, sizeof value); }

// Columns side by side: number i of all of them, then number i + 1; padded with zeros to whole vectors.
struct Panel {
  std::vector<Columns> sides;
  std::int64_t vectors = 0;
  std::vector<float> values;

  Panel(const std::vector<Columns> &from, std::int64_t length) : sides(from) {
    std::int64_t count = 0;
    for (const Columns &side : sides)
      count += side.count;
    vectors = (count + kLanes - 1) / kLanes;
    values.assign(vectors * kLanes * length, 0.0f);
    std::int64_t at = 0;
    for (const Columns &side : sides)
      for (std::int64_t c = 0; c < side.count; ++c, ++at)
        for (std::int64_t i = 0; i < length; ++i)
          values[i * vectors * kLanes + at] = side.columns[c * length + i];
  }
};

struct Project {
  const Matrix &rows;
  const float *center;
  const Panel &centred, &plain;
  std::atomic<std::int64_t> &wrong;

  GDUI_INLINE void operator()(std::int64_t begin, std::int64_t end) const {
    switch (rows.kind) {
    case Kind::f16:
      return as<Half>(begin, end);
    case Kind::f32:
      return as<float>(begin, end);
    case Kind::f64:
      return as<double>(begin, end);
    default:
      throw std::invalid_argument("rows must be of float16, float32 or float64");
    }
  }

  template <class From> GDUI_INLINE void as(std::int64_t begin, std::int64_t end) const {
    const std::int64_t d = rows.cols;
    std::vector<float> less(kTile * d), own(kTile * d);
    std::vector<float> products(kTile * std::max(centred.vectors, plain.vectors) * kLanes);
    for (std::int64_t first = begin; first < end; first += kTile) {
      const std::int64_t count = std::min(kTile, end - first);
      for (std::int64_t r = 0; r < count; ++r)
        take<From>(first + r, less.data() + r * d, own.data() + r * d);
      multiply(centred, less.data(), first, count, products.data());
      multiply(plain, own.data(), first, count, products.data());
    }
  }

  // A row less the center and as it is, at length 1.
  template <class From> GDUI_INLINE void take(std::int64_t k, float *less, float *own) const {
    const char *row = rows.data + k * rows.row_stride;
    if (rows.col_stride == sizeof(From))
      for (std::int64_t i = 0; i < rows.cols; ++i)
        own[i] = static_cast<float>(read<From>(row + i * static_cast<std::int64_t>(sizeof(From))));
    else
      for (std::int64_t i = 0; i < rows.cols; ++i)
        own[i] = static_cast<float>(read<From>(row + i * rows.col_stride));
    for (std::int64_t i = 0; i < rows.cols; ++i)
      less[i] = own[i] - center[i];
    shorten(less, k);
    shorten(own, k);
  }

  // Squares of floats are exact in double.
  GDUI_INLINE void shorten(float *values, std::int64_t k) const {
    double squares[kLanes] = {};
    const std::int64_t whole = rows.cols / kLanes * kLanes;
    for (std::int64_t i = 0; i < whole; i += kLanes)
      for (std::int64_t l = 0; l < kLanes; ++l)
        squares[l] += static_cast<double>(values[i + l]) * values[i + l];
    for (std::int64_t i = whole; i < rows.cols; ++i)
      squares[i - whole] += static_cast<double>(values[i]) * values[i];
    double square = 0;
    for (const double part : squares)
      square += part;
    if (!(square <= std::numeric_limits<double>::max()))
      note(k);
    const double share = square > 0 ? 1 / std::sqrt(square) : 0;
    if (share < kHuge && share * kHuge > 1)
      for (std::int64_t i = 0; i < rows.cols; ++i)
        values[i] *= static_cast<float>(share);
    else
      for (std::int64_t i = 0; i < rows.cols; ++i)
        values[i] = static_cast<float>(values[i] * share);
  }

  GDUI_INLINE void note(std::int64_t k) const {
    std::int64_t before = wrong.load();
    while ((before < 0 || k < before) && !wrong.compare_exchange_weak(before, k)) {
    }
  }

  GDUI_INLINE void multiply(const Panel &panel, const float *values, std::int64_t first, std::int64_t count,
                            float *products) const {
    const std::int64_t width = panel.vectors * kLanes;
    std::int64_t at = 0;
    for (; at + 3 <= panel.vectors; at += 3)
      stripe<6, 3>(panel, values, at, products);
    if (at + 2 <= panel.vectors)
      stripe<12, 2>(panel, values, at, products);
    else if (at < panel.vectors)
      stripe<12, 1>(panel, values, at, products);
    for (std::int64_t r = 0; r < count; ++r) {
      const float *from = products + r * width;
      for (const Columns &side : panel.sides) {
        std::copy_n(from, side.count, side.products + (first + r) * side.count);
        from += side.count;
      }
    }
  }

  // Sums of kTogether rows in kVectors vectors, all of which stay in registers.
  template <int kTogether, int kVectors>
  GDUI_INLINE void stripe(const Panel &panel, const float *values, std::int64_t at, float *products) const {
    const std::int64_t width = panel.vectors * kLanes;
    for (std::int64_t r = 0; r < kTile; r += kTogether) {
      Floats sum[kTogether][kVectors] = {};
      const float *row = values + r * rows.cols, *column = panel.values.data() + at * kLanes;
      for (std::int64_t i = 0; i < rows.cols; ++i, column += width)
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) {
          const Floats some = load(column + v * kLanes);
#pragma GCC unroll 12
          for (int k = 0; k < kTogether; ++k)
            sum[k][v] += row[k * rows.cols + i] * some;
        }
      for (int k = 0; k < kTogether; ++k)
        for (int v = 0; v < kVectors; ++v)
          store(sum[k][v], products + (r + k) * width + (at + v) * kLanes);
    }
  }
};

} // namespace

std::int64_t project(const Matrix &rows, const float *center, const std::vector<Columns> &centred,
                     const std::vector<Columns> &plain, int threads) {
  std::atomic<std::int64_t> wrong{-1};
  const Panel less(centred, rows.cols), own(plain, rows.cols);
  const Project task{rows, center, less, own, wrong};
  parallel_chunks(rows.rows, kRowsAtOnce, threads,
                  [&](std::int64_t begin, std::int64_t end) { run_vectorised(task, begin, end); });
  return wrong;
}

} // namespace gdui
