// The counter-based generator of normal numbers: kernels/philox.py in C++, written for vectors.
#pragma once

#include <cmath>
#include <cstdint>

#include "floats.hpp"
#include "philox.hpp"

namespace gdui {

constexpr int kTile = 4 * kGroups; // elements drawn together

// -ln((x + 1/2) / 2^32), by a polynomial on [sqrt(1/2), sqrt(2)).
GDUI_INLINE float negative_log(std::uint32_t x) {
  const float high = static_cast<float>(static_cast<std::int32_t>(x >> 16));
  const float low = static_cast<float>(static_cast<std::int32_t>(x & 0xFFFF));
  const float u = (high * 65536.0f + low) * 2.3283064365386963e-10f + 1.1641532182693481e-10f;
  const std::int32_t bits = bits_as<std::int32_t>(u) - 0x3F3504F3;
  const float exponent = static_cast<float>(bits >> 23);
  const float m = bits_as<float>((bits & 0x7FFFFF) + 0x3F3504F3) - 1.0f;
  float p = 0.070376836292f * m - 0.1151461031f;
  p = p * m + 0.11676998740f;
  p = p * m - 0.12420140846f;
  p = p * m + 0.14249322787f;
  p = p * m - 0.16668057665f;
  p = p * m + 0.20000714765f;
  p = p * m - 0.24999993993f;
  p = p * m + 0.33333331174f;
  const float square = m * m;
  return -(exponent * 0.6931471805599453f + (m - 0.5f * square + p * m * square));
}

// Of 2 pi x / 2^32: the nearest quarter turn, and polynomials for the rest.
GDUI_INLINE void cosine_and_sine(std::uint32_t x, float &cosine, float &sine) {
  const auto angle = static_cast<std::int32_t>(x);
  const std::uint32_t quarter = (x >> 30) + (x >> 29 & 1);
  const std::int32_t rest_bits = static_cast<std::int32_t>(static_cast<std::uint32_t>(angle) << 2) >> 2;
  const float rest = static_cast<float>(rest_bits) * 1.4629180792671596e-9f;
  const float square = rest * rest;
  float c = (2.443315711809948e-5f * square - 1.388731625493765e-3f) * square + 4.166664568298827e-2f;
  c = (c * square - 0.5f) * square + 1.0f;
  const float s = ((-1.9515295891e-4f * square + 8.3321608736e-3f) * square - 1.6666654611e-1f) * square * rest + rest;
  const bool odd = quarter & 1;
  const auto cosine_bits = bits_as<std::uint32_t>(odd ? s : c), sine_bits = bits_as<std::uint32_t>(odd ? c : s);
  cosine = bits_as<float>(cosine_bits ^ ((quarter + 1) >> 1 << 31));
  sine = bits_as<float>(sine_bits ^ (quarter >> 1 << 31));
}

// Elements `start` to `start + kTile` of an image's noise; `start` is a multiple of four.
GDUI_INLINE void standard_normal(const NoiseKey &key, std::int64_t start, float *out) {
  RandomBits bits;
  philox(key, static_cast<std::uint32_t>(start / 4), bits);
  for (int i = 0; i < kTile / 2; ++i) {
    float cosine, sine;
    cosine_and_sine(bits.angles[i], cosine, sine);
    const float length = std::sqrt(2.0f * negative_log(bits.lengths[i]));
    out[2 * i] = length * cosine;
    out[2 * i + 1] = length * sine;
  }
}

} // namespace gdui
