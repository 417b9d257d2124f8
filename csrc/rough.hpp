// Cheap products of unit rows, with a proven bound on their error.
//
// A row a is written as centre + scale * values + rest, where values are bytes (or floats) and |rest| <= error. With b
// written likewise and a' = a - centre,
//   a.b = scale_a scale_b values_a.values_b + offset_a + offset_b + (what the rests add),
//   |what the rests add| <= error_a |b'| + |scale_a values_a| error_b        (Cauchy-Schwarz, twice),
// where offset_a = a.centre - centre.centre / 2. Any centre will do; the mean makes the bounds tight.
#pragma once

#include <cstdint>
#include <new>
#include <vector>

namespace gdui {

constexpr std::int64_t kPanel = 64; // columns that are multiplied together
constexpr std::int64_t kGroup = 6;  // rows that are multiplied together

// What all roundings in float32 between exact arithmetic and a computed bound can add up to: a dozen results below 4,
// each wrong by at most 2^-24 of itself.
constexpr float kSlack = 12 * 4 * 0x1p-24F;

// Memory that starts on a cache line.
template <class T> struct LineAllocator {
  using value_type = T;
  LineAllocator() = default;
  template <class U> LineAllocator(const LineAllocator<U> &) {}
  T *allocate(std::size_t n) { return static_cast<T *>(::operator new(n * sizeof(T), std::align_val_t(64))); }
  void deallocate(T *p, std::size_t) { ::operator delete(p, std::align_val_t(64)); }
  template <class U> bool operator==(const LineAllocator<U> &) const { return true; }
  template <class U> bool operator!=(const LineAllocator<U> &) const { return false; }
};
using Bytes = std::vector<unsigned char, LineAllocator<unsigned char>>;

// What stands beside a row's values. `norm` is at least |a'| and |scale values|.
struct Row {
  float scale = 0, offset = 0, norm = 0, error = 0;
  std::int32_t bias = 0; // takes back that columns store value + 128
};

// The same for the columns of a panel, side by side.
struct Panel {
  float scale[kPanel], offset[kPanel], norm[kPanel], error[kPanel];
};

// For a group of rows and a panel: an upper bound of each similarity, and one bit for each that reaches its row's
// threshold.
struct Bounds {
  alignas(64) float upper[kGroup][kPanel];
  std::uint64_t reaches[kGroup];
};

inline float doubt(const Row &row, const Panel &panel, std::int64_t column) {
  return row.error * panel.norm[column] + row.norm * panel.error[column] + kSlack;
}

// How values are stored and multiplied: one of these for each kind of processor.
struct Product {
  std::int64_t value_size; // bytes
  Row (*encode)(const double *centred, std::int64_t width, void *values);
  void (*place)(const void *values, std::int64_t width, std::int64_t column, void *panel);
  void (*bounds)(const void *values, const Row *rows, const float *thresholds, const void *panel_values,
                 const Panel &panel, std::int64_t width, Bounds &out);
};

// The fastest for this processor and width, or the one for every processor.
Product product(std::int64_t width, bool portable);

// The point that rows are written relative to.
struct Centre {
  std::vector<double> point;
  double square = 0;
};

Centre mean(const float *rows, std::int64_t n, std::int64_t width);

// Writes the values of a unit row to `values`; `scratch` holds `width` numbers.
Row encode(const Product &product, const Centre &centre, const float *row, std::vector<double> &scratch, void *values);

struct Columns {
  std::int64_t panel_size = 0; // bytes
  Bytes values;
  std::vector<Panel> panels;
};

// Encodes rows[order[0]], rows[order[1]], ... as columns. What fills up the last panel reaches no threshold.
Columns encode_columns(const Product &product, const Centre &centre, const float *rows,
                       const std::vector<std::int32_t> &order, int threads);

} // namespace gdui
