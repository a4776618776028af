// AlignedBuffer: owned, zeroed memory on cache-line borders for tensors, of the CPU unless its maker says otherwise.
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
  // Takes over memory of `device` that `release` gives back. device/allocate.h makes such buffers.
  using Release = void (*)(std::byte* data);
  AlignedBuffer(DeviceKind device, std::byte* data, size_t bytes, Release release)
      : data_(data), bytes_(bytes), device_(device), release_(release) {}
  ~AlignedBuffer();
  AlignedBuffer(AlignedBuffer&& other) noexcept { *this = std::move(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_);
    std::swap(release_, other.release_);
    return *this;
  }
  DeviceKind device() const { return device_; }
  std::byte* data() const { return data_; }
  size_t size() const { return bytes_; }
  std::span<std::byte> span() const { return {data_, bytes_}; }
  TensorView view(DType dtype, Shape shape) const {
    WEFT_CHECK(size_t(dtype_bytes(dtype, shape.elements())) <= bytes_, shape.to_string(), bytes_);
    return TensorView::dense(data_, dtype, shape, device_);
  }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  DeviceKind device_ = DeviceKind::kCpu;
  Release release_ = nullptr;  // null: pages of the CPU
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
