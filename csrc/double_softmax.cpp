#include "double_softmax.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "floats.hpp"
#include "parallel.hpp"
#include "vectorise.hpp"

namespace gdui {
namespace {

constexpr std::int64_t kLanes = 16;       // rows side by side in a tile, one to a lane of a vector
constexpr std::int64_t kTurn = 128;       // clusters turned from rows to lanes while they are in the nearest cache
constexpr std::int64_t kBlock = 16;       // numbers summed in float before the sum goes on in double
constexpr std::int64_t kRowsAtOnce = 256; // a thread's turn: whole tiles

using Lanes = float[kLanes];
using Sums = double[kLanes];

// Up to kLanes rows' p = softmax(z), e = exp(p) and the sum of e, cluster by cluster; lanes without a row hold zeros'
// results.
class Tile {
public:
  explicit Tile(std::int64_t clusters) : clusters_(clusters), p_(clusters * kLanes), e_(clusters * kLanes) {}
  float *p(std::int64_t cluster) { return p_.data() + cluster * kLanes; }
  float *e(std::int64_t cluster) { return e_.data() + cluster * kLanes; }

  GDUI_INLINE void read(const float *logits, std::int64_t rows, Sums &total) {
    std::fill(p_.begin(), p_.end(), 0.0f);
    for (std::int64_t first = 0; first < clusters_; first += kTurn)
      for (std::int64_t l = 0; l < rows; ++l)
        for (std::int64_t c = first; c < std::min(first + kTurn, clusters_); ++c)
          p(c)[l] = logits[l * clusters_ + c];
    Lanes most, share;
    largest(most);
    exponentials(p_.data(), most, p_.data(), total);
    for (std::int64_t l = 0; l < kLanes; ++l)
      share[l] = static_cast<float>(1 / total[l]);
    for (std::int64_t c = 0; c < clusters_; ++c)
      for (std::int64_t l = 0; l < kLanes; ++l)
        p(c)[l] *= share[l];
    exponentials(p_.data(), Lanes{}, e_.data(), total);
  }

  GDUI_INLINE void write(std::int64_t rows, float *out) {
    for (std::int64_t first = 0; first < clusters_; first += kTurn)
      for (std::int64_t l = 0; l < rows; ++l)
        for (std::int64_t c = first; c < std::min(first + kTurn, clusters_); ++c)
          out[l * clusters_ + c] = p(c)[l];
  }

private:
  GDUI_INLINE void largest(Lanes &most) {
    std::memcpy(most, p(0), sizeof most);
    for (std::int64_t c = 1; c < clusters_; ++c)
      for (std::int64_t l = 0; l < kLanes; ++l)
        most[l] = p(c)[l] > most[l] ? p(c)[l] : most[l];
  }

  // out = exp(in - shift), and its sum over the clusters.
  GDUI_INLINE void exponentials(const float *in, const Lanes &shift, float *out, Sums &sum) const {
    Sums total = {};
    for (std::int64_t first = 0; first < clusters_; first += kBlock) {
      Lanes part = {};
      for (std::int64_t i = first * kLanes; i < std::min(first + kBlock, clusters_) * kLanes; i += kLanes)
        for (std::int64_t l = 0; l < kLanes; ++l) {
          const float value = exponential(in[i + l] - shift[l]);
          out[i + l] = value;
          part[l] += value;
        }
      for (std::int64_t l = 0; l < kLanes; ++l)
        total[l] += part[l];
    }
    std::memcpy(sum, total, sizeof total);
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
    for (std::int64_t first = 0; first < clusters; first += kBlock) {
      Lanes part = {};
      for (std::int64_t c = first; c < std::min(first + kBlock, clusters); ++c)
        for (std::int64_t l = 0; l < kLanes; ++l)
          part[l] += tile.p(c)[l] * tile.e(c)[l];
      for (std::int64_t l = 0; l < kLanes; ++l)
        product[l] += part[l];
    }
    for (std::int64_t l = 0; l < kLanes; ++l) {
      share[l] = static_cast<float>(1 / total[l]);
      mean[l] = static_cast<float>(product[l] / total[l] - chosen[l]);
    }
    for (std::int64_t c = 0; c < clusters; ++c)
      for (std::int64_t l = 0; l < kLanes; ++l)
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
    for (std::int64_t first = begin; first < end; first += kLanes)
      task(tile, first, std::min(kLanes, end - first));
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
