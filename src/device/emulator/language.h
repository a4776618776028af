// CUDA C++ as far as kernels use it, for a CPU: include this before any header with
// kernels. See emulator.h.
#pragma once
#if defined(__CUDACC__)
#error "device/emulator/language.h is for plain C++"
#endif
#define WEFT_EMULATOR 1

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "device/emulator/emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)
// One copy for the CTA that runs; the scheduler changes the section's contents with the CTA.
#define __shared__ static __attribute__((section("weft_cta_shared")))

using std::isnan;
using std::max;
using std::min;

struct EmulatedIndex {
  unsigned x = 0, y = 0, z = 0;
};
inline thread_local EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

// Of what lies in memory, whatever its type.
struct [[gnu::may_alias]] alignas(8) uint2 {
  unsigned x, y;
};
struct [[gnu::may_alias]] alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct [[gnu::may_alias]] alignas(16) ulonglong2 {
  unsigned long long x, y;
};
struct [[gnu::may_alias]] alignas(16) int4 {
  int x, y, z, w;
};
struct [[gnu::may_alias]] alignas(16) float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

namespace weft::emulator {
// The values that lanes exchange.
template <class T>
u64 to_bits(T value) {
  if constexpr (sizeof(T) == 8)
    return std::bit_cast<u64>(value);
  else
    return std::bit_cast<u32>(value);
}
template <class T>
T of_bits(u64 bits) {
  if constexpr (sizeof(T) == 8)
    return std::bit_cast<T>(bits);
  else
    return std::bit_cast<T>(u32(bits));
}
inline unsigned lane() {
  return threadIdx.x % 32;
}
// All 32 lanes: nothing here uses fewer.
template <class Combine>
u32 reduce(const char* what, u32 value, Combine&& combine) {
  const u64* all = meet(what, value);
  u32 result = u32(all[0]);
  for (int l = 1; l < 32; ++l) result = combine(result, u32(all[l]));
  return result;
}
}  // namespace weft::emulator

inline void __syncthreads() {
  weft::emulator::sync_threads();
}
inline void __syncwarp() {
  weft::emulator::meet("__syncwarp", 0);
}
template <class T>
T __shfl_sync(unsigned, T value, int source) {
  return weft::emulator::of_bits<T>(weft::emulator::meet("__shfl", weft::emulator::to_bits(value))[source & 31]);
}
inline unsigned __match_any_sync(unsigned, int value) {
  const weft::u64* all = weft::emulator::meet("__match_any", weft::emulator::to_bits(value));
  unsigned alike = 0;
  for (int l = 0; l < 32; ++l) alike |= unsigned(weft::emulator::of_bits<int>(all[l]) == value) << l;
  return alike;
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned by) {
  const weft::u64* all = weft::emulator::meet("__shfl_up", weft::emulator::to_bits(value));
  const unsigned lane = weft::emulator::lane();
  return weft::emulator::of_bits<T>(all[lane < by ? lane : lane - by]);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int with) {
  const weft::u64* all = weft::emulator::meet("__shfl_xor", weft::emulator::to_bits(value));
  return weft::emulator::of_bits<T>(all[weft::emulator::lane() ^ unsigned(with)]);
}
inline unsigned __ballot_sync(unsigned, bool is) {
  const weft::u64* all = weft::emulator::meet("__ballot", is);
  unsigned bits = 0;
  for (int l = 0; l < 32; ++l) bits |= unsigned(all[l]) << l;
  return bits;
}
inline unsigned __reduce_or_sync(unsigned, unsigned value) {
  return weft::emulator::reduce("__reduce_or", value, [](unsigned a, unsigned b) { return a | b; });
}
inline int __reduce_max_sync(unsigned, int value) {
  return int(weft::emulator::reduce("__reduce_max", unsigned(value),
                                    [](unsigned a, unsigned b) { return unsigned(std::max(int(a), int(b))); }));
}
inline unsigned __reduce_max_sync(unsigned, unsigned value) {
  return weft::emulator::reduce("__reduce_max", value, [](unsigned a, unsigned b) { return std::max(a, b); });
}
inline unsigned __reduce_min_sync(unsigned, unsigned value) {
  return weft::emulator::reduce("__reduce_min", value, [](unsigned a, unsigned b) { return std::min(a, b); });
}
inline unsigned __reduce_add_sync(unsigned, unsigned value) {
  return weft::emulator::reduce("__reduce_add", value, [](unsigned a, unsigned b) { return a + b; });
}

// Past the caches.
template <class T>
T __ldcs(const T* from) {
  return *from;
}
inline int __popc(unsigned value) {
  return std::popcount(value);
}
inline int __ffs(int value) {
  return value == 0 ? 0 : std::countr_zero(unsigned(value)) + 1;
}
inline unsigned __float_as_uint(float value) {
  return std::bit_cast<unsigned>(value);
}
inline float __uint_as_float(unsigned bits) {
  return std::bit_cast<float>(bits);
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __expf(float a) {
  return std::exp(a);
}
inline float __frcp_rn(float a) {
  return 1 / a;
}
inline double __dadd_rn(double a, double b) {
  return a + b;
}
inline double __dmul_rn(double a, double b) {
  return a * b;
}
// Rounded down.
inline double __dadd_rd(double a, double b) {
  const double sum = a + b, taken = sum - a, lost = (a - (sum - taken)) + (b - taken);
  return lost < 0 ? std::nextafter(sum, -std::numeric_limits<double>::infinity()) : sum;
}
inline double __longlong_as_double(long long bits) {
  return std::bit_cast<double>(bits);
}

// Atomics of one GPU act at once.
template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}
template <class T>
T atomicOr(T* at, T value) {
  const T before = *at;
  *at = before | value;
  return before;
}
template <class T>
T atomicMax(T* at, T value) {
  const T before = *at;
  *at = std::max(before, value);
  return before;
}
template <class T>
T atomicExch(T* at, T value) {
  const T before = *at;
  *at = value;
  return before;
}
template <class T>
T atomicCAS(T* at, T expected, T value) {
  const T before = *at;
  if (before == expected) *at = value;
  return before;
}

inline void __threadfence_system() {
  weft::emulator::fence();
}
inline void __nanosleep(unsigned) {
  weft::emulator::pause();
}
[[noreturn]] inline void __trap() {
  weft::emulator::trap();
}
