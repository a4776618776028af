// rms_norm: y = x / sqrt(mean(x^2) + epsilon) * weight, written in the next GEMM's format.
#pragma once
#include "device/exec.h"
#include "ops/gemm/activation.h"

namespace weft {

struct RmsNormArgs {
  TensorView x;       // [tokens, hidden] f32, row stride allowed
  TensorView weight;  // [hidden] f32
  float epsilon;
  ActivationView y;        // [tokens, hidden], any format; must not overlap x
  TensorView addend = {};  // [tokens, hidden] f32, row stride allowed: first x += addend; or absent (data == nullptr)
};

// On GPUs (ops/gpu.h) y is bf16 or f32, and addend of y's type. Rows are cut over the team; ends with exec.sync(). A
// row's bits depend on that row alone. Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
Status rms_norm(Exec& exec, const RmsNormArgs& args);

// Normalises `heads` runs of `head_dim` floats in each row in place (QK-norm of Qwen3): x [tokens, >= offset + heads *
// head_dim] f32, row stride allowed, weight [head_dim] f32. Ends with exec.sync().
struct HeadRmsNormArgs {
  TensorView x;
  i64 offset, heads, head_dim;
  TensorView weight;
  float epsilon;
};
Status head_rms_norm(Exec& exec, const HeadRmsNormArgs& args);

// Naive oracle in f64 of one row or head: x, weight, y [n].
void rms_norm_reference(const float* x, const float* weight, i64 n, float epsilon, float* y);

}  // namespace weft
