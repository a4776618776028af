// What kernels that work row by row share: eight elements at a time, a sum over the CTA, what they are launched with,
// and the checks of their tensors.
#pragma once
#include <iterator>
#include <type_traits>

#include "base/dtype.h"
#include "base/tensor.h"

namespace weft {

// ---- device side ----

// N = 8 elements as they lie in memory, in 16-byte words (16-byte aligned there), or N = 1. Loading waits for nothing:
// a kernel starts all loads that it needs before it takes any of them apart.
template <class T, int N>
struct RawRun {
  static_assert(N == 1 || N == 8);
  using Word = std::conditional_t<N == 1, T, uint4>;
  Word words[N == 1 ? 1 : sizeof(T) / 2];
};

template <int N, class T>
__device__ __forceinline__ RawRun<T, N> load_run(const T* from) {
  RawRun<T, N> run;
#pragma unroll
  for (size_t i = 0; i < std::size(run.words); ++i)
    run.words[i] = reinterpret_cast<const typename RawRun<T, N>::Word*>(from)[i];
  return run;
}
template <int N, class T>
__device__ __forceinline__ void store_run(T* to, const RawRun<T, N>& run) {
#pragma unroll
  for (size_t i = 0; i < std::size(run.words); ++i)
    reinterpret_cast<typename RawRun<T, N>::Word*>(to)[i] = run.words[i];
}

template <int N, class T>
__device__ __forceinline__ void to_floats(const RawRun<T, N>& run, float (&v)[N]) {
  if constexpr (N == 1) {
    v[0] = float(run.words[0]);
  } else {
#pragma unroll
    for (int i = 0; i < int(std::size(run.words)); ++i) {
      const u32 parts[4] = {run.words[i].x, run.words[i].y, run.words[i].z, run.words[i].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if constexpr (sizeof(T) == 4) {
          v[4 * i + j] = std::bit_cast<float>(parts[j]);
        } else {
          v[2 * j] = float(std::bit_cast<T>(u16(parts[j])));
          v[2 * j + 1] = float(std::bit_cast<T>(u16(parts[j] >> 16)));
        }
      }
    }
  }
}
// Rounded to nearest even.
template <class T, int N>
__device__ __forceinline__ RawRun<T, N> to_run(const float (&v)[N]) {
  RawRun<T, N> run;
  if constexpr (N == 1) {
    run.words[0] = T(v[0]);
  } else {
#pragma unroll
    for (int i = 0; i < int(std::size(run.words)); ++i) {
      u32 parts[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if constexpr (sizeof(T) == 4)
          parts[j] = std::bit_cast<u32>(v[4 * i + j]);
        else
          parts[j] = T(v[2 * j]).bits | u32(T(v[2 * j + 1]).bits) << 16;
      }
      run.words[i] = make_uint4(parts[0], parts[1], parts[2], parts[3]);
    }
  }
  return run;
}

// A run at `from` as floats, and floats as a run at `to`.
template <int N, class T>
__device__ __forceinline__ void load_floats(const T* from, float (&v)[N]) {
  to_floats(load_run<N>(from), v);
}
template <int N, class T>
__device__ __forceinline__ void store_floats(T* to, const float (&v)[N]) {
  store_run(to, to_run<T>(v));
}

// The sum over `Lanes` neighbouring lanes, a power of two, on each of them; all 32 lanes of the warp call it.
template <int Lanes>
__device__ __forceinline__ float lanes_sum(float v) {
#pragma unroll
  for (int apart = Lanes / 2; apart > 0; apart /= 2) v += __shfl_xor_sync(~0u, v, apart);
  return v;
}

// The sum over the CTA (whole warps) on every thread, in an order that its size alone decides. One barrier: calls in a
// row use different halves of `scratch`.
__device__ __forceinline__ float block_sum(float v, float (&scratch)[32]) {
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  v = lanes_sum<32>(v);
  if (lane == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  return lanes_sum<32>(lane < warps ? scratch[lane] : 0.0f);
}

// ---- host side ----

// Where nothing speaks for another number.
inline constexpr int kRowThreads = 256;

// A launch by launch_rows(), and in tests by the emulator.
template <class Params>
struct RowLaunch {
  const char* name;
  void (*kernel)(Params) = nullptr;
  Params params;
  i64 ctas = 0;  // that there is work for; 0 = no launch
  int threads = kRowThreads;
  bool loops = true;   // fewer CTAs do the same
  bool early = false;  // LaunchShape::early
};

// An error that names `tensor` unless it lies in CUDA memory with this type and shape (-1 = any extent), its elements
// and rows where elements may lie.
inline Status expect_cuda_tensor(const char* tensor, const TensorView& view, DType dtype, const Shape& shape) {
  WEFT_TRY(expect_tensor(tensor, view, dtype, shape));
  if (view.device != DeviceKind::kCuda) return error(Code::kInvalidArgument, "{}: not in CUDA memory", tensor);
  const i64 size = dtype_layout(dtype).bytes;
  if (reinterpret_cast<uintptr_t>(view.data) % size_t(size) != 0)
    return error(Code::kInvalidArgument, "{}: address {} is no multiple of {}", tensor, static_cast<void*>(view.data),
                 size);
  for (int i = 0; i + 1 < view.shape.rank(); ++i)
    if (view.byte_strides[size_t(i)] % size != 0)
      return error(Code::kInvalidArgument, "{}: stride of {} bytes is no multiple of {}", tensor,
                   view.byte_strides[size_t(i)], size);
  if (view.shape.rank() == 1 && view.dim(0) > 1 && view.byte_strides[0] != size)
    return error(Code::kInvalidArgument, "{}: expected dense elements", tensor);
  return {};
}
// The same for f32, f16 or bf16.
inline Status expect_cuda_floats(const char* tensor, const TensorView& view, const Shape& shape) {
  if (view.dtype != DType::kF32 && view.dtype != DType::kF16 && view.dtype != DType::kBF16)
    return error(Code::kInvalidArgument, "{}: expected f32, f16 or bf16, found {}", tensor, view.describe());
  return expect_cuda_tensor(tensor, view, view.dtype, shape);
}

// Whether address and strides allow 16-byte accesses to runs of 8 elements that start at multiples of 8.
inline bool allows_eight(const TensorView& view) {
  if (reinterpret_cast<uintptr_t>(view.data) % 16 != 0) return false;
  for (int i = 0; i + 1 < view.shape.rank(); ++i)
    if (view.byte_strides[size_t(i)] % 16 != 0) return false;
  return true;
}

// Calls f(A{}, B{}) with the types of two tensors: the same, or f32 and one of 16 bits.
template <class F>
Status with_float_types(const char* what, DType a, DType b, F&& f) {
  if (a == DType::kBF16 && b == DType::kBF16) return f(bf16{}, bf16{});
  if (a == DType::kF16 && b == DType::kF16) return f(f16{}, f16{});
  if (a == DType::kF32 && b == DType::kF32) return f(float{}, float{});
  if (a == DType::kF32 && b == DType::kBF16) return f(float{}, bf16{});
  if (a == DType::kF32 && b == DType::kF16) return f(float{}, f16{});
  return error(Code::kUnimplemented, "{}: no kernel for {} and {}", what, dtype_name(a), dtype_name(b));
}
// Calls f(std::integral_constant<int, 8>) or <int, 1>.
template <class F>
Status with_run(bool eight, F&& f) {
  if (eight) return f(std::integral_constant<int, 8>{});
  return f(std::integral_constant<int, 1>{});
}

}  // namespace weft
