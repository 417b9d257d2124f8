#include "rows.hpp"

#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "parallel.hpp"
#include "turned.hpp"
#include "vectorise.hpp"

namespace gdui {
namespace {

constexpr std::int64_t kRowsAtOnce = 256; // a thread's turn: whole tiles

template <class From, bool kDense> struct Row {
  const char *data;
  std::int64_t stride;

  GDUI_INLINE float operator[](std::int64_t i) const {
    return static_cast<float>(read<From>(data + i * (kDense ? static_cast<std::int64_t>(sizeof(From)) : stride)));
  }
};

// The first of the rows that are noted, by whichever thread.
struct FirstOf {
  std::atomic<std::int64_t> row{-1};

  void note(std::int64_t k) {
    std::int64_t before = row.load();
    while ((before < 0 || k < before) && !row.compare_exchange_weak(before, k)) {
    }
  }
};

struct Finite {
  const Matrix &rows;
  FirstOf &wrong;

  template <class From, bool kDense> GDUI_INLINE void each(std::int64_t begin, std::int64_t end) const {
    for (std::int64_t k = begin; k < end; ++k) {
      const Row<From, kDense> row{rows.data + k * rows.row_stride, rows.col_stride};
      std::int32_t bad = 0;
      for (std::int64_t i = 0; i < rows.cols; ++i)
        bad |= !(std::fabs(row[i]) <= std::numeric_limits<float>::max());
      if (bad != 0)
        wrong.note(k);
    }
  }
};

// A row less the center.
template <class Of> struct Less {
  const Of &row;
  const float *center;

  GDUI_INLINE float operator[](std::int64_t i) const { return row[i] - center[i]; }
};

struct Centred {
  const Matrix &rows;
  const float *center;
  float *unit, *plain;
  FirstOf &wrong;

  template <class From, bool kDense> GDUI_INLINE void each(std::int64_t begin, std::int64_t end) const {
    for (std::int64_t k = begin; k < end; ++k)
      one(k, Row<From, kDense>{rows.data + k * rows.row_stride, rows.col_stride});
  }

  template <class Of> GDUI_INLINE void one(std::int64_t k, const Of &row) const {
    float *out = unit + k * rows.cols;
    if (plain == nullptr) {
      shorten(k, measure(Less<Of>{row, center}, out), out);
    } else {
      float *own = plain + k * rows.cols;
      const double square = measure(row, own);
      shorten(k, measure(Less<float *>{own, center}, out), out);
      shorten(k, square, own);
    }
  }

  // Squares of floats are exact in double: no processor sums them otherwise.
  template <class Of> GDUI_INLINE double measure(const Of &row, float *out) const {
    const std::int64_t whole = rows.cols / kTurned * kTurned;
    Sums squares = {};
    for (std::int64_t first = 0; first < whole; first += kTurned)
      for (std::int64_t l = 0; l < kTurned; ++l) {
        const float value = row[first + l];
        out[first + l] = value;
        squares[l] += static_cast<double>(value) * value;
      }
    for (std::int64_t i = whole; i < rows.cols; ++i) {
      out[i] = row[i];
      squares[i - whole] += static_cast<double>(out[i]) * out[i];
    }
    double total = 0;
    for (const double square : squares)
      total += square;
    return total;
  }

  GDUI_INLINE void shorten(std::int64_t k, double square, float *out) const {
    if (!(square <= std::numeric_limits<double>::max()))
      wrong.note(k);
    const double share = square > 0 ? 1 / std::sqrt(square) : 0;
    for (std::int64_t i = 0; i < rows.cols; ++i)
      out[i] = static_cast<float>(out[i] * share);
  }
};

template <class Task> struct Typed {
  const Task &task;

  GDUI_INLINE void operator()(std::int64_t begin, std::int64_t end) const {
    switch (task.rows.kind) {
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
    if (task.rows.col_stride == sizeof(From))
      task.template each<From, true>(begin, end);
    else
      task.template each<From, false>(begin, end);
  }
};

template <class Task> void run(const Task &task, std::int64_t rows, int threads) {
  parallel_chunks(rows, kRowsAtOnce, threads,
                  [&](std::int64_t begin, std::int64_t end) { run_vectorised(task, begin, end); });
}

struct Choose {
  const float *scores;
  std::int64_t columns;
  float scale;
  const Choices &out;
  float *softmax;

  GDUI_INLINE void operator()(std::int64_t begin, std::int64_t end) const {
    std::vector<float> tile(columns * kTurned);
    for (std::int64_t first = begin; first < end; first += kTurned)
      rows(first, std::min(kTurned, end - first), tile.data());
  }

  GDUI_INLINE void rows(std::int64_t at, std::int64_t count, float *tile) const {
    Lanes most, next;
    std::int32_t first[kTurned] = {}, second[kTurned] = {};
    turn(scores + at * columns, count, columns, tile);
    largest_two(tile, most, next, first, second);
    Sums total;
    exponentials(tile, columns, most, scale, tile, total);
    for (std::int64_t l = 0; l < count; ++l) {
      out.first[at + l] = first[l];
      out.second[at + l] = second[l];
      out.most[at + l] = most[l];
      out.share[at + l] = static_cast<float>(1 / total[l]);
      out.lead[at + l] = columns > 1 ? most[l] - next[l] : 0.0f;
    }
    if (softmax != nullptr)
      write(tile, total, count, softmax + at * columns);
  }

  GDUI_INLINE void largest_two(const float *tile, Lanes &most, Lanes &next, std::int32_t *first,
                               std::int32_t *second) const {
    for (std::int64_t l = 0; l < kTurned; ++l) {
      most[l] = tile[l];
      next[l] = -std::numeric_limits<float>::infinity();
    }
    for (std::int64_t c = 1; c < columns; ++c)
      for (std::int64_t l = 0; l < kTurned; ++l) {
        const float value = tile[c * kTurned + l];
        const bool best = value > most[l], better = value > next[l];
        second[l] = best ? first[l] : better ? static_cast<std::int32_t>(c) : second[l];
        next[l] = best ? most[l] : better ? value : next[l];
        first[l] = best ? static_cast<std::int32_t>(c) : first[l];
        most[l] = best ? value : most[l];
      }
  }

  GDUI_INLINE void write(float *tile, const Sums &total, std::int64_t count, float *to) const {
    Lanes share;
    for (std::int64_t l = 0; l < kTurned; ++l)
      share[l] = static_cast<float>(1 / total[l]);
    for (std::int64_t c = 0; c < columns; ++c)
      for (std::int64_t l = 0; l < kTurned; ++l)
        tile[c * kTurned + l] *= share[l];
    turn_back(tile, count, columns, to);
  }
};

} // namespace

std::int64_t first_not_finite(const Matrix &rows, int threads) {
  FirstOf wrong;
  const Finite task{rows, wrong};
  run(Typed<Finite>{task}, rows.rows, threads);
  return wrong.row;
}

std::int64_t centred_rows(const Matrix &rows, const float *center, float *unit, float *plain, int threads) {
  FirstOf wrong;
  const Centred task{rows, center, unit, plain, wrong};
  run(Typed<Centred>{task}, rows.rows, threads);
  return wrong.row;
}

void choose(const float *scores, std::int64_t rows, std::int64_t columns, float scale, const Choices &out,
            float *softmax, int threads) {
  run(Choose{scores, columns, scale, out, softmax}, rows, threads);
}

} // namespace gdui
