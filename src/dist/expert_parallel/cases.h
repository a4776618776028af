// Cases that the tests of the CPU form and of the GPU form share.
#pragma once
#include "dist/expert_parallel/selfcheck.h"

namespace weft::ep {

// Few tokens for an uneven number of experts, routed another way in every call.
inline CheckCase small_case(i64 hidden) {
  CheckCase check;
  check.shape = {.max_num_tokens = 9, .num_experts = 10, .experts_per_token = 3, .hidden_dim = hidden};
  check.routing = Routing::kMixed;
  check.vary_tokens = true;
  return check;
}

// Dispatch casts from this type.
inline CheckCase cast_case(DType from, i64 hidden) {
  CheckCase check = small_case(hidden);
  check.options.cast_x_to_fp8 = true;
  check.cast_from = from;
  check.x_dtype = DType::kU8;
  check.scale_block = 128;
  return check;
}

// Every type and every form of a call occurs among forms 0 to 5.
inline constexpr int kForms = 6;
inline void set_form(CheckCase& check, int form) {
  constexpr DType kX[] = {DType::kBF16, DType::kU8, DType::kF32, DType::kF16, DType::kU8, DType::kF32};
  constexpr DType kY[] = {DType::kBF16, DType::kBF16, DType::kF32, DType::kF16, DType::kBF16, DType::kF16};
  constexpr DType kOut[] = {DType::kBF16, DType::kF32, DType::kF32, DType::kF16, DType::kBF16, DType::kBF16};
  constexpr i64 kBlock[] = {0, 16, 0, 7, 128, 1};
  check.split = form % 2 == 1;
  check.packed = form % 3 == 2;
  check.bound = form % 3 == 1;
  check.early = form % 4 >= 2;
  check.x_dtype = kX[form];
  check.options.combine_dtype = kY[form];
  check.out_dtype = kOut[form];
  check.scale_block = kBlock[form];
}

}  // namespace weft::ep
