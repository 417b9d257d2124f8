// bfloat16, and functions of floats written so that compilers turn loops over them into vectors.
#pragma once

#include <cstdint>
#include <cstring>

#include "processor.hpp"

namespace gdui {

// The upper half of a float.
struct BFloat16 {
  std::uint16_t bits;
};

template <class To, class From> GDUI_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "as many bits");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

GDUI_INLINE float to_float(float value) { return value; }
GDUI_INLINE float to_float(BFloat16 value) { return bits_as<float>(static_cast<std::uint32_t>(value.bits) << 16); }

GDUI_INLINE void store(float value, float &out) { out = value; }

// Rounds to nearest, ties to even; a NaN stays one.
GDUI_INLINE void store(float value, BFloat16 &out) {
  const auto bits = bits_as<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  out.bits = static_cast<std::uint16_t>(value == value ? rounded : 0x7FC0);
}

// e^x to about one unit in the last place, for x held within [-87, 88]: a power of two by its bits, the rest by a
// series.
GDUI_INLINE float exponential(float x) {
  constexpr float kRound = 12582912.0f; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; // ln 2 in two parts, the first exact in few bits
  float series = 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  return series * bits_as<float>((bits_as<std::uint32_t>(shifted) + 127) << 23);
}

GDUI_INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

} // namespace gdui
