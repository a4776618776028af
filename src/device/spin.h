// spin_pause: the processor's hint that a thread polls.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weft {

inline void spin_pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

}  // namespace weft
