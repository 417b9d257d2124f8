// Products of vectors at length 1 with a few columns: all that a labeler of few classes asks of an image's vector.
#pragma once

#include <cstdint>
#include <vector>

#include "view.hpp"

namespace gdui {

// What vectors are multiplied by [count, cols], and where the products go [rows, count].
struct Columns {
  const float *columns;
  std::int64_t count;
  float *products;
};

// Rows of f16, f32 or f64 at length 1: less the center times the columns of `centred`, as they are times those of
// `plain`; where nothing is left to bring to length 1, the products are 0. Each row is read once. Gives the first row
// whose length is not finite, or -1. The products of a row depend on no other.
std::int64_t project(const Matrix &rows, const float *center, const std::vector<Columns> &centred,
                     const std::vector<Columns> &plain, int threads);

} // namespace gdui
