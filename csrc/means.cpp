#include "means.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel.hpp"
#include "similarity.hpp"

namespace gdui {
namespace {

constexpr std::int64_t kBlock = 1024;      // rows whose distances are summed together
constexpr std::int64_t kMeansAtOnce = 256; // compared with a new one by a thread in its turn
constexpr std::int64_t kClustersAtOnce = 16;
constexpr float kRounding = 2e-6F; // of cosines of rows whose lengths are 1 but for rounding, with room

// Half of the squared chord between two unit rows is 1 - cosine. By the triangle inequality a row keeps its mean where
// a new one lies at least twice as far from that mean as the row does:
//     1 - s(new, mean) >= 4 (1 - s(row, mean))
// A row of zeros, whose cosine with everything is 0, is a direction of its own in this.
float safe_from(float similarity_of_means) { return 0.75F + 0.25F * similarity_of_means + kRounding; }

class FirstMeans {
public:
  FirstMeans(const float *rows, std::int64_t n, std::int64_t width, std::int64_t k, int threads, Instructions most)
      : rows_(rows), n_(n), width_(width), threads_(threads), similarity_(gdui::similarity(most)),
        near_(n, std::numeric_limits<float>::lowest()), mean_(n, 0), taken_(n, false), sums_((n + kBlock - 1) / kBlock),
        safe_(k, std::numeric_limits<float>::infinity()), wide_(width) {
    for (std::int64_t block = 0; block < static_cast<std::int64_t>(sums_.size()); ++block)
      add_up(block);
  }

  // The first row up to which, itself included, more than this share of all distance lies; else the last.
  std::int64_t at(double share) const {
    double total = 0;
    for (const double sum : sums_)
      total += sum;
    const double wanted = share * total;
    double before = 0;
    std::size_t block = 0;
    for (; block < sums_.size() && before + sums_[block] <= wanted; ++block)
      before += sums_[block];
    for (std::int64_t row = static_cast<std::int64_t>(block) * kBlock; row < n_; ++row) {
      before += distance(row);
      if (before > wanted)
        return row;
    }
    return n_ - 1;
  }

  // Takes a row as the next mean, of which there are `count` already in `chosen`.
  void take(std::int64_t row, const std::int64_t *chosen, std::int64_t count) {
    std::copy_n(rows_ + row * width_, width_, wide_.begin());
    parallel_chunks(count, kMeansAtOnce, threads_, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        safe_[i] = safe_from(similarity_(wide_.data(), rows_ + chosen[i] * width_, width_));
    });
    taken_[row] = true;
    parallel_chunks(n_, kBlock, threads_, [&](std::int64_t begin, std::int64_t end) {
      const bool nearer = draw_near(begin, end, static_cast<std::int32_t>(count));
      if (nearer || (begin <= row && row < end))
        add_up(begin / kBlock);
    });
  }

private:
  // Whether any of these rows is nearer to the new mean than to its own.
  bool draw_near(std::int64_t begin, std::int64_t end, std::int32_t mean) {
    bool any = false;
    for (std::int64_t i = begin; i < end; ++i) {
      if (mean > 0 && near_[i] >= safe_[mean_[i]])
        continue;
      const float found = similarity_(wide_.data(), rows_ + i * width_, width_);
      if (found > near_[i]) {
        near_[i] = found;
        mean_[i] = mean;
        any = true;
      }
    }
    return any;
  }

  double distance(std::int64_t row) const {
    return taken_[row] ? 0 : 1 - static_cast<double>(std::min(std::max(near_[row], -1.0F), 1.0F));
  }

  void add_up(std::int64_t block) {
    double sum = 0;
    for (std::int64_t row = block * kBlock; row < std::min(n_, (block + 1) * kBlock); ++row)
      sum += distance(row);
    sums_[block] = sum;
  }

  const float *rows_;
  std::int64_t n_, width_;
  int threads_;
  Similarity similarity_;
  std::vector<float> near_; // each row's similarity to its mean
  std::vector<std::int32_t> mean_;
  std::vector<char> taken_;
  std::vector<double> sums_;
  std::vector<float> safe_; // for each mean: the rows that lie so near to it are no nearer to the new one
  std::vector<double> wide_;
};

} // namespace

void first_means(const float *rows, std::int64_t n, std::int64_t width, std::int64_t k, const double *draws,
                 int threads, Instructions most, std::int64_t *chosen) {
  FirstMeans means(rows, n, width, k, threads, most);
  for (std::int64_t i = 0; i < k; ++i) {
    chosen[i] = means.at(draws[i]);
    means.take(chosen[i], chosen, i);
  }
}

void cluster_sums(const float *rows, const std::int32_t *cluster, std::int64_t n, std::int64_t width, std::int64_t k,
                  int threads, double *sums) {
  std::vector<std::int64_t> start(k + 1, 0), order(n);
  for (std::int64_t i = 0; i < n; ++i) {
    if (cluster[i] < 0 || cluster[i] >= k)
      throw std::invalid_argument("cluster must hold numbers below " + std::to_string(k));
    ++start[cluster[i] + 1];
  }
  for (std::int64_t c = 0; c < k; ++c)
    start[c + 1] += start[c];
  std::vector<std::int64_t> next(start.begin(), start.end() - 1);
  for (std::int64_t i = 0; i < n; ++i)
    order[next[cluster[i]]++] = i;
  parallel_chunks(k, kClustersAtOnce, threads, [&](std::int64_t begin, std::int64_t end) {
    std::fill(sums + begin * width, sums + end * width, 0.0);
    for (std::int64_t c = begin; c < end; ++c)
      for (std::int64_t at = start[c]; at < start[c + 1]; ++at)
        for (std::int64_t t = 0; t < width; ++t)
          sums[c * width + t] += rows[order[at] * width + t];
  });
}

} // namespace gdui
