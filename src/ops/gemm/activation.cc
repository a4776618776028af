#include "ops/gemm/activation.h"

#include <cstring>

#include "ops/gemm/dispatch.h"

namespace weft {

const char* activation_format_name(ActivationFormat format) {
  switch (format) {
    case ActivationFormat::kF32: return "f32";
    case ActivationFormat::kBF16: return "bf16";
    case ActivationFormat::kQ8: return "q8";
  }
  return "?";
}

i64 activation_row_bytes(ActivationFormat format, i64 k) {
  const i64 bytes = format == ActivationFormat::kF32    ? 4 * k
                    : format == ActivationFormat::kBF16 ? 2 * k
                                                        : k + k / kActivationBlock * 8;
  return (bytes + 63) / 64 * 64;
}

void store_activation_row_with(const GemmKernels& kernels, const float* x, const ActivationView& out, i64 i) {
  WEFT_CHECK(0 <= i && i < out.rows, i, out.rows);
  switch (out.format) {
    case ActivationFormat::kF32:
      if (out.k) std::memcpy(out.row(i), x, size_t(out.k) * 4);
      return;
    case ActivationFormat::kBF16: return kernels.store_bf16(x, out.k, out.row(i));
    case ActivationFormat::kQ8:
      WEFT_CHECK(out.k % kActivationBlock == 0, out.k);
      return kernels.store_q8(x, out.k, out.row(i));
  }
}

void store_activation_row(const float* x, const ActivationView& out, i64 i) {
  static const GemmKernels& kernels = gemm_kernels(cpu_isa());
  store_activation_row_with(kernels, x, out, i);
}

}  // namespace weft
