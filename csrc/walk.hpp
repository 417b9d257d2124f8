// A step of a walk on a weighted graph, for many columns of numbers at once.
#pragma once

#include <cstdint>

namespace gdui {

// A sparse matrix [rows, rows]: the entries of row i are those from start[i] to start[i + 1].
struct Graph {
  const std::int64_t *start;
  const std::int32_t *column;
  const float *weight;
  std::int64_t rows;
};

// to = move × (graph @ from) + keep × own, all [rows, columns] and dense. Each sum has the order of its row's entries.
void walk(const Graph &graph, const float *from, const float *own, float move, float keep, std::int64_t columns,
          int threads, float *to);

} // namespace gdui
