// What this processor can do beyond its architecture's baseline, asked at run time. There are three ways to use it:
// - a function for each set where the instructions differ: rough_*.cpp, similarity.cpp;
// - run_vectorised (vectorise.hpp) where one text, templates too, serves all sets;
// - GDUI_MULTIVERSION (multiversion.hpp) for the short scans of matching and selection, which the loader chooses once:
//   asked at each call, and with what it calls no longer inlined, such a scan takes a tenth longer.
#pragma once

#define GDUI_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#define GDUI_X86
#define GDUI_AVX2 __attribute__((target("avx2,fma")))
#define GDUI_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vnni")))

// Products of whole tiles, which Linux grants to a process that asks.
#if defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define GDUI_AMX __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vnni,amx-tile,amx-bf16")))
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace gdui {

// Each holds all that stand before it.
enum class Instructions { portable, avx2, avx512, amx };

#ifdef GDUI_X86

inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vnni");
}

inline bool has_amx() {
#ifdef GDUI_AMX
  constexpr long ask = 0x1023, tile_data = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return has_avx512() && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
         syscall(SYS_arch_prctl, ask, tile_data) == 0;
#else
  return false;
#endif
}

#endif

// The most this processor and its system have.
inline Instructions instructions() {
#ifdef GDUI_X86
  static const Instructions most = has_amx()      ? Instructions::amx
                                   : has_avx512() ? Instructions::avx512
                                   : has_avx2()   ? Instructions::avx2
                                                  : Instructions::portable;
  return most;
#else
  return Instructions::portable;
#endif
}

} // namespace gdui
