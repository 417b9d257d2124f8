// Counters that several threads may raise: small ones are private to a thread and summed, large ones shared and atomic.
#pragma once

#include <cstdint>
#include <vector>

namespace gdui {

// Count must hold as many raises as there may be in all.
template <class Count> class Tally {
public:
  Tally(std::int64_t cells, std::int64_t workers)
      : cells_(cells), shared_(workers > 1 && cells * workers > most_private),
        counts_(static_cast<std::size_t>(shared_ ? cells : cells * workers)) {}

  void raise(std::int64_t worker, std::int64_t cell) {
    if (shared_)
      __atomic_fetch_add(&counts_[static_cast<std::size_t>(cell)], Count{1}, __ATOMIC_RELAXED);
    else
      ++counts_[static_cast<std::size_t>(worker * cells_ + cell)];
  }

  std::int64_t total(std::int64_t cell) const {
    std::int64_t sum = 0;
    for (std::size_t i = static_cast<std::size_t>(cell); i < counts_.size(); i += static_cast<std::size_t>(cells_))
      sum += static_cast<std::int64_t>(counts_[i]);
    return sum;
  }

private:
  static constexpr std::int64_t most_private = 1 << 22;
  std::int64_t cells_;
  bool shared_;
  std::vector<Count> counts_;
};

// Calls use(zero) with a zero of the narrowest type that can count up to n.
template <class Use> auto with_counter(std::int64_t n, const Use &use) {
  return n >> 32 ? use(std::uint64_t{}) : use(std::uint32_t{});
}

} // namespace gdui
