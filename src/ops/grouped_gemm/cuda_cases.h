// What is expected of cuda_sort_experts() and cuda_expert_sum(), for their tests on a GPU and on the emulator.
#pragma once
#include <limits>

#include "device/thread_pool.h"
#include "ops/grouped_gemm/cases.h"
#include "ops/grouped_gemm/grouped_gemm.cuh"
#include "ops/row_testing.h"

namespace weft::testing {

// The CPU's order. `sort` calls cuda_sort_experts() where `on` is. placed: with the tables that sums read.
template <class On, class Sort>
Status check_expert_sort(On& on, const Sort& sort, i64 tokens, i64 experts, i64 per_token, u64 seed, bool placed) {
  using Matrix = typename On::Matrix;
  std::vector<i32> ids = random_routing(tokens, experts, per_token, seed);
  const i64 count = i64(ids.size());
  ExpertGroups groups = ExpertGroups::create(count, experts);
  WEFT_ASSIGN(auto pool, ThreadPool::create({.num_threads = 1, .cpus = {}, .spin = 100}));
  WEFT_TRY(pool->run(
      [&](Exec& exec) { return groups.sort(exec, TensorView::dense(ids.data(), DType::kI32, {tokens, per_token})); }));
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 && i % 2 == 0) ids[i] = i32(experts + i64(i));  // no expert either
  WEFT_ASSIGN(const Matrix gpu_ids, Matrix::create(DType::kI32, tokens, per_token));
  WEFT_ASSIGN(const Matrix weights, Matrix::create(DType::kF32, tokens, 2 * per_token));  // every other one
  WEFT_ASSIGN(const Matrix placed_weights, Matrix::create(DType::kF32, tokens, per_token));
  WEFT_ASSIGN(const Matrix offsets, Matrix::create(DType::kI32, 1, experts + 1));
  WEFT_ASSIGN(const Matrix map, Matrix::create(DType::kI32, 1, count));
  WEFT_ASSIGN(const Matrix pairs, Matrix::create(DType::kI32, 1, count));
  WEFT_ASSIGN(const Matrix rows, Matrix::create(DType::kI32, tokens, per_token));
  WEFT_TRY(gpu_ids.upload(ids));
  const std::vector<float> values = random_floats(DType::kF32, 2 * count, u32(seed) + 3);
  WEFT_TRY(weights.upload(values));
  TensorView every_other = weights.view();
  every_other.shape = {tokens, per_token};
  every_other.byte_strides[1] = 8;
  CudaExpertSortArgs args{.ids = gpu_ids.view(), .offsets = offsets.as({experts + 1}), .map = map.as({count})};
  if (placed)
    args.pairs = pairs.as({count}), args.rows = rows.view(), args.weights = every_other,
    args.placed = placed_weights.view();
  WEFT_TRY(on.repeat(
      [&]() -> Status {
        for (const Matrix* table : {&offsets, &map, &rows, &placed_weights, &pairs}) WEFT_TRY(table->clear());
        return {};
      },
      [&] { return sort(args); }, {&offsets, &map, &pairs, &rows, &placed_weights}));
  WEFT_ASSIGN(const auto found_offsets, offsets.bytes());
  WEFT_ASSIGN(const auto found_map, map.bytes());
  WEFT_ASSIGN(const auto found_pairs, pairs.bytes());
  WEFT_ASSIGN(const auto found_rows, rows.bytes());
  WEFT_ASSIGN(const auto found_placed, placed_weights.floats());
  const auto expect = [](const char* table, const std::vector<std::byte>& found, i64 at, i64 wanted) -> Status {
    const i32 value = Matrix::template get<i32>(found, size_t(at));
    if (value == wanted) return {};
    return error(Code::kAborted, "{}[{}]: {}, expected {}", table, at, value, wanted);
  };
  for (i64 e = 0; e < experts; ++e) WEFT_TRY(expect("offsets", found_offsets, e, groups.rows(e).begin));
  WEFT_TRY(expect("offsets", found_offsets, experts, groups.pairs()));
  for (i64 row = 0; row < groups.pairs(); ++row) WEFT_TRY(expect("map", found_map, row, groups.token(row)));
  if (!placed) return {};
  std::vector<i64> places(static_cast<size_t>(tokens));
  for (i64 row = 0; row < groups.pairs(); ++row) {
    WEFT_TRY(expect("pairs", found_pairs, row, groups.pair(row)));
    const i64 token = groups.token(row), place = places[size_t(token)]++;
    WEFT_TRY(expect("rows", found_rows, token * per_token + place, row));
    WEFT_TRY(expect_near(token, place, double(found_placed[size_t(token * per_token + place)]),
                         double(values[size_t(groups.pair(row)) * 2]), 0));
  }
  for (i64 token = 0; token < tokens; ++token)
    for (i64 place = places[size_t(token)]; place < per_token; ++place) {
      WEFT_TRY(expect("rows", found_rows, token * per_token + place, -1));
      WEFT_TRY(expect_near(token, place, double(found_placed[size_t(token * per_token + place)]), 0, 0));
    }
  return {};
}

