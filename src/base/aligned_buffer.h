// AlignedBuffer: owned, zeroed memory on cache-line borders for CPU tensors.
#pragma once
#include <cstddef>
#include <span>
#include <utility>

#include "base/tensor.h"

namespace weft {

class AlignedBuffer {
 public:
  static constexpr size_t kAlignment = 64;
  AlignedBuffer() = default;
  // Fresh anonymous pages: zero, and not resident before they are touched.
  explicit AlignedBuffer(size_t bytes);
  ~AlignedBuffer();
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  std::byte* data() const { return data_; }
  size_t size() const { return bytes_; }
  std::span<std::byte> span() const { return {data_, bytes_}; }
  TensorView view(DType dtype, Shape shape) const {
    WEFT_CHECK(size_t(dtype_bytes(dtype, shape.elements())) <= bytes_, shape.to_string(), bytes_);
    return TensorView::dense(data_, dtype, shape);
  }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// A buffer for `shape` elements of `dtype`, with its dense view.
struct Tensor {
  AlignedBuffer storage;
  TensorView view;
  static Tensor zeros(DType dtype, Shape shape) {
    Tensor tensor{AlignedBuffer(size_t(dtype_bytes(dtype, shape.elements()))), {}};
    tensor.view = tensor.storage.view(dtype, shape);
    return tensor;
  }
};

}  // namespace weft
