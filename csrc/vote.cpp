#include "vote.hpp"

#include "parallel.hpp"

#include <vector>

namespace gdui {

void consistency(const Matrix &neighbors, const Labels &cluster, double *share, int threads) {
  std::vector<std::int32_t> own(static_cast<std::size_t>(neighbors.rows));
  parallel_chunks(neighbors.rows, 1 << 16, threads, [&](std::int64_t begin, std::int64_t end) {
    const std::int32_t *from = cluster.read_block(begin, end, own.data() + begin);
    if (from != own.data() + begin)
      std::copy(from, from + (end - begin), own.begin() + begin);
  });
  parallel_chunks(neighbors.rows, 1 << 10, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::int32_t> buffer(static_cast<std::size_t>(neighbors.cols));
    for (std::int64_t i = begin; i < end; ++i) {
      const Labels row{"neighbors", neighbors.row(i), neighbors.rows};
      const std::int32_t *near = row.read_block(0, neighbors.cols, buffer.data());
      std::int64_t agreeing = 0;
      for (std::int64_t j = 0; j < neighbors.cols; ++j)
        agreeing += own[static_cast<std::size_t>(near[j])] == own[static_cast<std::size_t>(i)];
      share[i] = static_cast<double>(agreeing) / static_cast<double>(neighbors.cols);
    }
  });
}

} // namespace gdui
