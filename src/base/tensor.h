// TensorView: a typed, strided window on memory that somebody else owns.
#pragma once
#include <array>
#include <initializer_list>
#include <span>
#include <string>

#include "base/check.h"
#include "base/dtype.h"
#include "base/status.h"

namespace weft {

enum class DeviceKind : u8 { kCpu, kCuda };

// Dimensions of a tensor, outermost first; at most kMaxRank of them.
class Shape {
 public:
  static constexpr int kMaxRank = 5;
  Shape() = default;
  Shape(std::initializer_list<i64> dims) : Shape(std::span<const i64>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const i64> dims) : rank_(int(dims.size())) {
    WEFT_CHECK(dims.size() <= kMaxRank, dims.size());
    for (int i = 0; i < rank_; ++i) dims_[size_t(i)] = dims[size_t(i)];
  }
  int rank() const { return rank_; }
  i64 operator[](int i) const { return dims_[size_t(i)]; }
  i64& operator[](int i) { return dims_[size_t(i)]; }
  i64 elements() const {
    i64 n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[size_t(i)];
    return n;
  }
  bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if (dims_[size_t(i)] != other.dims_[size_t(i)]) return false;
    return true;
  }
  std::string to_string() const;  // "[2, 576]"

 private:
  std::array<i64, kMaxRank> dims_{};
  int rank_ = 0;
};

// Never owns. Strides count bytes, so that quantised rows and row-strided slices need no special case;
// the innermost dimension is always dense.
struct TensorView {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;
  DeviceKind device = DeviceKind::kCpu;
  Shape shape;
  std::array<i64, Shape::kMaxRank> byte_strides{};

  // A dense row-major view.
  static TensorView dense(void* data, DType dtype, Shape shape, DeviceKind device = DeviceKind::kCpu);

  i64 dim(int i) const { return shape[i]; }
  bool is_dense() const;
  // The typed address of row `i` of the first dimension. T must have the size of the element.
  template <class T>
  T* row(i64 i) const {
    return reinterpret_cast<T*>(data + i * byte_strides[0]);
  }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
  // Rows [begin, end) of the first dimension.
  TensorView rows(i64 begin, i64 end) const;
  std::string describe() const;  // "f32 [2, 576]"
};

// An error that names `tensor`, what was expected and what was found, unless type and shape match;
// -1 in `shape` matches any extent.
Status expect_tensor(const char* tensor, const TensorView& view, DType dtype, const Shape& shape);

// Part `index` of [0, n) cut into `parts` runs whose lengths differ by at most one, longer ones first.
struct Range {
  i64 begin = 0, end = 0;
  i64 size() const { return end - begin; }
};
inline Range split_range(i64 n, int parts, int index) {
  const i64 base = n / parts, extra = n % parts;
  const i64 begin = index * base + (index < extra ? index : extra);
  return {begin, begin + base + (index < extra ? 1 : 0)};
}

}  // namespace weft
