#include "python/tensors.h"

#include <optional>

#include "python/errors.h"

namespace weft::python {
namespace nb = nanobind;

namespace {

std::string text_of(nb::handle value) {
  return nb::str(value).c_str();  // Python's str()
}

// "torch.bfloat16" and "bfloat16" are the same type.
std::string dtype_text(nb::handle tensor) {
  if (!nb::hasattr(tensor, "dtype")) return {};
  const std::string text = text_of(nb::object(tensor.attr("dtype")));
  const size_t dot = text.rfind('.');
  return dot == std::string::npos ? text : text.substr(dot + 1);
}

// What nanobind is to import. Of torch a capsule of its C function: __dlpack__ is Python there, takes several times as
// long, and may wait for streams.
nb::object exported(nb::handle tensor) {
  const nb::object torch = nb::steal(PyImport_GetModule(nb::str("torch").ptr()));
  if (torch.is_valid() && nb::isinstance(tensor, torch.attr("Tensor"))) {
    return torch.attr("utils").attr("dlpack").attr("to_dlpack")(tensor);
  }
  return nb::borrow(tensor);
}

// The same bytes as unsigned integers, for the 8- and 16-bit types that a library does not export: numpy's of
// ml_dtypes, torch's fp8 before DLPack knew them.
nb::object as_integers(nb::handle tensor) {
  const char* bits = nb::cast<int>(tensor.attr("dtype").attr("itemsize")) == 1 ? "uint8" : "uint16";
  const std::string module = text_of(nb::object(tensor.type().attr("__module__")));
  if (module.rfind("torch", 0) == 0) return tensor.attr("view")(nb::module_::import_("torch").attr(bits));
  return tensor.attr("view")(bits);
}

// Why a tensor cannot be imported, in the words of its own library.
std::string refusal(nb::handle tensor) {
  const std::string type = text_of(nb::object(tensor.type().attr("__name__")));
  if (!nb::hasattr(tensor, "__dlpack__")) return "expected a tensor, found " + type;
  try {
    tensor.attr("__dlpack__")();
  } catch (const nb::python_error& fault) {
    return text_of(fault.value());
  }
  return type + " of " + dtype_text(tensor) + " may not be written, or is of a kind that is not supported";
}

std::optional<DType> dtype_of(const nb::dlpack::dtype& type) {
  using Kind = nb::dlpack::dtype_code;
  if (type.lanes != 1) return std::nullopt;
  if (type.bits == 8) return DType::kU8;
  switch (Kind(type.code)) {
    case Kind::Bfloat: return type.bits == 16 ? std::optional(DType::kBF16) : std::nullopt;
    case Kind::Float:
      if (type.bits == 16) return DType::kF16;
      return type.bits == 32 ? std::optional(DType::kF32) : std::nullopt;
    case Kind::Int:
    case Kind::UInt:
      if (type.bits == 32) return DType::kI32;
      return type.bits == 64 ? std::optional(DType::kI64) : std::nullopt;
    default: return std::nullopt;
  }
}

std::string device_text(int type, int id) {
  if (type == nb::device::cpu::value || type == nb::device::cuda_host::value) return "the CPU";
  if (type == nb::device::cuda::value) return fmt::format("cuda:{}", id);
  return fmt::format("a device of DLPack's type {}", type);
}

}  // namespace

template <class T>
Tensors::Array Tensors::import(const char* name, nb::handle tensor) const {
  T array;
  std::string why;
  const auto import_as = [&](nb::handle form) {
    try {
      return nb::try_cast(exported(form), array, false);
    } catch (const nb::python_error& fault) {  // torch's
      why = text_of(fault.value());
      return false;
    }
  };
  if (import_as(tensor)) return Array(array);
  const std::string dtype = dtype_text(tensor);
  const bool exotic = dtype == "bfloat16" || dtype.rfind("float8", 0) == 0;
  if (exotic && import_as(as_integers(tensor))) return Array(array);
  throw StatusError(error(Code::kInvalidArgument, "{}: {}", argument(name), why.empty() ? refusal(tensor) : why));
}

TensorView Tensors::view(const char* name, const Array& array, bool bf16) const {
  const int type = array.device_type();
  const bool host = type == nb::device::cpu::value || type == nb::device::cuda_host::value;
  if (host != (device_ == DeviceKind::kCpu)) {
    throw StatusError(error(Code::kInvalidArgument, "{}: expected a tensor on {}, found one on {}", argument(name),
                            device_ == DeviceKind::kCpu ? "the CPU" : "this rank's GPU",
                            device_text(type, array.device_id())));
  }
  const std::optional<DType> dtype = bf16 ? DType::kBF16 : dtype_of(array.dtype());
  if (!dtype) {
    throw StatusError(error(Code::kInvalidArgument, "{}: {}-bit elements of DLPack's kind {} are not supported",
                            argument(name), array.dtype().bits, array.dtype().code));
  }
  if (array.ndim() > size_t(Shape::kMaxRank)) {
    throw StatusError(error(Code::kInvalidArgument, "{}: {} dimensions are too many", argument(name), array.ndim()));
  }
  const Shape shape(std::span(array.shape_ptr(), array.ndim()));
  auto* data = static_cast<std::byte*>(const_cast<void*>(array.data_handle())) + array.byte_offset();
  TensorView view = TensorView::dense(data, *dtype, shape, device_);
  if (shape.elements() == 0) return view;
  const i64 bytes = dtype_layout(*dtype).bytes;
  for (int i = 0; i < shape.rank(); ++i) {
    // The stride of a single row says nothing.
    if (shape[i] > 1) view.byte_strides[size_t(i)] = array.stride(size_t(i)) * bytes;
  }
  const int last = shape.rank() - 1;
  if (last >= 0 && shape[last] > 1 && array.stride(size_t(last)) != 1) {
    throw StatusError(error(Code::kInvalidArgument, "{}: the innermost dimension of {} has stride {}, expected 1",
                            argument(name), view.describe(), array.stride(size_t(last))));
  }
  return view;
}

TensorView Tensors::keep(const char* name, Array array, nb::handle tensor) {
  const bool bf16 = array.dtype().bits == 16 && array.dtype().code == uint8_t(nb::dlpack::dtype_code::UInt) &&
                    dtype_text(tensor) == "bfloat16";
  const TensorView made = view(name, array, bf16);
  kept_.push_back(std::move(array));
  return made;
}

TensorView Tensors::input(const char* name, nb::handle tensor) {
  if (tensor.is_none()) return {};
  return keep(name, import <Array>(name, tensor), tensor);
}

TensorView Tensors::output(const char* name, nb::handle tensor) {
  if (tensor.is_none()) return {};
  return keep(name, import <nb::ndarray<>>(name, tensor), tensor);
}

const u32* Tensors::number(const char* name, nb::handle tensor) {
  if (tensor.is_none()) return nullptr;
  const TensorView one = input(name, tensor);
  if (one.dtype == DType::kI32 && one.shape.elements() == 1) return one.as<u32>();
  throw StatusError(error(Code::kInvalidArgument, "{}: expected one u32, found {}", argument(name), one.describe()));
}

}  // namespace weft::python
