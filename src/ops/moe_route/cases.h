// What is expected of cuda_moe_route(), for its tests on a GPU and on the emulator.
#pragma once
#include <array>

#include "ops/moe_route/moe_route.cuh"
#include "ops/row_testing.h"

namespace weft::testing {

struct RouteCase {
  DType dtype;
  i64 tokens, experts, per_token, pad;
  bool normalise, ties;
  i64 step = 1;  // elements from one choice to the next
};

// The reference's experts, and its weights but for roundings. `route` calls cuda_moe_route() where `on` is.
template <class On, class Route>
Status check_moe_route(On& on, const Route& route, const RouteCase& c) {
  using Matrix = typename On::Matrix;
  WEFT_ASSIGN(const Matrix logits, Matrix::create(c.dtype, c.tokens, c.experts, c.pad));
  WEFT_ASSIGN(const Matrix ids, Matrix::create(DType::kI32, c.tokens, c.per_token * c.step));
  WEFT_ASSIGN(const Matrix weights, Matrix::create(DType::kF32, c.tokens, c.per_token * c.step));
  const auto apart = [&](TensorView view) {
    view.shape = {c.tokens, c.per_token};
    view.byte_strides[1] = 4 * c.step;
    return view;
  };
  std::vector<float> values = random_floats(c.dtype, c.tokens * c.experts, u32(c.experts + c.per_token), 2);
  if (c.ties)  // a few different ones, zeros of both signs among them
    for (float& value : values) value = std::round(value * 2) / 2 * (value < 0.5f ? -1.0f : 1.0f);
  WEFT_TRY(logits.upload(values));
  WEFT_ASSIGN(const auto empty, ids.bytes());
  const CudaMoeRouteArgs args{
      .logits = logits.view(), .ids = apart(ids.view()), .weights = apart(weights.view()), .normalise = c.normalise};
  WEFT_TRY(on.repeat(
      [&]() -> Status {
        WEFT_TRY(ids.clear());
        return weights.clear();
      },
      [&] { return route(args); }, {&ids, &weights}));
  WEFT_ASSIGN(const auto found, ids.bytes());
  WEFT_ASSIGN(const auto found_weights, weights.floats());
  std::vector<i32> expected_ids(static_cast<size_t>(c.per_token));
  std::vector<float> expected(static_cast<size_t>(c.per_token));
  // Per lane 16 sums, 5 steps over lanes, twice that for two sums; exponentials of 2 ulp, of differences rounded
  // before.
  const double relative = 2 * (16 + 5 + 2 + 20) * 0x1p-24;
  for (i64 t = 0; t < c.tokens; ++t) {
    const float* row = values.data() + t * c.experts;
    moe_route_reference(row, c.experts, c.per_token, c.normalise, expected_ids.data(), expected.data());
    for (i64 i = 0; i < c.per_token * c.step; ++i) {
      const size_t at = size_t(t * c.per_token * c.step + i), j = size_t(i / c.step);
      const bool between = i % c.step != 0;
      const i32 id = Matrix::template get<i32>(found, at),
                wanted = between ? Matrix::template get<i32>(empty, at) : expected_ids[j];
      if (id != wanted)
        return error(Code::kAborted, "token {}, choice {}: expected expert {}, found {}", t, j, wanted, id);
      if (between) continue;
      const double weight = double(expected[j]);
      WEFT_TRY(expect_near(t, i64(j), double(found_weights[at]), weight, relative * weight).with_context("weights"));
    }
  }
  return {};
}

// NaN gives valid experts with NaN weights.
template <class On, class Route>
Status check_nan_of_moe_route(On& on, const Route& route) {
  using Matrix = typename On::Matrix;
  WEFT_ASSIGN(const Matrix logits, Matrix::create(DType::kF32, 1, 9));
  WEFT_ASSIGN(const Matrix ids, Matrix::create(DType::kI32, 1, 3));
  WEFT_ASSIGN(const Matrix weights, Matrix::create(DType::kF32, 1, 3));
  WEFT_TRY(logits.upload(std::vector<float>{1, NAN, 3, 2, NAN, -1, 0, 0, -5}));
  WEFT_TRY(on.repeat([&] { return weights.clear(); },
                     [&] { return route({logits.view(), ids.view(), weights.view(), true}); }, {&ids, &weights}));
  WEFT_ASSIGN(const auto raw, ids.bytes());
  WEFT_ASSIGN(const auto found, weights.floats());
  for (size_t j = 0; j < 3; ++j) {
    const i32 id = Matrix::template get<i32>(raw, j);
    if (id != std::array{2, 3, 0}[j] || !std::isnan(found[j]))
      return error(Code::kAborted, "choice {}: expert {} with weight {}", j, id, found[j]);
  }
  return {};
}

}  // namespace weft::testing
