// What the fused GEMMs multiply and send: bf16 or f16.
#pragma once
#include <type_traits>

#include "base/dtype.h"
#include "base/status.h"

namespace weft {

inline Status expect_fused_element(const char* op, DType dtype) {
  if (dtype == DType::kBF16 || dtype == DType::kF16) return {};
  return error(Code::kInvalidArgument, "{}: dtype: expected bf16 or f16, found {}", op, dtype_name(dtype));
}

// Calls f(bf16{}) or f(f16{}).
template <class F>
auto with_fused_element(DType dtype, F&& f) {
  return dtype == DType::kF16 ? f(f16{}) : f(bf16{});
}

// Adds the two of a pair.
template <class T>
__device__ __forceinline__ void add_pair(float& low, float& high, u32 pair) {
  if constexpr (std::is_same_v<T, bf16>) {
    low += __uint_as_float(pair << 16);
    high += __uint_as_float(pair & 0xffff0000u);
  } else {
    static_assert(std::is_same_v<T, f16>);
    float first, second;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}"
        : "=f"(first), "=f"(second)
        : "r"(pair));
    low += first;
    high += second;
  }
}

}  // namespace weft
