// Sixteen rows of scores turned, so that a vector holds one column of all of them: nothing is summed across a vector.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "floats.hpp"

namespace gdui {

constexpr std::int64_t kTurned = 16;   // rows side by side in a tile, one to a lane of a vector
constexpr std::int64_t kTurn = 128;    // columns turned while they are in the nearest cache
constexpr std::int64_t kSumBlock = 16; // numbers summed in float before the sum goes on in double

using Lanes = float[kTurned];
using Sums = double[kTurned];

// tile[c][l] = rows[l][c], and zero in lanes without a row.
GDUI_INLINE void turn(const float *rows, std::int64_t count, std::int64_t columns, float *tile) {
  if (count < kTurned)
    std::fill(tile, tile + columns * kTurned, 0.0f);
  for (std::int64_t first = 0; first < columns; first += kTurn)
    for (std::int64_t l = 0; l < count; ++l)
      for (std::int64_t c = first; c < std::min(first + kTurn, columns); ++c)
        tile[c * kTurned + l] = rows[l * columns + c];
}

// rows[l][c] = tile[c][l].
GDUI_INLINE void turn_back(const float *tile, std::int64_t count, std::int64_t columns, float *rows) {
  for (std::int64_t first = 0; first < columns; first += kTurn)
    for (std::int64_t l = 0; l < count; ++l)
      for (std::int64_t c = first; c < std::min(first + kTurn, columns); ++c)
        rows[l * columns + c] = tile[c * kTurned + l];
}

// out = exp(scale (in - shift)), and its sum over the columns; out may be in.
GDUI_INLINE void exponentials(const float *in, std::int64_t columns, const Lanes &shift, float scale, float *out,
                              Sums &sum) {
  Sums total = {};
  for (std::int64_t first = 0; first < columns; first += kSumBlock) {
    Lanes part = {};
    for (std::int64_t i = first * kTurned; i < std::min(first + kSumBlock, columns) * kTurned; i += kTurned)
      for (std::int64_t l = 0; l < kTurned; ++l) {
        const float value = exponential(scale * (in[i + l] - shift[l]));
        out[i + l] = value;
        part[l] += value;
      }
    for (std::int64_t l = 0; l < kTurned; ++l)
      total[l] += part[l];
  }
  std::memcpy(sum, total, sizeof total);
}

} // namespace gdui
