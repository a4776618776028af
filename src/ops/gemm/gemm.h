// gemm: y = x W^T (+ bias) (+ y) for activations in a Weight's format.
#pragma once
#include "device/exec.h"
#include "ops/gemm/weight.h"

namespace weft {

struct GemmArgs {
  ActivationView x;         // [m, k] in w.activation_format()
  const Weight& w;          // [n, k]
  TensorView y;             // [m, n] f32 (on GPUs bf16), row stride allowed; must not overlap x
  TensorView bias = {};     // [n] f32, or absent (data == nullptr)
  bool accumulate = false;  // y += instead of y =
};

// Every thread of the team calls it; work is cut by columns; ends with exec.sync(). No allocation. m = 0 or n = 0 is a
// no-op. Batch-invariant: K is summed in one fixed order, so row i of y depends on row i of x alone, bit for bit, for
// every m. On GPUs (ops/gpu.h) bias and accumulate are kUnimplemented. Errors: kInvalidArgument naming the tensor,
// before anything is written.
Status gemm(Exec& exec, const GemmArgs& args);

// One tile, on the calling thread, no synchronisation: out[i - m_begin, j - n_begin] = (x W^T)[i, j] for i in
// [m_begin, m_end), j in [n_begin, n_end); `out` f32 with `out_stride` floats from row to row. n_begin must be a
// multiple of Weight::kPanel; `bias` [w.n()] is added, if given. The bits equal gemm()'s. For operators that send tiles
// as soon as they are done.
struct GemmTile {
  i64 m_begin, m_end, n_begin, n_end;
};
void gemm_tile(const ActivationView& x, const Weight& w, const GemmTile& tile, float* out, i64 out_stride,
               const float* bias = nullptr);

// Checks x against w; the error names `x` and the weight.
Status check_gemm_input(const ActivationView& x, const Weight& w);

// Naive f64-accumulated oracle on the packed numbers: y [m, n] f32 = x W^T. x is dequantised first.
void gemm_reference(const ActivationView& x, const Weight& w, const TensorView& y);

}  // namespace weft
