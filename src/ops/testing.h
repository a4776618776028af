// What operator tests and benchmarks share: teams, random data, error norms.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "device/cpu_features.h"
#include "device/thread_pool.h"
#include "ops/gemm/activation.h"

namespace weft::testing {

// Runs `work` on a fresh team of `threads`.
inline Status run_team(int threads, const std::function<Status(Exec&)>& work) {
  auto pool = ThreadPool::create({.num_threads = threads, .cpus = {}, .spin = 100});
  if (!pool.ok()) return pool.status();
  return (*pool)->run(work);
}

// Normal numbers with deviation `scale`, the same for the same seed.
inline void fill_normal(float* x, i64 n, u32 seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  for (i64 i = 0; i < n; ++i) x[i] = normal(random);
}

// An f32 matrix whose rows lie `padding` floats further apart than they need; the padding is NaN.
struct PaddedMatrix {
  std::vector<float> storage;
  TensorView view;
  PaddedMatrix(i64 rows, i64 columns, i64 padding, u32 seed, float scale = 1)
      : storage(size_t(rows * (columns + padding)), NAN) {
    view = TensorView::dense(storage.data(), DType::kF32, {rows, columns});
    view.byte_strides[0] = (columns + padding) * i64(sizeof(float));
    for (i64 i = 0; i < rows; ++i) fill_normal(view.row<float>(i), columns, seed + u32(i), scale);
  }
};

constexpr ActivationFormat kFormats[] = {ActivationFormat::kF32, ActivationFormat::kBF16, ActivationFormat::kQ16};

// Row `i` as f32.
inline std::vector<float> activation_row(const ActivationView& x, i64 i) {
  std::vector<float> y(static_cast<size_t>(x.k));
  for (i64 k = 0; k < x.k; ++k) {
    if (x.format == ActivationFormat::kF32) y[size_t(k)] = x.row_f32(i)[k];
    if (x.format == ActivationFormat::kBF16) y[size_t(k)] = float(x.row_bf16(i)[k]);
    if (x.format == ActivationFormat::kQ16) y[size_t(k)] = x.row_scales(i)[k / kActivationBlock] * float(x.quant(i, k));
  }
  return y;
}

// The bytes that carry row `i`, without the padding behind it.
inline std::string activation_bytes(const ActivationView& x, i64 i) {
  const i64 bytes = x.format == ActivationFormat::kF32    ? 4 * x.k
                    : x.format == ActivationFormat::kBF16 ? 2 * x.k
                                                          : 2 * x.k + x.k / kActivationBlock * 8;
  return {reinterpret_cast<const char*>(x.row(i)), size_t(bytes)};
}

// Largest error that storing `x` in `format` adds to element k of a row.
inline float storage_error(ActivationFormat format, const std::vector<float>& row, size_t k) {
  if (format == ActivationFormat::kF32) return 0;
  if (format == ActivationFormat::kBF16) return std::fabs(row[k]) * 0x1p-8f;
  float largest = 0;
  for (size_t i = k / 32 * 32; i < k / 32 * 32 + 32; ++i) largest = std::max(largest, std::fabs(row[i]));
  return largest / 32512 * 0.51f;  // half a step, and the rounding of the scale
}

// Every set that this machine can run and that has its own kernels (simd.h).
inline std::vector<CpuIsa> simd_isas() {
  std::vector<CpuIsa> isas;
  for (CpuIsa isa : {CpuIsa::kGeneric, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (cpu_supports(isa)) isas.push_back(isa);
  }
  return isas;
}

}  // namespace weft::testing

// Kernel `function` of set `isa`.
#if defined(__x86_64__)
#define WEFT_SIMD_OF(isa, function)                     \
  ((isa) == ::weft::CpuIsa::kAvx512 ? &avx512::function \
   : (isa) == ::weft::CpuIsa::kAvx2 ? &avx2::function   \
                                    : &generic::function)
#else
#define WEFT_SIMD_OF(isa, function) ((void)(isa), &generic::function)
#endif
