// A parallel-for that carries the first exception back to the caller.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace gdui {

// Calls body(begin, end) for consecutive chunks of [0, n) on up to `threads` threads (the caller's own included).
// Chunks are fixed by n and `grain`. A caller that takes grain from the number of threads must merge what its chunks
// give by whole numbers or a strict order, so that the result doesn't depend on where they were cut.
template <class Body> void parallel_chunks(std::int64_t n, std::int64_t grain, int threads, const Body &body) {
  const std::int64_t chunks = (n + grain - 1) / grain;
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex guard;
  auto work = [&] {
    for (std::int64_t chunk = next++; chunk < chunks; chunk = next++) {
      try {
        body(chunk * grain, std::min(n, (chunk + 1) * grain));
      } catch (...) {
        std::lock_guard<std::mutex> lock(guard);
        if (!failure)
          failure = std::current_exception();
        next = chunks;
      }
    }
  };
  const std::int64_t helpers = std::min<std::int64_t>(threads, chunks) - 1;
  std::vector<std::thread> pool;
  for (std::int64_t i = 0; i < helpers; ++i) {
    try {
      pool.emplace_back(work);
    } catch (const std::system_error &) {
      break; // no more threads to be had: those we have do the work
    }
  }
  work();
  for (auto &thread : pool)
    thread.join();
  if (failure)
    std::rethrow_exception(failure);
}

} // namespace gdui
