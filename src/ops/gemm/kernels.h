// What a kernel file offers to gemm.cc and activation.cc, and how a panel lies in memory.
// Kernel files are compiled for instruction sets that the machine may lack, and the linker keeps one copy of every
// inline function, whichever file it came from: so this header includes no code, only types.
#pragma once
#include "base/types.h"

namespace weft {

// A panel is 16 columns (rows of the weight), K outermost:
//   f32   per k: 16 floats.
//   bf16  per pair of k: 16 times two bf16 (k, k + 1); an odd last k is paired with zero.
//   q8_0  per block of 32 k: 16 f16 scales d, then 8 groups of 4 k: 16 times 4 bytes u = q + 128.       w = d (u - 128)
//   q4_0  per block of 32 k: 16 f16 scales d, then 4 groups of 16 times 4 bytes: the low nibble of byte t in
//         group j is u at k = 4 j + t, the high nibble at k = 16 + 4 j + t.                             w = d (u - 8)
//   q4_1  per block of 32 k: 16 f16 scales d, 16 f16 minima m, then the nibbles of q4_0.                w = d u + m
constexpr i64 kPanelColumns = 16;
constexpr i64 kQ8PanelBlockBytes = 32 + 8 * 64;
constexpr i64 kQ40PanelBlockBytes = 32 + 4 * 64;
constexpr i64 kQ41PanelBlockBytes = 64 + 4 * 64;

// out[i, j] = x W^T for `rows` rows of x and `columns` columns of consecutive panels; then `+ bias[j]` if bias, then
// `+ out[i, j]` if accumulate.
// The order of operations on one output, in every kernel file but for bf16 on AMX, so that all give the same bits:
//   f32     acc = fma(x[k], w[k], acc), k ascending.
//   bf16    per pair of k ascending: acc = fma(x[k+1], w[k+1], acc), then acc = fma(x[k], w[k], acc). That is what
//           vdpbf16ps does, except that it takes subnormal numbers for zero.
//           On AMX: per 32 k ascending, even and odd = 0; per pair of k: even = fma(x[k], w[k], even), odd =
//           fma(x[k+1], w[k+1], odd); then acc += even + odd. That is tdpbf16ps, which has no other order.
//   q*      per block b ascending, with idot = sum of u q over the block, exact in i32 (256 times that of
//           the high halves plus that of the low ones):
//           acc = fma(d * dx[b], f32(idot), acc), then acc = fma(m, sx[b], acc);
//           dx, sx: row_scales, row_sums of x; m = -8 d for q4_0, -128 d for q8_0.
struct GemmKernelArgs {
  const std::byte* x;  // rows in the weight's activation format
  i64 x_stride;        // bytes
  i64 rows;
  i64 k;
  const std::byte* panels;
  i64 panel_bytes;
  i64 columns;        // the last panel may be partial
  float* out;         // [rows, columns]
  i64 out_stride;     // floats
  const float* bias;  // [columns] or null
  bool accumulate;
};

struct GemmKernels {
  using Gemm = void (*)(const GemmKernelArgs&);
  Gemm f32, bf16, q4_0, q4_1, q8_0;
  // x [k] f32 -> the row formats of activation.h.
  void (*store_bf16)(const float* x, i64 k, std::byte* row);
  void (*store_q16)(const float* x, i64 k, std::byte* row);

  // Ceilings for benchmarks. peak_*: `rounds` rounds of the kernel's multiply-adds on registers alone; returns the
  // operations done, a multiply-add counting two. read: reads every byte once. `data` [>= 4096 bytes] in both.
  using Peak = i64 (*)(const std::byte* data, i64 rounds);
  Peak peak_f32, peak_bf16, peak_4bit, peak_8bit;
  void (*read)(const std::byte* data, i64 bytes);
};

extern const GemmKernels kGemmGeneric;
#if defined(__x86_64__)
extern const GemmKernels kGemmAvx2, kGemmAvx512, kGemmAvx512Vnni, kGemmAmx;
#endif

}  // namespace weft
