// The kernels of one instruction set, and the operators run with them: for tests and benchmarks that force a set.
#pragma once
#include "device/cpu_features.h"
#include "ops/gemm/gemm.h"
#include "ops/gemm/kernels.h"

namespace weft {

// `isa` must be supported (cpu_supports()).
const GemmKernels& gemm_kernels(CpuIsa isa);

Status gemm_with(const GemmKernels& kernels, Exec& exec, const GemmArgs& args);
void gemm_tile_with(const GemmKernels& kernels, const ActivationView& x, const Weight& w, const GemmTile& tile,
                    float* out, i64 out_stride, const float* bias = nullptr);
void store_activation_row_with(const GemmKernels& kernels, const float* x, const ActivationView& out, i64 i);

}  // namespace weft
