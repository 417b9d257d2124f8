// Philox4x32-10 (Salmon et al. 2011): random bits that are a function of a key and a counter.
#pragma once

#include <cstdint>

namespace gdui {

// Which noise: the same numbers give the same noise on every device, whatever the memory's layout or the batch.
struct NoiseKey {
  std::uint64_t seed;
  std::uint32_t step, stream;
};

constexpr int kGroups = 256; // counters drawn together, each of four words

// A counter's first and third word stand side by side in `lengths`, its second and fourth in `angles`.
struct RandomBits {
  alignas(64) std::uint32_t lengths[2 * kGroups], angles[2 * kGroups];
};

// The words of the counters (first + i, step, stream, 0) for all i below kGroups.
void philox(const NoiseKey &key, std::uint32_t first, RandomBits &bits);

} // namespace gdui
