// Sums of weighted rows on the host, one copy of the kernels for each instruction set. A product is rounded before it
// is added, so all of them, and the plain loop, give the same bits.
#pragma once
#include "base/dtype.h"

namespace weft::ep {

template <class T>
struct SumKernels {
  void (*add_scaled)(float* sums, const T* row, float weight, i64 n);  // sums += weight * row
  void (*round_to)(T* row, const float* sums, i64 n);                  // to nearest even
};

// For T = float, bf16, f16: those of the instruction set in use.
template <class T>
const SumKernels<T>& sum_kernels();

}  // namespace weft::ep

#define WEFT_DECLARE_KERNELS(isa)          \
  namespace isa {                          \
  ep::SumKernels<float> sum_kernels_f32(); \
  ep::SumKernels<bf16> sum_kernels_bf16(); \
  ep::SumKernels<f16> sum_kernels_f16();   \
  }

namespace weft {
WEFT_DECLARE_KERNELS(generic)
WEFT_DECLARE_KERNELS(avx2)
WEFT_DECLARE_KERNELS(avx512)
}  // namespace weft
#undef WEFT_DECLARE_KERNELS
