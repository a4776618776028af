// What tests of row operators share, on a GPU and on the emulator.
#pragma once
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "base/dtype.h"
#include "base/tensor.h"
#include "base/testing.h"

namespace weft::testing {

inline float rounded_to(DType dtype, float x) {
  if (dtype == DType::kBF16) return float(bf16(x));
  if (dtype == DType::kF16) return float(f16(x));
  return x;
}
// Largest error of storing x in `dtype`: half an ulp, f16 also of its subnormals.
inline double storage_error(DType dtype, double x) {
  if (dtype == DType::kBF16) return std::abs(x) * 0x1p-8;
  if (dtype == DType::kF16) return std::abs(x) * 0x1p-11 + 0x1p-25;
  return 0;
}
// Normal numbers of deviation `scale` that `dtype` holds, the same for the same seed.
inline std::vector<float> random_floats(DType dtype, i64 count, u32 seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = rounded_to(dtype, normal(random));
  return values;
}

// An error where `found` is farther than `most` from `expected`, or NaN.
inline Status expect_near(i64 row, i64 column, double found, double expected, double most) {
  if (std::abs(found - expected) <= most) return {};
  return error(Code::kAborted, "row {}, column {}: {}, expected {} within {}", row, column, found, expected, most);
}

// Types of two tensors that go together.
struct FloatTypes {
  DType from, to;
};
inline constexpr FloatTypes kFloatTypes[] = {{DType::kBF16, DType::kBF16},
                                             {DType::kF16, DType::kF16},
                                             {DType::kF32, DType::kF32},
                                             {DType::kF32, DType::kBF16},
                                             {DType::kF32, DType::kF16}};
// Elements between rows and before the first: all of them aligned for 16-byte accesses, then rows, then none.
struct Place {
  i64 pad, shift;
};
inline constexpr Place kPlaces[] = {{0, 0}, {8, 8}, {1, 0}, {0, 1}};
inline std::string describe(FloatTypes types, Place place) {
  return fmt::format("{} to {}, pad {} shift {}", dtype_name(types.from), dtype_name(types.to), place.pad, place.shift);
}

// rows x columns of a plain type in `Memory`, rows `pad` elements further apart than they need, the first `shift`
// elements behind a multiple of 256 bytes. It notices writes beside its rows.
template <class Memory>
class TestMatrix {
 public:
  static Result<TestMatrix> create(DType dtype, i64 rows, i64 columns, i64 pad = 0, i64 shift = 0) {
    const i64 size = dtype_layout(dtype).bytes, stride = (columns + pad) * size;
    TestMatrix matrix;
    matrix.bytes_ = size_t(shift * size + rows * stride + 64);
    WEFT_ASSIGN(matrix.memory_, Memory::create(matrix.bytes_));
    matrix.view_ = TensorView::dense(matrix.memory_.data() + shift * size, dtype, {rows, columns}, DeviceKind::kCuda);
    matrix.view_.byte_strides[0] = stride;
    matrix.shift_bytes_ = shift * size;
    WEFT_TRY(matrix.clear());
    return Result(std::move(matrix));
  }
  const TensorView& view() const { return view_; }
  // The same elements as a vector or a tensor; only where rows are dense.
  TensorView as(const Shape& shape) const {
    return TensorView::dense(view_.data, view_.dtype, shape, DeviceKind::kCuda);
  }
  // All bytes 0xa5 (as floats small and harmless), those beside the rows too.
  Status clear() const { return memory_.write(std::vector<std::byte>(bytes_, std::byte(kEmpty))); }

  // values [rows * columns], converted to the type; integers as they are.
  template <class T>
  Status upload(const std::vector<T>& values) const {
    std::vector<std::byte> bytes(bytes_, std::byte(kEmpty));
    const i64 columns = view_.dim(1);
    for (i64 i = 0; i < view_.shape.elements(); ++i) {
      std::byte* at = bytes.data() + shift_bytes_ + i / columns * view_.byte_strides[0];
      put(at, i % columns, values[size_t(i)]);
    }
    return memory_.write(bytes);
  }
  // The bytes of all rows, without what lies beside them. Errors: kAborted if that was written to.
  Result<std::vector<std::byte>> bytes() const {
    std::vector<std::byte> all(bytes_), rows;
    WEFT_TRY(memory_.read(all));
    const i64 row_bytes = dtype_bytes(view_.dtype, view_.dim(1)), stride = view_.byte_strides[0];
    for (i64 i = 0; i < i64(all.size()); ++i) {
      const i64 inside = i - shift_bytes_;
      if (inside >= 0 && inside < view_.dim(0) * stride && inside % stride < row_bytes) {
        rows.push_back(all[size_t(i)]);
      } else if (all[size_t(i)] != std::byte(kEmpty)) {
        return error(Code::kAborted, "byte {} beside {} was written", inside, view_.describe());
      }
    }
    return rows;
  }
  Result<std::vector<float>> floats() const {
    WEFT_ASSIGN(const std::vector<std::byte> raw, bytes());
    std::vector<float> values(static_cast<size_t>(view_.shape.elements()));
    for (size_t i = 0; i < values.size(); ++i) {
      if (view_.dtype == DType::kF32) values[i] = get<float>(raw, i);
      if (view_.dtype == DType::kBF16) values[i] = float(get<bf16>(raw, i));
      if (view_.dtype == DType::kF16) values[i] = float(get<f16>(raw, i));
    }
    return values;
  }
  template <class T>
  static T get(const std::vector<std::byte>& raw, size_t i) {
    T value;
    std::memcpy(&value, raw.data() + i * sizeof(T), sizeof(T));
    return value;
  }

 private:
  static constexpr u8 kEmpty = 0xa5;
  template <class T>
  void put(std::byte* row, i64 i, T value) const {
    const auto store = [&](auto stored) { std::memcpy(row + i * i64(sizeof(stored)), &stored, sizeof(stored)); };
    if (view_.dtype == DType::kF32) return store(float(value));
    if (view_.dtype == DType::kBF16) return store(bf16(float(value)));
    if (view_.dtype == DType::kF16) return store(f16(float(value)));
    if (view_.dtype == DType::kI32) return store(i32(value));
    store(u8(value));
  }
  Memory memory_;
  size_t bytes_ = 0;
  TensorView view_;
  i64 shift_bytes_ = 0;
};

// Sets up and calls twice: the outputs must have the same bits.
template <class Matrix>
Status call_twice(const std::function<Status()>& set_up, const std::function<Status(int)>& call,
                  const std::vector<const Matrix*>& outputs) {
  std::vector<std::vector<std::byte>> first;
  for (int run = 0; run < 2; ++run) {
    WEFT_TRY(set_up());
    WEFT_TRY(call(run));
    for (size_t i = 0; i < outputs.size(); ++i) {
      WEFT_ASSIGN(std::vector<std::byte> bytes, outputs[i]->bytes());
      if (run == 0)
        first.push_back(std::move(bytes));
      else if (bytes != first[i])
        return error(Code::kAborted, "output {} differs the second time", i);
    }
  }
  return {};
}

}  // namespace weft::testing
