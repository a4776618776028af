// swiglu: y = silu(gate) * up, written in the next GEMM's format.
#pragma once
#include "device/exec.h"
#include "ops/gemm/activation.h"

namespace weft {

struct SwigluArgs {
  TensorView
      gate_up;  // [tokens, 2 * width] f32: gate in columns [0, width), up in [width, 2 * width); row stride allowed
  ActivationView y;  // [tokens, width]; must not overlap gate_up
};

// On GPUs (ops/gpu.h) y is bf16 or f32, and gate_up f32 or of y's type. Rows (and blocks of columns when rows are few)
// are cut over the team; ends with exec.sync(). silu(x) = x / (1 + exp(-x)). A row's bits depend on that row alone.
// Source: Shazeer, GLU Variants Improve Transformer, 2020.
Status swiglu(Exec& exec, const SwigluArgs& args);

// Naive oracle in f64 of one row: gate, up, y [n].
void swiglu_reference(const float* gate, const float* up, i64 n, float* y);

}  // namespace weft
