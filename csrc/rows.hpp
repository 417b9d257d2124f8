// What a labeler makes of every image's vector, and of every image's scores, in one pass over them.
#pragma once

#include <cstdint>

#include "view.hpp"

namespace gdui {

// Which row of f16, f32 or f64 is the first that holds NaN or what no float holds, -1 where there is none.
std::int64_t first_not_finite(const Matrix &rows, int threads);

// Such rows less `center`, brought to length 1 (0 where nothing is left), into `unit` [rows, cols]; where `plain` is
// not null, the rows as they are go there, at length 1 too. Gives the first row whose length is not finite, or -1.
std::int64_t centred_rows(const Matrix &rows, const float *center, float *unit, float *plain, int threads);

// Of each row of scores: the columns of the largest and of the next, ties to the lower; the largest itself; which share
// of a softmax it has; and by how much it leads. With one column it is also the next, and leads by nothing.
struct Choices {
  std::int32_t *first, *second;
  float *most, *share, *lead;
};

// The softmax is that of scale times the scores [rows, columns]; where `softmax` is not null, all of it goes there,
// which may be where the scores are.
void choose(const float *scores, std::int64_t rows, std::int64_t columns, float scale, const Choices &out,
            float *softmax, int threads);

} // namespace gdui
