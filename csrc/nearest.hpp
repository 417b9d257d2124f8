// The exact k nearest rows by cosine: cheap products leave few candidates, and those are compared exactly.
#pragma once

#include <cstdint>

#include "processor.hpp"

namespace gdui {

// For each query the `k` rows of largest similarity (see similarity.hpp), ties by the lower number, into `indices` and
// `similarities` [n_queries, k]. All rows have unit length and padded width. Where `queries` is `rows` each looks among
// all, and `leave_self_out` says that it must not find itself. Nothing but time depends on `threads` and
// on `most`, the instructions it may use.
void nearest(const float *rows, std::int64_t n, const float *queries, std::int64_t n_queries, std::int64_t width,
             std::int64_t k, bool leave_self_out, int threads, Instructions most, std::int32_t *indices,
             float *similarities);

} // namespace gdui
