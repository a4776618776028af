// Residual: the rows that layers add to.
#pragma once
#include "ops/rms_norm/rms_norm.h"

namespace weft {

struct Residual {
  TensorView rows;  // [local rows, hidden] f32
  // What the rows still lack, [local rows, hidden], or absent (data == nullptr). A CPU's GEMMs add to the rows as they
  // store; on GPUs the sum waits here for the next norm, which reads the rows anyway.
  TensorView addend = {};
};

// y = rms_norm(rows), the addend added to the rows first. `weight` [hidden] f32.
inline Status normalise(Exec& exec, Residual& residual, const TensorView& weight, float epsilon,
                        const ActivationView& y) {
  WEFT_TRY(
      rms_norm(exec, {.x = residual.rows, .weight = weight, .epsilon = epsilon, .y = y, .addend = residual.addend}));
  residual.addend = {};
  return {};
}

}  // namespace weft
