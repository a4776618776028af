// What the GPU tests of operators share: matrices in device memory that notice writes beside them, and repeated runs.
#pragma once
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "base/dtype.h"
#include "base/tensor.h"
#include "device/cuda/testing.cuh"

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

// rows x columns of a plain type on the current device, rows `pad` elements further apart than they need, the first
// `shift` elements behind a multiple of 256 bytes.
class CudaMatrix {
 public:
  static Result<CudaMatrix> create(DType dtype, i64 rows, i64 columns, i64 pad = 0, i64 shift = 0) {
    const i64 size = dtype_layout(dtype).bytes, stride = (columns + pad) * size;
    CudaMatrix matrix;
    WEFT_ASSIGN(matrix.storage_, DeviceBuffer::create(size_t(shift * size + rows * stride + 64)));
    matrix.view_ =
        TensorView::dense(matrix.storage_.as<std::byte>() + shift * size, dtype, {rows, columns}, DeviceKind::kCuda);
    matrix.view_.byte_strides[0] = stride;
    matrix.shift_bytes_ = shift * size;
    WEFT_TRY(matrix.clear());
    return std::move(matrix);
  }
  const TensorView& view() const { return view_; }
  // The same elements as a vector or a tensor; only where rows are dense.
  TensorView as(const Shape& shape) const {
    return TensorView::dense(view_.data, view_.dtype, shape, DeviceKind::kCuda);
  }
  // All bytes 0xa5 (as floats small and harmless), those beside the rows too.
  Status clear() const {
    WEFT_CUDA_TRY(cudaMemset(storage_.data(), kEmpty, storage_.bytes()));
    return settle();
  }

  // values [rows * columns], converted to the type; integers as they are.
  template <class T>
  Status upload(const std::vector<T>& values) const {
    std::vector<std::byte> bytes(storage_.bytes(), std::byte(kEmpty));
    const i64 columns = view_.dim(1);
    for (i64 i = 0; i < view_.shape.elements(); ++i) {
      std::byte* at = bytes.data() + shift_bytes_ + i / columns * view_.byte_strides[0];
      put(at, i % columns, values[size_t(i)]);
    }
    WEFT_CUDA_TRY(cudaMemcpy(storage_.data(), bytes.data(), bytes.size(), cudaMemcpyDefault));
    return settle();
  }
  // The bytes of all rows, without what lies beside them. Errors: kAborted if that was written to.
  Result<std::vector<std::byte>> bytes() const {
    std::vector<std::byte> all(storage_.bytes()), rows;
    WEFT_CUDA_TRY(cudaMemcpy(all.data(), storage_.data(), all.size(), cudaMemcpyDefault));
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
  // The default stream's copies and fills may still be under way; the tests' streams do not wait for it.
  static Status settle() { return cuda_status(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }
  template <class T>
  void put(std::byte* row, i64 i, T value) const {
    const auto store = [&](auto stored) { std::memcpy(row + i * i64(sizeof(stored)), &stored, sizeof(stored)); };
    if (view_.dtype == DType::kF32) return store(float(value));
    if (view_.dtype == DType::kBF16) return store(bf16(float(value)));
    if (view_.dtype == DType::kF16) return store(f16(float(value)));
    if (view_.dtype == DType::kI32) return store(i32(value));
    store(u8(value));
  }
  DeviceBuffer storage_;
  TensorView view_;
  i64 shift_bytes_ = 0;
};

// Sets up and calls twice, the second time out of a captured graph: the outputs must have the same bits.
inline Status run_and_repeat(cudaStream_t stream, const std::function<Status()>& set_up,
                             const std::function<Status()>& call, const std::vector<const CudaMatrix*>& outputs) {
  std::vector<std::vector<std::byte>> first;
  for (int run = 0; run < 2; ++run) {
    WEFT_TRY(set_up());
    if (run == 0) {
      WEFT_TRY(call());
    } else {
      WEFT_ASSIGN(const CudaGraph graph, capture_graph(stream, call));
      WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    }
    WEFT_CUDA_TRY(cudaStreamSynchronize(stream));
    for (size_t i = 0; i < outputs.size(); ++i) {
      WEFT_ASSIGN(std::vector<std::byte> bytes, outputs[i]->bytes());
      if (run == 0)
        first.push_back(std::move(bytes));
      else if (bytes != first[i])
        return error(Code::kAborted, "output {} differs in the graph", i);
    }
  }
  return {};
}

}  // namespace weft::testing
