// Work on images in tiles of logical order, small enough for the nearest cache.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "diffusion.hpp"
#include "noise.hpp"
#include "parallel.hpp"
#include "vectorise.hpp"

namespace gdui {

// `length` elements of one image from `start` on, counted as in a contiguous tensor.
struct Tile {
  std::int64_t image, start;
  int length;
};

enum Stream : std::uint32_t { kTraining, kSampling }; // of the noise generator

constexpr std::int64_t kTilesTogether = 32; // handed to a thread at once

inline std::int64_t tiles_of(const Shape &shape) { return (shape.count() + kTile - 1) / kTile; }

inline Tile tile_of(const Shape &shape, std::int64_t image, std::int64_t number) {
  const std::int64_t start = number * kTile;
  return {image, start, static_cast<int>(std::min<std::int64_t>(kTile, shape.count() - start))};
}

template <class Body> void for_each_tile(const Shape &shape, int threads, const Body &body) {
  const std::int64_t tiles = tiles_of(shape);
  parallel_chunks(shape.images * tiles, kTilesTogether, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      body(tile_of(shape, i / tiles, i % tiles));
  });
}

template <class T> bool is_flat(const Shape &shape, const View<T> &view) {
  return view.position == 1 && (shape.channels == 1 || view.channel == shape.positions);
}

// Calls visit(i, element) for the tile's elements in order.
template <class T, class Visit>
void walk(const Shape &shape, const View<T> &view, const Tile &tile, const Visit &visit) {
  std::int64_t channel = tile.start / shape.positions, position = tile.start % shape.positions;
  for (int i = 0; i < tile.length; ++channel, position = 0)
    for (T *at = view.data + tile.image * view.image + channel * view.channel; i < tile.length; ++i, ++position) {
      if (position == shape.positions)
        break;
      visit(i, at[position * view.position]);
    }
}

// The tile's elements in a row: where they are, or copied into `buffer`; null for an absent tensor.
inline const float *read(const Shape &shape, const Input &view, const Tile &tile, float *buffer) {
  if (!view.data)
    return nullptr;
  if (is_flat(shape, view))
    return view.data + tile.image * view.image + tile.start;
  walk(shape, view, tile, [buffer](int i, const float &element) { buffer[i] = element; });
  return buffer;
}

struct Draw {
  GDUI_INLINE void operator()(const NoiseKey &key, std::int64_t start, float *out) const {
    standard_normal(key, start, out);
  }
};

// The tile's noise: the given one, or drawn into `buffer`, which holds kTile numbers.
inline const float *read_noise(const Shape &shape, const Noise &noise, std::uint32_t step, std::uint32_t stream,
                               const Tile &tile, float *buffer) {
  if (!noise.seeds)
    return read(shape, noise.given, tile, buffer);
  const NoiseKey key{static_cast<std::uint64_t>(noise.seeds[tile.image]), step, stream};
  run_vectorised(Draw{}, key, tile.start, buffer);
  return buffer;
}

// The table's row for an image.
inline const float *row_of(const Steps &steps, std::int64_t image) { return steps.table + steps.t[image] * kColumns; }

inline void require_steps(const Steps &steps, std::int64_t images) {
  for (std::int64_t i = 0; i < images; ++i)
    if (steps.t[i] < 0 || steps.t[i] >= steps.steps)
      throw std::invalid_argument("t must be in [0, " + std::to_string(steps.steps) + "), but holds " +
                                  std::to_string(steps.t[i]));
}

// A row to write the tile's elements to; `finish` brings them home.
class Written {
public:
  Written(const Shape &shape, const Output &view, const Tile &tile)
      : shape_(shape), view_(view), tile_(tile),
        row_(is_flat(shape, view) ? view.data + tile.image * view.image + tile.start : buffer_) {}
  float *row() { return row_; }
  void finish() {
    if (row_ == buffer_)
      walk(shape_, view_, tile_, [this](int i, float &element) { element = buffer_[i]; });
  }

private:
  const Shape &shape_;
  const Output &view_;
  const Tile &tile_;
  alignas(64) float buffer_[kTile];
  float *row_;
};

} // namespace gdui
