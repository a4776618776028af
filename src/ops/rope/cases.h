// What is expected of cuda_rope_angles() and cuda_rope_kv_write(), for their tests on a GPU and on the emulator.
#pragma once
#include "device/thread_pool.h"
#include "ops/rope/rope.cuh"
#include "ops/row_testing.h"

namespace weft::testing {

struct RopeCase {
  i64 tokens, q_heads, kv_heads, head_dim, page_tokens;
};

// The CPU's own operator on the same numbers. `turn` and `write` call cuda_rope_angles() and
// cuda_rope_kv_write() where `on` is.
template <class On, class RopeAngles, class RopeKvWrite>
Status check_rope(On& on, const RopeAngles& turn, const RopeKvWrite& write, const RopeCase& c, FloatTypes types,
                  Place place) {
  using Matrix = typename On::Matrix;
  const i64 columns = (c.q_heads + 2 * c.kv_heads) * c.head_dim, pages = c.tokens + 3;
  const auto numbers = random_floats(types.from, c.tokens * columns, 7);
  std::vector<i32> positions, slots;
  for (i64 t = 0; t < c.tokens; ++t) {
    positions.push_back(i32(t * 3701));
    slots.push_back(t % 4 == 3 ? -1 : i32(pages * c.page_tokens - 1 - t));
  }
  std::vector<float> frequencies = rope_inverse_frequencies(c.head_dim, 10000, {});
  // the CPU
  WEFT_ASSIGN(auto cache, KvCache::create({1, pages, c.kv_heads, c.page_tokens, c.head_dim, types.to}));
  const Tensor cpu_angles = Tensor::zeros(DType::kF32, {c.tokens, c.head_dim});
  std::vector<float> cpu_qkv = numbers;
  WEFT_ASSIGN(auto pool, ThreadPool::create({.num_threads = 1, .cpus = {}, .spin = 100}));
  WEFT_TRY(pool->run([&](Exec& exec) -> Status {
    WEFT_TRY(rope_angles(exec, TensorView::dense(positions.data(), DType::kI32, {c.tokens}),
                         TensorView::dense(frequencies.data(), DType::kF32, {c.head_dim / 2}), cpu_angles.view));
    return rope_kv_write(exec, {TensorView::dense(cpu_qkv.data(), DType::kF32, {c.tokens, columns}), cpu_angles.view,
                                TensorView::dense(slots.data(), DType::kI32, {c.tokens}), c.q_heads, c.kv_heads,
                                c.head_dim, cache.layer(0)});
  }));
  // the GPU
  const i64 cached = pages * c.kv_heads * c.page_tokens;
  WEFT_ASSIGN(const Matrix qkv, Matrix::create(types.from, c.tokens, columns, place.pad, place.shift));
  WEFT_ASSIGN(const Matrix k, Matrix::create(types.to, cached, c.head_dim));
  WEFT_ASSIGN(const Matrix v, Matrix::create(types.to, cached, c.head_dim));
  WEFT_ASSIGN(const Matrix angles, Matrix::create(DType::kF32, c.tokens, c.head_dim, place.pad, place.shift));
  WEFT_ASSIGN(const Matrix device_positions, Matrix::create(DType::kI32, 1, c.tokens));
  WEFT_ASSIGN(const Matrix device_slots, Matrix::create(DType::kI32, 1, c.tokens));
  WEFT_ASSIGN(const Matrix device_frequencies, Matrix::create(DType::kF32, 1, c.head_dim / 2));
  WEFT_TRY(device_positions.upload(positions));
  WEFT_TRY(device_slots.upload(slots));
  WEFT_TRY(device_frequencies.upload(frequencies));
  const Shape extents{pages, c.kv_heads, c.page_tokens, c.head_dim};
  const RopeKvWriteArgs args{qkv.view(), angles.view(), device_slots.as({c.tokens}),   c.q_heads,
                             c.kv_heads, c.head_dim,    {k.as(extents), v.as(extents)}};
  const std::vector<float> zeros(size_t(cached * c.head_dim));
  WEFT_TRY(on.repeat(
      [&]() -> Status {
        WEFT_TRY(qkv.upload(numbers));
        WEFT_TRY(k.upload(zeros));
        WEFT_TRY(v.upload(zeros));
        return angles.clear();
      },
      [&]() -> Status {
        WEFT_TRY(turn(device_positions.as({c.tokens}), device_frequencies.as({c.head_dim / 2}), angles.view()));
        return write(args);
      },
      {&qkv, &k, &v, &angles}));
  WEFT_ASSIGN(const auto found, qkv.floats());
  WEFT_ASSIGN(const auto found_angles, angles.floats());
  for (size_t i = 0; i < found_angles.size(); ++i)
    WEFT_TRY(expect_near(i64(i) / c.head_dim, i64(i) % c.head_dim, double(found_angles[i]),
                         double(cpu_angles.view.as<float>()[i]), 0)
                 .with_context("angles"));
  for (size_t i = 0; i < found.size(); ++i)
    WEFT_TRY(
        expect_near(i64(i) / columns, i64(i) % columns, double(found[i]), double(rounded_to(types.from, cpu_qkv[i])), 0)
            .with_context("qkv"));
  for (const bool keys : {true, false}) {
    WEFT_ASSIGN(const auto bytes, (keys ? k : v).bytes());
    const TensorView& expected = keys ? cache.layer(0).k : cache.layer(0).v;
    if (!std::equal(bytes.begin(), bytes.end(), expected.data))
      return error(Code::kAborted, "{} are not the CPU's", keys ? "keys" : "values");
  }
  return {};
}

}  // namespace weft::testing
