// The kinds of products that rough.hpp chooses from.
#pragma once

#include "rough.hpp"

#include <cmath>
#include <limits>

namespace gdui {

Product float_product(Instructions most);

#ifdef GDUI_X86
constexpr std::int64_t kWidestBytes = std::numeric_limits<std::int32_t>::max() / (255 * 127); // else sums overflow
Product byte_product();
#endif

#ifdef GDUI_AMX
Product tile_product();
#endif

// A float32 sum of `width` products is wrong by at most this share of |a'| |b'|, in whatever order it is taken.
inline float sum_error(std::int64_t width) { return static_cast<float>(width + 2) * 0x1p-24F * 1.01F; }

// From the squares of a' and of what its values leave over.
inline Code summary(double square, double rest_square, double scale) {
  // The next float above: a bound stays a bound when it is stored.
  const auto above = [](double x) {
    return std::nextafter(static_cast<float>(x), std::numeric_limits<float>::infinity());
  };
  Code code;
  code.scale = static_cast<float>(scale);
  code.error = above(std::sqrt(rest_square));
  code.norm = above(std::sqrt(square) + std::sqrt(rest_square));
  return code;
}

} // namespace gdui
