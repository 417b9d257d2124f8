// Cheap products of unit rows, with a proven bound on their error.
//
// A row a near the centre p is written as p + scale * values + rest, where values are bytes (or floats) and
// |rest| <= error. With b near the centre q written likewise, a' = a - p and b' = b - q,
//   a.b = scale_a scale_b values_a.values_b + (a.q - p.q) + p.b + (what the rests add),
//   |what the rests add| <= error_a |b'| + |scale_a values_a| error_b        (Cauchy-Schwarz, twice).
// Any centres will do; near ones make a' and b' short, and the bound tight.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "processor.hpp"
#include "similarity.hpp"

namespace gdui {

constexpr std::int64_t kPanel = 64; // columns that are multiplied together
constexpr std::int64_t kTile = 192; // rows that walk through the panels together

// What all roundings in float32 between exact arithmetic and a computed bound can add up to: sixteen results below 4,
// each wrong by at most 2^-24 of itself.
constexpr float kSlack = 16 * 4 * 0x1p-24F;

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

// What stands beside the values of a row. `norm` is at least |a'| and |scale values|.
struct Code {
  float scale = 0, norm = 0, error = 0;
  std::int32_t bias = 0; // takes back that columns store value + 128
};

// A row that looks for columns whose similarity may reach its threshold.
struct Query {
  Code code;
  float threshold;
  const float *offset;       // a.q - p.q for each centre q
  const float *along_centre; // p.b for each column b
};

// What stands beside the values of 64 columns around one centre.
struct Panel {
  float scale[kPanel], norm[kPanel], error[kPanel];
  float most_norm, most_error;
  std::int32_t centre;
};

// For a tile of queries and a panel: one bit for each similarity that may reach its query's threshold, and its upper
// bound where the bit is set.
struct Bounds {
  alignas(64) float upper[kTile][kPanel];
  std::uint64_t reaches[kTile];
};

inline float doubt(const Code &code, const Panel &panel, std::int64_t column) {
  return code.error * panel.norm[column] + code.norm * panel.error[column] + kSlack;
}

// How values are stored and multiplied: one of these for each kind of processor.
struct Product {
  std::int64_t value_size; // bytes
  Code (*encode)(const double *centred, std::int64_t width, void *values);
  void (*place)(const void *values, std::int64_t width, std::int64_t column, void *panel);
  // All of a tile's queries against panel number `at`.
  void (*bounds)(const void *values, const Query *queries, const void *panel_values, const Panel &panel,
                 std::int64_t at, std::int64_t width, Bounds &out);
};

// The fastest for this processor and width that needs no more than these instructions.
Product product(std::int64_t width, Instructions most);

// The points that rows are written relative to.
struct Centres {
  std::int64_t count, width;
  std::vector<float> points;  // [count, width]
  std::vector<float> between; // p.q [count, count]

  const float *point(std::int64_t p) const { return points.data() + p * width; }
};

// A threshold that nothing reaches.
constexpr float kNever = std::numeric_limits<float>::infinity();

// Whether any of some queries may still find something.
inline bool any_seeks(const Query *queries, std::int64_t count) {
  return std::any_of(queries, queries + count, [](const Query &query) { return query.threshold < kNever; });
}

// Points amid the rows: some rows, moved once to the mean of those that are nearest to them.
Centres centres(const float *rows, std::int64_t n, std::int64_t width, Similarity similarity, int threads);

// Writes a row's similarity with each centre, and returns the number of the nearest one.
std::int32_t locate(const Centres &centres, Similarity similarity, const double *row, float *along);

// Writes the values of a unit row to `values`; `scratch` holds `width` numbers.
Code encode(const Product &product, const float *centre, const float *row, std::int64_t width,
            std::vector<double> &scratch, void *values);

struct Columns {
  std::vector<std::int32_t> order; // column c is row order[c]; those of one centre stand together
  std::int64_t panel_size = 0;     // bytes
  Bytes values;
  std::vector<Panel> panels;
  std::vector<float> along; // p.b [centres, columns]; what fills up the last panel reaches no threshold

  const float *along_centre(std::int64_t p) const {
    return along.data() + p * static_cast<std::int64_t>(panels.size()) * kPanel;
  }
};

Columns columns(const Product &product, const Centres &centres, Similarity similarity, const float *rows,
                std::int64_t n, int threads);

// A tile of queries: their values, and what stands beside them. Those that a tile lacks seek nothing.
struct QueryTile {
  Bytes values;
  std::vector<float> offsets;
  std::vector<Query> queries; // kTile of them
};

// At most kTile rows, each of which looks for columns of at least `threshold`.
QueryTile query_tile(const Product &product, const Centres &centres, const Columns &columns, Similarity similarity,
                     const std::vector<const float *> &rows, float threshold);

} // namespace gdui
