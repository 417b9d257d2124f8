#include "philox.hpp"

#include "processor.hpp"

#ifdef GDUI_X86
#include <immintrin.h>
#endif

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
// Each word has 64 bits to itself: the product needs no shuffle, and what it leaves in the upper half is never read.
GDUI_AVX2 void philox_avx2(const NoiseKey &key, std::uint32_t first, RandomBits &bits) {
  constexpr int kLanes = 4, kTogether = 4;
  const __m256i left_factor = _mm256_set1_epi64x(kLeft), right_factor = _mm256_set1_epi64x(kRight);
  const __m256i lower_half = _mm256_set1_epi64x(0xFFFFFFFF), iota = _mm256_setr_epi64x(0, 1, 2, 3);
  for (int i = 0; i < kGroups; i += kLanes * kTogether) {
    __m256i a[kTogether], b[kTogether], c[kTogether], d[kTogether];
    for (int j = 0; j < kTogether; ++j) {
      a[j] = _mm256_add_epi64(iota, _mm256_set1_epi64x(first + static_cast<std::uint32_t>(i + j * kLanes)));
      b[j] = _mm256_set1_epi64x(key.step);
      c[j] = _mm256_set1_epi64x(key.stream);
      d[j] = _mm256_setzero_si256();
    }
    auto low = static_cast<std::uint32_t>(key.seed), high = static_cast<std::uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round, low += kLowStep, high += kHighStep) {
      const __m256i key_low = _mm256_set1_epi64x(low), key_high = _mm256_set1_epi64x(high);
      for (int j = 0; j < kTogether; ++j) {
        const __m256i left = _mm256_mul_epu32(a[j], left_factor), right = _mm256_mul_epu32(c[j], right_factor);
        a[j] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(right, 32), b[j]), key_low);
        b[j] = right;
        c[j] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(left, 32), d[j]), key_high);
        d[j] = left;
      }
    }
    for (int j = 0; j < kTogether; ++j) {
      const auto beside = [&](__m256i even, __m256i odd) __attribute__((target("avx2,fma"))) {
        return _mm256_or_si256(_mm256_and_si256(even, lower_half), _mm256_slli_epi64(odd, 32));
      };
      const int at = 2 * (i + j * kLanes);
      _mm256_store_si256(reinterpret_cast<__m256i *>(bits.lengths + at), beside(a[j], c[j]));
      _mm256_store_si256(reinterpret_cast<__m256i *>(bits.angles + at), beside(b[j], d[j]));
    }
  }
}
#endif

} // namespace

void philox(const NoiseKey &key, std::uint32_t first, RandomBits &bits) {
#ifdef GDUI_X86
  if (has_avx2())
    return philox_avx2(key, first, bits);
#endif
  philox_portable(key, first, bits);
}

} // namespace gdui
