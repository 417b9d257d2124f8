// A parallel-for that carries the first exception back to the caller.
#pragma once

#include <algorithm>
#include <cstdint>

namespace gdui {

using Task = void (*)(const void *body, std::int64_t chunk);

// Calls task(body, chunk) for every chunk in [0, chunks), by the caller and up to `helpers` threads of a pool that
// stays: one for the whole process, of at most a thread for each core, shared by all who call at once. The caller never
// waits for a helper that has not begun: where no core is free it does all of it itself.
void share(std::int64_t chunks, std::int64_t helpers, Task task, const void *body);

// Calls body(begin, end) for consecutive chunks of [0, n) on up to `threads` threads (the caller's own included).
// Chunks are fixed by n and `grain`. A caller that takes grain from the number of threads must merge what its chunks
// give by whole numbers or a strict order, so that the result doesn't depend on where they were cut.
template <class Body> void parallel_chunks(std::int64_t n, std::int64_t grain, int threads, const Body &body) {
  const std::int64_t chunks = (n + grain - 1) / grain;
  const auto one = [&](std::int64_t chunk) { body(chunk * grain, std::min(n, (chunk + 1) * grain)); };
  const auto task = [](const void *of, std::int64_t chunk) { (*static_cast<const decltype(one) *>(of))(chunk); };
  share(chunks, std::min<std::int64_t>(threads, chunks) - 1, task, &one);
}

} // namespace gdui
