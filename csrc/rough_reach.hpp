// Which of a row's products with a panel may reach its threshold, for processors with AVX-512.
#pragma once

#include "rough_products.hpp"

#ifdef GDUI_X86

#include <cstring>
#include <immintrin.h>

namespace gdui {

using Sixteen = float __attribute__((vector_size(64)));

// The part of a bound that is the same for a whole panel.
struct Bar {
  float scale, offset, least; // scale * (product * panel.scale) + along must reach `least` for any hope
};

GDUI_AVX512 GDUI_INLINE Bar bar(const Query &query, const Panel &panel) {
  const float offset = query.offset[panel.centre] + kSlack;
  const float doubt = query.code.error * panel.most_norm + query.code.norm * panel.most_error;
  return {query.code.scale, offset, query.threshold - offset - doubt};
}

GDUI_AVX512 GDUI_INLINE Sixteen load(const float *x) {
  Sixteen out;
  std::memcpy(&out, x, sizeof out);
  return out;
}

GDUI_AVX512 GDUI_INLINE std::uint64_t at_least(Sixteen x, float least) {
  return _mm512_cmp_ps_mask(x, _mm512_set1_ps(least), _CMP_GE_OQ);
}

GDUI_AVX512 GDUI_INLINE Sixteen similar(Sixteen products, const Bar &bar, const Panel &panel, const float *along,
                                        int first) {
  return products * load(panel.scale + first) * bar.scale + load(along + first);
}

GDUI_AVX512 GDUI_INLINE std::uint64_t reached(Sixteen similar, const Query &query, const Bar &bar, const Panel &panel,
                                              int first, float *upper) {
  const Sixteen bound =
      similar + bar.offset + query.code.error * load(panel.norm + first) + query.code.norm * load(panel.error + first);
  std::memcpy(upper + first, &bound, sizeof bound);
  return at_least(bound, query.threshold) << first;
}

// From the products with columns 0, 16, 32 and 48 and those after each. The bounds themselves are worked out only where
// the panel's largest errors leave hope.
GDUI_AVX512 GDUI_INLINE std::uint64_t reached(Sixteen first, Sixteen second, Sixteen third, Sixteen fourth,
                                              const Query &query, const Panel &panel, std::int64_t at, float *upper) {
  const Bar least = bar(query, panel);
  const float *along = query.along_centre + at * kPanel;
  const Sixteen a = similar(first, least, panel, along, 0), b = similar(second, least, panel, along, 16);
  const Sixteen c = similar(third, least, panel, along, 32), d = similar(fourth, least, panel, along, 48);
  const Sixteen left = a > b ? a : b, right = c > d ? c : d;
  if (at_least(left > right ? left : right, least.least) == 0)
    return 0;
  return reached(a, query, least, panel, 0, upper) | reached(b, query, least, panel, 16, upper) |
         reached(c, query, least, panel, 32, upper) | reached(d, query, least, panel, 48, upper);
}

} // namespace gdui

#endif