// `sum` calls cuda_expert_sum() where `on` is. large: a sum on its way is beyond f16's range, for it is fp32.
template <class On, class Sum>
Status check_expert_sum(On& on, const Sum& sum_up, DType dtype, i64 per_token, bool large) {
  constexpr i64 kTokens = 37, kN = 72;
  using Matrix = typename On::Matrix;
  const i64 rows = kTokens * per_token;
  std::vector<float> products = random_floats(dtype, rows * kN, 5);
  std::vector<float> weights = random_floats(DType::kF32, rows, 6);
  std::vector<i32> places;
  for (i64 i = 0; i < rows; ++i) {
    const i64 token = i / per_token, slot = i % per_token;
    // Every fourth token lacks its last expert, the first one all.
    places.push_back(token == 0 || (token % 4 == 3 && slot == per_token - 1) ? -1 : i32(rows - 1 - i));
    if (large) weights[size_t(i)] = slot == 2 ? -1.5f : 1;
  }
  if (large) std::ranges::fill(products, rounded_to(dtype, 60000));
  WEFT_ASSIGN(const Matrix gpu_products, Matrix::create(dtype, rows, kN));
  WEFT_ASSIGN(const Matrix y, Matrix::create(dtype, kTokens, kN, 8));
  WEFT_ASSIGN(const Matrix gpu_places, Matrix::create(DType::kI32, kTokens, per_token));
  WEFT_ASSIGN(const Matrix gpu_weights, Matrix::create(DType::kF32, kTokens, per_token));
  WEFT_TRY(gpu_products.upload(products));
  WEFT_TRY(gpu_places.upload(places));
  WEFT_TRY(gpu_weights.upload(weights));
  const CudaExpertSumArgs args{
      .products = gpu_products.view(), .rows = gpu_places.view(), .weights = gpu_weights.view(), .y = y.view()};
  WEFT_TRY(on.repeat([&] { return y.clear(); }, [&] { return sum_up(args); }, {&y}));
  WEFT_ASSIGN(const auto found, y.floats());
  for (i64 i = 0; i < kTokens * kN; ++i) {
    double sum = 0, magnitude = 0;
    for (i64 slot = i / kN * per_token; slot < (i / kN + 1) * per_token; ++slot) {
      if (places[size_t(slot)] < 0) continue;
      const double term = double(weights[size_t(slot)]) * double(products[size_t(places[size_t(slot)] * kN + i % kN)]);
      sum += term;
      magnitude += std::abs(term);
    }
    const double found_sum = double(found[size_t(i)]);
    if (dtype == DType::kF16 && std::abs(sum) >= 65520) {
      if (found_sum != std::copysign(std::numeric_limits<double>::infinity(), sum))
        return error(Code::kAborted, "row {}, column {}: {}, expected infinity", i / kN, i % kN, found_sum);
    } else {
      const double most = magnitude * double(per_token) * 0x1p-24;
      WEFT_TRY(expect_near(i / kN, i % kN, found_sum, sum, most + storage_error(dtype, std::abs(sum) + most)));
    }
  }
  return {};
}

}  // namespace weft::testing
