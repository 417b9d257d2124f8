// What a Gale-Shapley in C++ does before anything else: each row's columns, best first. The yardstick of bench_match.
#include <algorithm>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

extern "C" void order_of_rows(const float *table, std::int64_t rows, std::int64_t cols, int threads,
                              std::int32_t *order) {
  const auto sort_from = [=](std::int64_t first) {
    std::vector<std::pair<float, std::int32_t>> row(static_cast<std::size_t>(cols));
    for (std::int64_t k = first; k < rows; k += threads) {
      for (std::int64_t c = 0; c < cols; ++c)
        row[static_cast<std::size_t>(c)] = {-table[k * cols + c], static_cast<std::int32_t>(c)};
      std::sort(row.begin(), row.end());
      std::transform(row.begin(), row.end(), order + k * cols, [](const auto &entry) { return entry.second; });
    }
  };
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads; ++t)
    helpers.emplace_back(sort_from, t);
  sort_from(0);
  for (auto &helper : helpers)
    helper.join();
}
