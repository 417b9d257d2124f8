#include "philox.hpp"

#include <cstring>

#include "processor.hpp"

namespace gdui {
namespace {

constexpr std::uint32_t kLeft = 0xD2511F53, kRight = 0xCD9E8D57, kLowStep = 0x9E3779B9, kHighStep = 0xBB67AE85;

void philox_portable(const NoiseKey &key, std::uint32_t first, RandomBits &bits) {
  for (int i = 0; i < kGroups; ++i) {
    std::uint32_t a = first + static_cast<std::uint32_t>(i), b = key.step, c = key.stream, d = 0;
    auto low = static_cast<std::uint32_t>(key.seed), high = static_cast<std::uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round, low += kLowStep, high += kHighStep) {
      const std::uint64_t left = std::uint64_t{kLeft} * a, right = std::uint64_t{kRight} * c;
      a = static_cast<std::uint32_t>(right >> 32) ^ b ^ low;
      b = static_cast<std::uint32_t>(right);
      c = static_cast<std::uint32_t>(left >> 32) ^ d ^ high;
      d = static_cast<std::uint32_t>(left);
    }
    bits.lengths[2 * i] = a, bits.angles[2 * i] = b, bits.lengths[2 * i + 1] = c, bits.angles[2 * i + 1] = d;
  }
}

#ifdef GDUI_X86
typedef std::uint64_t Four __attribute__((vector_size(32)));
typedef std::uint64_t Eight __attribute__((vector_size(64)));

// Each word has 64 bits to itself: the product needs no shuffle, and what it leaves in the upper half is never read.
template <class Vector> GDUI_INLINE void philox_lanes(const NoiseKey &key, std::uint32_t first, RandomBits &bits) {
  constexpr int kLanes = sizeof(Vector) / sizeof(std::uint64_t);
  constexpr int kTogether = 2; // independent chains hide the product's latency
  Vector iota{};
  for (int i = 0; i < kLanes; ++i)
    iota[i] = static_cast<std::uint64_t>(i);
  const Vector none{}, left_factor = none + kLeft, right_factor = none + kRight, lower_half = none + 0xFFFFFFFFu;
  for (int i = 0; i < kGroups; i += kLanes * kTogether) {
    Vector a[kTogether], b[kTogether], c[kTogether], d[kTogether];
    for (int j = 0; j < kTogether; ++j) {
      a[j] = iota + std::uint64_t{first + static_cast<std::uint32_t>(i + j * kLanes)};
      b[j] = none + std::uint64_t{key.step};
      c[j] = none + std::uint64_t{key.stream};
      d[j] = none;
    }
    auto low = static_cast<std::uint32_t>(key.seed), high = static_cast<std::uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round, low += kLowStep, high += kHighStep) {
      for (int j = 0; j < kTogether; ++j) {
        Vector left, right;
        asm("vpmuludq %2, %1, %0" : "=v"(left) : "v"(a[j]), "v"(left_factor));
        asm("vpmuludq %2, %1, %0" : "=v"(right) : "v"(c[j]), "v"(right_factor));
        a[j] = (right >> 32) ^ b[j] ^ std::uint64_t{low};
        b[j] = right;
        c[j] = (left >> 32) ^ d[j] ^ std::uint64_t{high};
        d[j] = left;
      }
    }
    for (int j = 0; j < kTogether; ++j) {
      const Vector lengths = (a[j] & lower_half) | (c[j] << 32), angles = (b[j] & lower_half) | (d[j] << 32);
      std::memcpy(bits.lengths + 2 * (i + j * kLanes), &lengths, sizeof lengths);
      std::memcpy(bits.angles + 2 * (i + j * kLanes), &angles, sizeof angles);
    }
  }
}

GDUI_AVX2 void philox_avx2(const NoiseKey &key, std::uint32_t first, RandomBits &bits) {
  philox_lanes<Four>(key, first, bits);
}

GDUI_AVX512 void philox_avx512(const NoiseKey &key, std::uint32_t first, RandomBits &bits) {
  philox_lanes<Eight>(key, first, bits);
}
#endif

} // namespace

void philox(const NoiseKey &key, std::uint32_t first, RandomBits &bits) {
#ifdef GDUI_X86
  if (has_avx512())
    return philox_avx512(key, first, bits);
  if (has_avx2())
    return philox_avx2(key, first, bits);
#endif
  philox_portable(key, first, bits);
}

} // namespace gdui
