// GDUI_MULTIVERSION before a function: compiled for plain x86-64, AVX2 and AVX-512, the best chosen when the library
// loads.
#pragma once

#include "processor.hpp"

#include <cstdint> // defines __GLIBC__ where that is the C library

// The choice is made by a resolver that runs before a sanitizer has started, so sanitized builds do without.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(GDUI_SANITIZED)
#define GDUI_MULTIVERSION __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define GDUI_MULTIVERSION
#endif
