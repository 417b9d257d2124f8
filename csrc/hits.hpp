// A row that was found, with how near it is; and the one order in which neighbours are given.
#pragma once

#include <cstdint>

namespace gdui {

struct Hit {
  std::int32_t index;
  float similarity;
};

inline bool nearer(const Hit &a, const Hit &b) {
  return a.similarity > b.similarity || (a.similarity == b.similarity && a.index < b.index);
}

inline void write(const Hit *hits, std::int64_t k, std::int32_t *indices, float *similarities) {
  for (std::int64_t j = 0; j < k; ++j) {
    indices[j] = hits[j].index;
    similarities[j] = hits[j].similarity;
  }
}

} // namespace gdui
