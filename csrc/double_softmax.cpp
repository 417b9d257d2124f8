#include "double_softmax.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.hpp"
#include "turned.hpp"
#include "vectorise.hpp"

namespace gdui {
namespace {

constexpr std::int64_t kRowsAtOnce = 256; // a thread's turn: whole tiles

// Up to kTurned rows' p = softmax(z), e = exp(p) and the sum of e, cluster by cluster; lanes without a row hold zeros'
// results.
class Tile {
public:
  explicit Tile(std::int64_t clusters) : clusters_(clusters), p_(clusters * kTurned), e_(clusters * kTurned) {}
  float *p(std::int64_t cluster) { return p_.data() + cluster * kTurned; }
  float *e(std::int64_t cluster) { return e_.data() + cluster * kTurned; }

  GDUI_INLINE void read(const float *logits, std::int64_t rows, Sums &total) {
    turn(logits, rows, clusters_, p_.data());
    Lanes most, share;
    largest(most);
    exponentials(p_.data(), clusters_, most, 1, p_.data(), total);
    for (std::int64_t l = 0; l < kTurned; ++l)
      share[l] = static_cast<float>(1 / total[l]);
    for (std::int64_t c = 0; c < clusters_; ++c)
      for (std::int64_t l = 0; l < kTurned; ++l)
        p(c)[l] *= share[l];
    exponentials(p_.data(), clusters_, Lanes{}, 1, e_.data(), total);
  }

  GDUI_INLINE void write(std::int64_t rows, float *out) { turn_back(p_.data(), rows, clusters_, out); }

private:
  GDUI_INLINE void largest(Lanes &most) {
    std::memcpy(most, p(0), sizeof most);
    for (std::int64_t c = 1; c < clusters_; ++c)
      for (std::int64_t l = 0; l < kTurned; ++l)
        most[l] = p(c)[l] > most[l] ? p(c)[l] : most[l];
  }

  std::int64_t clusters_;
  std::vector<float> p_, e_;
};

struct Loss {
  const float *logits;
  const std::int64_t *targets;
  std::int64_t clusters;
  float *losses;

  GDUI_INLINE void operator()(Tile &tile, std::int64_t first, std::int64_t rows) const {
    Sums total;
    tile.read(logits + first * clusters, rows, total);
    for (std::int64_t l = 0; l < rows; ++l) {
      const std::int64_t target = targets[first + l];
      losses[first + l] = target < 0 ? 0 : static_cast<float>(std::log(total[l]) - tile.p(target)[l]);
    }
  }
};

struct Gradient {
  const float *logits;
  const std::int64_t *targets;
  const float *dlosses;
  std::int64_t clusters;
  float *dlogits;

  // dz = dloss p (g - sum p g) with g = e / sum e - onehot(target)
  GDUI_INLINE void operator()(Tile &tile, std::int64_t first, std::int64_t rows) const {
    Lanes share, slope = {}, chosen = {}, mean;
    Sums total, product = {};
    tile.read(logits + first * clusters, rows, total);
    for (std::int64_t l = 0; l < rows; ++l) {
      const std::int64_t target = targets[first + l];
      slope[l] = target < 0 ? 0 : dlosses[first + l];
      chosen[l] = target < 0 ? 0 : tile.p(target)[l];
    }
    for (std::int64_t first = 0; first < clusters; first += kSumBlock) {
      Lanes part = {};
      for (std::int64_t c = first; c < std::min(first + kSumBlock, clusters); ++c)
        for (std::int64_t l = 0; l < kTurned; ++l)
          part[l] += tile.p(c)[l] * tile.e(c)[l];
      for (std::int64_t l = 0; l < kTurned; ++l)
        product[l] += part[l];
    }
    for (std::int64_t l = 0; l < kTurned; ++l) {
      share[l] = static_cast<float>(1 / total[l]);
      mean[l] = static_cast<float>(product[l] / total[l] - chosen[l]);
    }
    for (std::int64_t c = 0; c < clusters; ++c)
      for (std::int64_t l = 0; l < kTurned; ++l)
        tile.p(c)[l] *= slope[l] * (tile.e(c)[l] * share[l] - mean[l]);
    for (std::int64_t l = 0; l < rows; ++l)
      if (targets[first + l] >= 0)
        tile.p(targets[first + l])[l] -= slope[l] * chosen[l];
    tile.write(rows, dlogits + first * clusters);
  }
};

template <class Task> struct Rows {
  const Task &task;

  GDUI_INLINE void operator()(std::int64_t begin, std::int64_t end) const {
    Tile tile(task.clusters);
    for (std::int64_t first = begin; first < end; first += kTurned)
      task(tile, first, std::min(kTurned, end - first));
  }
};

template <class Task> void run(const Task &task, std::int64_t rows, int threads) {
  parallel_chunks(rows, kRowsAtOnce, threads,
                  [&](std::int64_t begin, std::int64_t end) { run_vectorised(Rows<Task>{task}, begin, end); });
}

} // namespace

void double_softmax_loss(const float *logits, const std::int64_t *targets, std::int64_t rows, std::int64_t clusters,
                         float *losses, int threads) {
  run(Loss{logits, targets, clusters, losses}, rows, threads);
}

void double_softmax_loss_backward(const float *logits, const std::int64_t *targets, const float *dlosses,
                                  std::int64_t rows, std::int64_t clusters, float *dlogits, int threads) {
  run(Gradient{logits, targets, dlosses, clusters, dlogits}, rows, threads);
}

} // namespace gdui
