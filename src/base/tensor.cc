#include "base/tensor.h"

namespace weft {

std::string Shape::to_string() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string(dims_[size_t(i)]);
  return text + "]";
}

TensorView TensorView::dense(void* data, DType dtype, Shape shape, DeviceKind device) {
  TensorView view{static_cast<std::byte*>(data), dtype, device, shape, {}};
  i64 count = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    view.byte_strides[size_t(i)] = i == shape.rank() - 1 ? dtype_layout(dtype).bytes : dtype_bytes(dtype, count);
    count *= shape[i];
  }
  return view;
}

bool TensorView::is_dense() const {
  return byte_strides == dense(data, dtype, shape, device).byte_strides;
}

TensorView TensorView::rows(i64 begin, i64 end) const {
  WEFT_CHECK(0 <= begin && begin <= end && end <= shape[0], begin, end, shape[0]);
  TensorView view = *this;
  view.data += begin * byte_strides[0];
  view.shape[0] = end - begin;
  return view;
}

std::string TensorView::describe() const {
  return std::string(dtype_name(dtype)) + " " + shape.to_string();
}

Status expect_tensor(const char* tensor, const TensorView& view, DType dtype, const Shape& shape) {
  bool same = view.dtype == dtype && view.shape.rank() == shape.rank();
  for (int i = 0; same && i < shape.rank(); ++i) same = shape[i] < 0 || shape[i] == view.shape[i];
  if (same) return {};
  return error(Code::kInvalidArgument, "{}: expected {} {}, found {}", tensor, dtype_name(dtype), shape.to_string(),
               view.describe());
}

}  // namespace weft
