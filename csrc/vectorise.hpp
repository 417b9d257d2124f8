// Runs a task in the widest vectors this processor has. All a task calls must be GDUI_INLINE, or it stays narrow.
#pragma once

#include "processor.hpp"

namespace gdui {

#ifdef GDUI_X86
template <class Task, class... Args> GDUI_AVX2 void run_avx2(const Task &task, Args &&...args) { task(args...); }
template <class Task, class... Args> GDUI_AVX512 void run_avx512(const Task &task, Args &&...args) { task(args...); }
#endif

template <class Task, class... Args> void run_vectorised(const Task &task, Args &&...args) {
#ifdef GDUI_X86
  if (has_avx512())
    return run_avx512(task, args...);
  if (has_avx2())
    return run_avx2(task, args...);
#endif
  task(args...);
}

} // namespace gdui
