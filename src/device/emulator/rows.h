// Of device/cuda/rows.cuh on the emulator what kernels use; what each means stands there.
#pragma once
#include <array>

#include "base/dtype.h"
#include "device/emulator/ptx.h"

namespace weft {

template <class T, int N>
using RawRun = std::array<T, size_t(N)>;
template <int N, class T>
RawRun<T, N> load_run(const T* from) {
  RawRun<T, N> run;
  for (int i = 0; i < N; ++i) run[size_t(i)] = from[i];
  return run;
}
template <int N, class T>
void to_floats(const std::array<T, size_t(N)>& run, float (&v)[N]) {
  for (int i = 0; i < N; ++i) v[i] = float(run[size_t(i)]);
}
template <int N, class T>
void store_floats(T* to, const float (&v)[N]) {
  for (int i = 0; i < N; ++i) to[i] = T(v[i]);
}

}  // namespace weft
