#include "walk.hpp"

#include <cstring>

#include "parallel.hpp"
#include "vectorise.hpp"

namespace gdui {
namespace {

constexpr std::int64_t kRowsAtOnce = 256; // a thread's turn
constexpr int kLanes = 16;
constexpr int kWide = 4; // vectors of sums that stay in registers

using Floats = float __attribute__((vector_size(4 * kLanes)));

GDUI_INLINE Floats load(const float *from) {
  Floats value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

GDUI_INLINE void store(const Floats &value, float *to) { std::memcpy(to, &value, sizeof value); }

struct Step {
  const Graph &graph;
  const float *from, *own;
  float move, keep;
  std::int64_t columns;
  float *to;

  GDUI_INLINE void operator()(std::int64_t begin, std::int64_t end) const {
    for (std::int64_t row = begin; row < end; ++row) {
      std::int64_t first = 0;
      for (; first + kWide * kLanes <= columns; first += kWide * kLanes)
        stripe<kWide>(row, first);
      for (; first + kLanes <= columns; first += kLanes)
        stripe<1>(row, first);
      if (first < columns)
        rest(row, first);
    }
  }

  // Columns whose sums stay in registers.
  template <int kVectors> GDUI_INLINE void stripe(std::int64_t row, std::int64_t first) const {
    Floats sum[kVectors] = {};
    for (std::int64_t entry = graph.start[row]; entry < graph.start[row + 1]; ++entry) {
      const float *next = from + graph.column[entry] * columns + first;
      const float weight = graph.weight[entry];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[v] += weight * load(next + v * kLanes);
    }
    const std::int64_t at = row * columns + first;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      store(move * sum[v] + keep * load(own + at + v * kLanes), to + at + v * kLanes);
  }

  // The last columns, fewer than a vector holds.
  GDUI_INLINE void rest(std::int64_t row, std::int64_t first) const {
    float sum[kLanes] = {};
    const std::int64_t count = columns - first, at = row * columns + first;
    for (std::int64_t entry = graph.start[row]; entry < graph.start[row + 1]; ++entry) {
      const float *next = from + graph.column[entry] * columns + first;
      for (std::int64_t c = 0; c < count; ++c)
        sum[c] += graph.weight[entry] * next[c];
    }
    for (std::int64_t c = 0; c < count; ++c)
      to[at + c] = move * sum[c] + keep * own[at + c];
  }
};

} // namespace

void walk(const Graph &graph, const float *from, const float *own, float move, float keep, std::int64_t columns,
          int threads, float *to) {
  const Step step{graph, from, own, move, keep, columns, to};
  parallel_chunks(graph.rows, kRowsAtOnce, threads,
                  [&](std::int64_t begin, std::int64_t end) { run_vectorised(step, begin, end); });
}

} // namespace gdui
