// Tensors of other libraries (torch, numpy, jax, anything with __dlpack__) as views.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>
#include <vector>

#include "base/tensor.h"

namespace weft::python {

// The tensors of one call of `op` on `device`. Keeps them alive; to be made and destroyed with the GIL held.
// What is refused throws StatusError naming the argument: no tensor, the wrong device, a type that nothing here
// handles, an innermost dimension with gaps, memory that may not be written.
class Tensors {
 public:
  Tensors(const char* op, DeviceKind device) : op_(op), device_(device) {}

  // None gives a view without memory. Unsigned 32-bit elements count as i32, every 8-bit type as u8.
  TensorView input(const char* name, nanobind::handle tensor);
  TensorView output(const char* name, nanobind::handle tensor);
  // One u32; null for None.
  const u32* number(const char* name, nanobind::handle tensor);

 private:
  using Array = nanobind::ndarray<nanobind::ro>;
  template <class T>
  Array import(const char* name, nanobind::handle tensor) const;
  TensorView view(const char* name, const Array& array, bool bf16) const;
  TensorView keep(const char* name, Array array, nanobind::handle tensor);
  std::string argument(const char* name) const { return std::string(op_) + ": " + name; }

  const char* const op_;
  const DeviceKind device_;
  std::vector<Array> kept_;
};

}  // namespace weft::python
