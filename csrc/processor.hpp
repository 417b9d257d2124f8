// What this processor can do beyond its architecture's baseline, asked at run time.
#pragma once

#define GDUI_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#define GDUI_X86
#define GDUI_AVX2 __attribute__((target("avx2,fma")))
#define GDUI_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vnni")))

namespace gdui {

inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vnni");
}

} // namespace gdui
#endif
